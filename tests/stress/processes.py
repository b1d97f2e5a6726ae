"""Processes that a case starts: their number, their memory, and their end (Linux only)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
# How long a process may take to end after its parent.
_POLL_S = 0.05


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends."""
    # Otherwise init adopts them, and they cannot be distinguished from other programs.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Returns the process ids of all children, their children, and so on, zombies excluded."""
    pids = []
    for child in _children(pid):
        if not _is_zombie(child):
            pids.append(child)
        pids += descendants(child)
    return pids


def memory_bytes(pid: int) -> int:
    """Returns the resident memory of a process; 0 if it has ended."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0


def command_line(pid: int) -> str:
    """Returns the start of a process's command line."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b" ".join(words).decode("utf-8", "replace")[:200].strip()
    return "(ended)"


def kill(pids: Iterable[int]) -> None:
    """Sends SIGKILL to processes."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def survivors(pid: int, *, within_s: float) -> list[int]:
    """Waits until a process has no descendants; returns those that remain after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        reap()
        pids = descendants(pid)
        if not pids or time.monotonic() > deadline:
            return pids
        time.sleep(_POLL_S)


def end_descendants(pid: int) -> None:
    """Kills all descendants of a process and waits for their end."""
    while pids := descendants(pid):
        kill(pids)
        reap()
        time.sleep(_POLL_S)


def reap() -> None:
    """Removes this process's children that have ended from the process table."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait_for(
    pid: int, *, timeout_s: float, limit_bytes: int, tick: Callable[[], None] | None = None
) -> tuple[int | None, int, float]:
    """Waits for a child.

    Args:
        pid: The child.
        timeout_s: When to stop waiting.
        limit_bytes: Waiting also stops when it or a descendant has more resident memory.
        tick: Called some ten times a second.
    Returns:
        Wait status, or None if it still runs; the peak memory of the child and its descendants in
        bytes; CPU seconds of the child.
    """
    deadline = time.monotonic() + timeout_s
    peak = 0
    pause = 0.002
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            # Linux counts in KiB, and includes the descendants that the child waited for.
            return status, max(peak, usage.ru_maxrss * 1024), usage.ru_utime + usage.ru_stime
        if tick is not None:
            tick()
        # Short commands end in milliseconds; looking at /proc all the time would slow long ones.
        pause = min(pause * 1.5, 0.1)
        if pause >= 0.1:
            peak = max([peak, *map(memory_bytes, [pid, *descendants(pid)])])
        if time.monotonic() > deadline or peak > limit_bytes:
            return None, peak, 0.0
        time.sleep(pause)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def _is_zombie(pid: int) -> bool:
    with suppress(OSError, IndexError):
        # The name in parentheses may contain anything, also parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True
