"""A child ends when its parent is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from edgedistil.core.processes import ending_with_this_process

PARENT = """
import subprocess, sys, time
from edgedistil.core.processes import ending_with_this_process
child = subprocess.Popen(ending_with_this_process(["/bin/sleep", "61"]))
print(child.pid, flush=True)
time.sleep(60)
"""


def test_the_command_runs_with_its_arguments() -> None:
    command = ending_with_this_process(["/bin/sh", "-c", 'echo "$1"; exit 7', "sh", "a; $(b)"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "a; $(b)\n")


def test_it_ends_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_for_program(pid, "sleep")
        parent.kill()
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    raise AssertionError("the child runs on")


def wait_for_program(pid: int, name: str) -> None:
    for _ in range(200):
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} did not start")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    # A zombie has ended; nothing in a container may collect it.
    return state != "Z"
