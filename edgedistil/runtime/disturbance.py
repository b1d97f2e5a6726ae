"""Decides from a runner's observations whether a series of timed calls was disturbed.

A disturbed series measures the machine's other work as well. Its figures are shown with a mark, and
no verdict comes from them (docs/measuring.md#disturbed-rows).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgedistil.runtime.protocol import AlternationResult, CaseTimes, Interference, Reply

# A single thread computes all the time: the rest of its time went to other programs.
_MAX_WALL_PER_CPU = 1.1
# A task that takes the core runs for milliseconds: one in five calls moves a p90.
_MAX_SWITCHES_PER_CALL = 0.2
# Timers and kernel threads interrupt any thread this often, which calls of 50 ms and more collect.
_USUAL_SWITCHES_PER_S = 10.0
# Same bound as for one thread, for the threads together: they wait for the last one.
_MAX_WAITING = 0.1
_MAX_STOLEN = 0.01
# Calls at one length do the same work; a tenth that takes half as long again was interrupted.
_MAX_P90_PER_MINIMUM = 1.5
# A machine that heats up or was cold changes over a series: the median then depends on its length.
_MAX_DRIFT = 0.15
# Tasks that run for moments on an idle machine: 0.05 to 0.15 in samples of 0.3 s.
_IDLE_LOAD = 0.25
# Thirds of 5 calls: the fewest that a median is taken of.
MIN_DRIFT_CALLS = 15
# In a pass over texts of all lengths, thirds differ by chance; those of 300 calls by about 5%.
_MIN_MIXED_DRIFT_CALLS = 900


@dataclass(frozen=True)
class TimedSeries:
    """One series of timed calls, with what the system did to it.

    Attributes:
        wall_ns: Duration of the series.
        cpu_ns: Processor time of the process in it.
        calls: Number of calls.
        threads: Threads of the session.
        interference: Counts of the system.
        samples_ns: Times of calls that do the same work, in order; empty where they do not.
    """

    wall_ns: int
    cpu_ns: int
    calls: int
    threads: int
    interference: Interference
    samples_ns: Sequence[int] = ()


def case_disturbances(
    case: CaseTimes, reply: Reply, *, threads: int, one_length: bool
) -> list[str]:
    """Returns why a case is disturbed; empty if it is not.

    Args:
        case: The timed calls.
        reply: Their reply, which has the load before them.
        threads: Threads of the session.
        one_length: Whether all inputs have the same length.
    """
    series = TimedSeries(
        wall_ns=case.wall_ns,
        cpu_ns=case.cpu_ns,
        calls=len(case.samples_ns),
        threads=threads,
        interference=case.interference,
        samples_ns=case.samples_ns if one_length else (),
    )
    reasons = [*series_disturbances(series), *_load_before(reply, threads)]
    # A pass has no minimum to compare with, and its drift needs many calls.
    if not one_length and len(case.samples_ns) >= _MIN_MIXED_DRIFT_CALLS:
        reasons += _drift_disturbances(case.samples_ns)
    return reasons


def turns_disturbances(result: AlternationResult, reply: Reply, *, threads: int) -> list[str]:
    """Returns why the blocks of two models that took turns are disturbed; empty if not."""
    calls = sum(len(block.first_ns) + len(block.second_ns) for block in result.blocks)
    series = TimedSeries(result.wall_ns, result.cpu_ns, calls, threads, result.interference)
    return [*series_disturbances(series), *_load_before(reply, threads)]


def series_disturbances(series: TimedSeries) -> list[str]:
    """Returns why a series of calls is disturbed; empty if it is not."""
    return [
        *_scheduling(series),
        *_virtual_machine(series),
        *_spread(series.samples_ns),
        *_drift_disturbances(series.samples_ns),
    ]


def _load_before(reply: Reply, threads: int) -> list[str]:
    return load_disturbances(reply.other_load, cores=reply.identity.cores, threads=threads)


def load_disturbances(load: float | None, *, cores: int | None, threads: int) -> list[str]:
    """Returns whether other tasks had the cores that the threads need.

    Args:
        load: Mean number of other runnable tasks before the calls; None if unknown.
        cores: Logical cores of the machine; None if unknown.
        threads: Threads of the session.
    """
    if cores is None or load is None or load <= max(0, cores - threads) + _IDLE_LOAD:
        return []
    return [f"other load before: {load:.1f} tasks on {cores} cores"]


# --- signs of other work -------------------------------------------------------------------------


def _scheduling(series: TimedSeries) -> Iterator[str]:
    """Yields signs that other tasks had the cores."""
    interference = series.interference
    # Threads that wait for each other have no processor time, so the rule is for one.
    if series.threads == 1 and series.wall_ns > _MAX_WALL_PER_CPU * series.cpu_ns:
        wall_per_cpu = series.wall_ns / max(series.cpu_ns, 1)
        yield f"{wall_per_cpu:.2f} times its processor time"
    switches = interference.involuntary_switches
    if switches is not None:
        usual = _USUAL_SWITCHES_PER_S * series.threads * series.wall_ns / 1e9
        if switches > max(_MAX_SWITCHES_PER_CALL * series.calls, usual):
            yield f"{switches / max(series.calls, 1):.1f} involuntary context switches a call"
    waiting = interference.waiting_ns
    if waiting is not None and series.threads > 1 and waiting > _MAX_WAITING * series.wall_ns:
        yield f"threads waited {waiting / series.wall_ns:.0%} of the time for a core"


def _virtual_machine(series: TimedSeries) -> Iterator[str]:
    """Yields signs that a hypervisor or a quota stopped the process."""
    stolen = series.interference.stolen_ns
    available_ns = max(series.wall_ns * series.threads, 1)
    if stolen is not None and stolen > _MAX_STOLEN * available_ns:
        yield f"{stolen / available_ns:.0%} stolen by the hypervisor"
    if series.interference.throttled_periods:
        yield f"stopped {series.interference.throttled_periods} times by a CPU quota"


def _spread(samples_ns: Sequence[int]) -> Iterator[str]:
    if not samples_ns:
        return
    ordered = sorted(samples_ns)
    p90_ns = ordered[math.ceil(0.9 * len(ordered)) - 1]
    if p90_ns > _MAX_P90_PER_MINIMUM * ordered[0]:
        yield f"p90 is {p90_ns / ordered[0]:.1f} times the fastest call"


def _drift_disturbances(samples_ns: Sequence[int]) -> Iterator[str]:
    change = drift(samples_ns)
    # Both directions: calls that become faster began before the machine was in a steady state.
    if change is not None and abs(change) > _MAX_DRIFT:
        word = "slower" if change > 0 else "faster"
        yield f"calls became {abs(change):.0%} {word} during the series"


def drift(samples: Sequence[float]) -> float | None:
    """Returns how much slower the last third is than the first; None with too few samples.

    Args:
        samples: Times in the order of the calls, any unit.
    """
    if len(samples) < MIN_DRIFT_CALLS:
        return None
    third = len(samples) // 3
    first, last = sorted(samples[:third]), sorted(samples[-third:])
    return last[third // 2] / first[third // 2] - 1
