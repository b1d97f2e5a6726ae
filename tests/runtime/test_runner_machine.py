"""What the runner reads of a machine: cores of two kinds, quotas, load; and its warm-up."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgedistil.runtime.protocol import RUNNER, Interference

runner = runpy.run_path(str(RUNNER))
# Names of the runner are looked up here when its functions run.
names = runner["rank_cores"].__globals__

Pretend = Callable[[Mapping[str, str]], None]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Puts files in the place of the kernel's; paths that are not in them do not exist."""

    def put(files: Mapping[str, str]) -> None:
        monkeypatch.setitem(names, "read_text", files.get)

    return put


def cores(capacities: Mapping[int, int], siblings: Mapping[int, str]) -> dict[str, str]:
    files = {}
    for number, capacity in capacities.items():
        files[f"/sys/devices/system/cpu/cpu{number}/cpu_capacity"] = str(capacity)
    for number, text in siblings.items():
        files[f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = text
    return files


RK3588 = cores({**dict.fromkeys(range(4), 414), **dict.fromkeys(range(4, 8), 1024)}, {})
FOUR_WITH_SMT = cores(dict.fromkeys(range(8), 1024), {n: f"{n % 4},{n % 4 + 4}" for n in range(8)})


@pytest.mark.parametrize(
    ("files", "allowed", "threads"),
    [
        (RK3588, range(8), 4),
        (RK3588, range(3), 3),  # the slow ones only
        (FOUR_WITH_SMT, range(8), 4),
        (FOUR_WITH_SMT, (0, 4), 1),  # two threads of one core
        ({}, range(6), 6),  # a machine that reports nothing
        (cores({0: 1024, 1: 996, 2: 1024, 3: 990}, {}), range(4), 4),  # clocks of equal cores
    ],
)
def test_all_threads_are_the_fast_physical_cores(
    files: dict[str, str],
    allowed: Any,
    threads: int,
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))
    assert runner["count_usable_threads"]() == threads


def test_without_capacities_the_highest_clock_decides(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = "/sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq"
    pretend({clock.format(0): "1800000", clock.format(1): "2400000", clock.format(2): "2400000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert runner["count_usable_threads"]() == 2


@pytest.mark.parametrize(
    ("files", "threads", "pinned"),
    [
        (RK3588, 1, [4]),
        (RK3588, 4, [4, 5, 6, 7]),
        (RK3588, 6, [0, 1, 4, 5, 6, 7]),
        (FOUR_WITH_SMT, 2, None),
        ({}, 2, None),
    ],
)
def test_threads_are_pinned_where_cores_are_unlike(
    files: dict[str, str],
    threads: int,
    pinned: list[int] | None,
    pretend: Pretend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_to: list[list[int]] = []
    pretend(files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: set_to.append(cores))
    assert runner["pin_to_fastest"](threads) == pinned
    assert set_to == ([] if pinned is None else [pinned])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be pinned")
def test_a_pinned_process_runs_there() -> None:
    """With the kernel's real call: the capacities alone are made up."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    code = (
        "import os, runpy\n"
        f"runner = runpy.run_path({str(RUNNER)!r})\n"
        f"files = {{'/sys/devices/system/cpu/cpu{first}/cpu_capacity': '400',\n"
        f"         '/sys/devices/system/cpu/cpu{second}/cpu_capacity': '1024'}}\n"
        "runner['rank_cores'].__globals__['read_text'] = files.get\n"
        "print(runner['pin_to_fastest'](1), os.sched_getaffinity(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"[{second}] {{{second}}}"


# --- quotas --------------------------------------------------------------------------------------

V2 = "/sys/fs/cgroup"
V1 = "/sys/fs/cgroup/cpu"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Folders of control groups that exist."""

    def exist(paths: list[str]) -> None:
        real = os.path.isdir
        monkeypatch.setattr(
            os.path,
            "isdir",
            lambda path: path in paths if str(path).startswith(V2) else real(path),
        )

    return exist


@pytest.mark.parametrize(
    ("files", "exist", "quota"),
    [
        # Version 2, in a service below a slice with the smaller quota.
        (
            {
                "/proc/self/cgroup": "0::/a.slice/b.service",
                f"{V2}/a.slice/cpu.max": "150000 100000",
                f"{V2}/a.slice/b.service/cpu.max": "400000 100000",
            },
            [V2, f"{V2}/a.slice", f"{V2}/a.slice/b.service"],
            1.5,
        ),
        ({"/proc/self/cgroup": "0::/", f"{V2}/cpu.max": "max 100000"}, [V2], None),
        # A container's own root; its path is the host's and does not exist here.
        (
            {"/proc/self/cgroup": "0::/docker/5e", f"{V2}/cpu.max": "50000 100000"},
            [V2],
            0.5,
        ),
        # Version 1.
        (
            {
                "/proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x",
                f"{V1}/x/cpu.cfs_quota_us": "250000",
                f"{V1}/x/cpu.cfs_period_us": "100000",
            },
            [V2, V1, f"{V1}/x"],
            2.5,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu:/",
                f"{V1}/cpu.cfs_quota_us": "-1",
                f"{V1}/cpu.cfs_period_us": "100000",
            },
            [V2, V1],
            None,
        ),
        ({}, [], None),
    ],
)
def test_quotas_of_all_groups_above_count(
    files: dict[str, str],
    exist: list[str],
    quota: float | None,
    pretend: Pretend,
    folders: Callable[[list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(files)
    folders(exist)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert runner["read_cpu_quota"]() == quota
    assert runner["count_usable_threads"]() == (64 if quota is None else max(1, int(quota)))


def test_stops_by_a_quota_are_counted_over_all_groups(
    pretend: Pretend, folders: Callable[[list[str]], None]
) -> None:
    stat = "nr_periods 9\nnr_throttled {}\nthrottled_usec 7"
    pretend(
        {
            "/proc/self/cgroup": "0::/x",
            f"{V2}/cpu.stat": stat.format(2),
            f"{V2}/x/cpu.stat": stat.format(3),
        }
    )
    folders([V2, f"{V2}/x"])
    assert runner["read_throttled_periods"]() == 5
    pretend({})
    assert runner["read_throttled_periods"]() is None


# --- what the system did -------------------------------------------------------------------------


def test_stolen_time_is_that_of_the_allowed_cores(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["cpu 1 1 1 1 1 1 1 900 0 0"]
    lines += [f"cpu{n} 5 5 5 5 5 5 5 {100 * n} 0 0" for n in range(1, 4)]
    pretend({"/proc/stat": "\n".join(lines)})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    assert runner["read_stolen_ns"]() == 400 * 10**9 // os.sysconf("SC_CLK_TCK")


def test_a_watch_counts_from_its_start() -> None:
    watch = runner["Watch"]()
    started = time.process_time_ns()
    while time.process_time_ns() - started < 20_000_000:
        pass
    counts = watch.stop()
    assert counts.pop("cpu_ns") >= 20_000_000
    assert set(counts) <= set(Interference.model_fields)
    assert all(value >= 0 for value in Interference(**counts).model_dump().values() if value)


def test_other_tasks_are_those_of_other_processes(pretend: Pretend) -> None:
    # Tasks of this test that run are ours; the list of threads is the kernel's.
    pretend({"/proc/loadavg": "0.20 0.18 0.12 9/80 11206"})
    assert runner["count_other_tasks"]() == 9, "no state of ours can be read here"
    pretend({})
    assert runner["count_other_tasks"]() is None


# --- warm-up -------------------------------------------------------------------------------------


def warm_up(calls: int, seconds: float) -> Any:
    return runner["WarmUp"](calls, seconds)


def test_a_warm_up_meets_both_minima() -> None:
    counted: list[int] = []
    started = time.perf_counter()
    warm = warm_up(3, 0.05)
    warm.run([(lambda _, feed: counted.append(feed), [1, 2])])
    assert time.perf_counter() - started >= 0.05 and len(counted) >= 3
    assert warm.other_load is None or warm.other_load >= 0
    slow: list[int] = []

    def call_slowly(_: None, feed: int) -> None:
        time.sleep(0.01)
        slow.append(feed)

    warm_up(3, 0.001).run([(call_slowly, [7])])
    assert slow == [7, 7, 7], "three calls, although the time is over"


def test_a_later_series_of_a_warm_process_needs_the_calls_only() -> None:
    counted: list[int] = []

    def call(_: None, feed: int) -> None:
        counted.append(feed)

    warm = warm_up(3, 0.05)
    warm.run([(call, [1])])
    counted.clear()
    warm.run([(call, [1])])
    assert len(counted) == 3
    # A governor lowers the clock in a pause.
    counted.clear()
    warm.last_call_ns -= 60_000_000
    started = time.perf_counter()
    warm.run([(call, [1])])
    assert time.perf_counter() - started >= 0.05


def test_no_warm_up_makes_no_call() -> None:
    warm_up(0, 0).run([(lambda *_: pytest.fail("it was called"), [1])])


def test_blocks_begin_with_an_untimed_call_and_models_alternate_in_order() -> None:
    calls: list[tuple[str, int]] = []

    def model(name: str) -> Any:
        return lambda _, feed: calls.append((name, feed)), [1, 2, 3]

    turns = runner["take_turns"](
        [model("a"), model("b")],
        blocks=2,
        calls_per_block=3,
        max_seconds=60,
        warm_up=warm_up(0, 0),
    )
    block = [3, 1, 2, 3]
    assert calls == [(name, feed) for name in "abba" for feed in block]
    assert [[len(samples) for samples in block] for block in turns["blocks"]] == [[3, 3], [3, 3]]
    assert turns["wall_ns"] > 0 and turns["cpu_ns"] > 0


def test_turns_end_after_their_time_but_balanced() -> None:
    slow = (lambda *_: time.sleep(0.002), [1])
    turns = runner["take_turns"](
        [slow, slow], blocks=100, calls_per_block=2, max_seconds=0.001, warm_up=warm_up(0, 0)
    )
    assert len(turns["blocks"]) == 2, "each was first once"
