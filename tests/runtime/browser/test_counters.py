"""Counts of a page's processes, also of processes that end while they are read."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from edgedistil.runtime.browser.counters import _read_process


def test_this_process_has_all_counts() -> None:
    counts = _read_process(os.getpid())
    names = {"cpu_ns", "waiting_ns", "involuntary_switches", "minor", "major", "resident", "peak"}
    assert counts.keys() == names
    assert 0 < counts["resident"] <= counts["peak"]


def test_a_process_that_ended_has_no_counts() -> None:
    """Until it is waited for, its status file is there, without memory."""
    process = subprocess.Popen(["true"])
    status = Path(f"/proc/{process.pid}/status")
    while "zombie" not in status.read_text():
        time.sleep(0.01)
    assert _read_process(process.pid) == {}
    process.wait()
    assert _read_process(process.pid) == {}
