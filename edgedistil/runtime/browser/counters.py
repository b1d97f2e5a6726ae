"""What the system did to a page: processor time, waiting, faults and memory of its processes."""

from __future__ import annotations

import contextlib
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistil.runtime.browser.chromium import group_processes
from edgedistil.runtime.protocol import RUNNER

# Chromium's processes that run pages; one of them has ours, and the others wait.
_PAGES = b"--type=renderer"


class PageCounters:
    """Counts of the processes of one browser that run pages.

    Attributes:
        group: Process group of the browser.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        # Stolen time, throttling and other tasks are about the machine: the runner reads them.
        functions = runpy.run_path(str(RUNNER))
        self._stolen_ns: Callable[[], int | None] = functions["read_stolen_ns"]
        self._throttled: Callable[[], int | None] = functions["read_throttled_periods"]

    def read(self) -> dict[str, int | None]:
        """Returns all counts; None for one that the system does not report."""
        pages = [_read_process(number) for number in self._pages()]
        counts: dict[str, int | None] = {
            name: _sum([page.get(name) for page in pages])
            for name in ("cpu_ns", "waiting_ns", "involuntary_switches", "minor", "major")
        }
        # The page of the job is the largest one.
        largest = max(pages, key=lambda page: page.get("resident") or 0, default={})
        return {
            **counts,
            "resident": largest.get("resident"),
            "peak": largest.get("peak"),
            "stolen_ns": self._stolen_ns(),
            "throttled_periods": self._throttled(),
        }

    def other_tasks(self) -> int | None:
        """Returns the number of runnable tasks besides the browser's and this process's."""
        fields = Path("/proc/loadavg").read_text().split()
        runnable = fields[3].partition("/")[0]
        if not runnable.isdigit():
            return None
        own = [*group_processes(self.group), os.getpid()]
        return max(0, int(runnable) - sum(_running_threads(number) for number in own))

    def _pages(self) -> list[int]:
        pages = []
        for number in group_processes(self.group):
            with contextlib.suppress(OSError):
                if _PAGES in Path(f"/proc/{number}/cmdline").read_bytes():
                    pages.append(number)
        return pages


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _read_process(number: int) -> dict[str, int]:
    """Returns the counts of one process; empty if it ended, also while it is read."""
    folder = Path(f"/proc/{number}")
    counts: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        times = [_schedule(task) for task in (folder / "task").iterdir()]
        counts["cpu_ns"] = sum(time[0] for time in times)
        counts["waiting_ns"] = sum(time[1] for time in times)
        switches = [_status(task / "status") for task in (folder / "task").iterdir()]
        counts["involuntary_switches"] = sum(
            status.get("nonvoluntary_ctxt_switches", 0) for status in switches
        )
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        counts["minor"], counts["major"] = int(fields[7]), int(fields[9])
        # A process that is ending has a status without memory.
        status = _status(folder / "status")
        if "VmRSS" not in status:
            return {}
        counts["resident"], counts["peak"] = status["VmRSS"] * 1024, status["VmHWM"] * 1024
        return counts
    return {}


def _schedule(task: Path) -> tuple[int, int]:
    """Returns nanoseconds of a thread on a core and of waiting for one; zeros if it ended."""
    with contextlib.suppress(OSError, ValueError):
        on_core, waiting, _slices = (task / "schedstat").read_text().split()
        return int(on_core), int(waiting)
    return 0, 0


def _status(path: Path) -> dict[str, int]:
    """Returns the lines of a status file with a number; empty if the thread ended."""
    values: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                values[name] = int(words[0])
    return values


def _running_threads(number: int) -> int:
    running = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{number}/task").iterdir():
            with contextlib.suppress(OSError):
                state: list[Any] = (task / "stat").read_text().rpartition(")")[2].split()
                running += state[:1] == ["R"]
    return running
