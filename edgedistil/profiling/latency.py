"""Statistics of timed calls: observed percentiles, drift, and the interval of a speed ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from edgedistil.core.profile_records import AtLeast, LatencyStats, Percentile
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.runtime.disturbance import MIN_DRIFT_CALLS, drift

# Level of the intervals of ratios and of the one-sided bounds of percentiles.
CONFIDENCE = 0.95
# Fewest samples of a median.
_MIN_SAMPLES = 5
# Calls beyond a percentile that are expected among those that it needs. With three, 95% of series
# have one there: 0.9 ** 30 = 0.042, 0.95 ** 60 = 0.046, 0.99 ** 300 = 0.049.
_EXPECTED_BEYOND = 3


def summarize(samples_ns: Sequence[int]) -> LatencyStats | NotMeasured:
    """Returns percentiles, drift and the samples, in milliseconds.

    Args:
        samples_ns: Duration of every steady call, in order.
    """
    if not samples_ns:
        return NotMeasured(not_measured="no call was timed")
    samples_ms = [nanoseconds / 1e6 for nanoseconds in samples_ns]
    return LatencyStats(
        calls=len(samples_ms),
        window_s=sum(samples_ms) / 1000,
        p50_ms=median_of(samples_ms),
        p90_ms=percentile(samples_ms, 0.90),
        p95_ms=percentile(samples_ms, 0.95),
        p99_ms=percentile(samples_ms, 0.99),
        min_ms=min(samples_ms),
        mean_ms=sum(samples_ms) / len(samples_ms),
        drift=_drift(samples_ms),
        samples_ms=samples_ms,
    )


def _drift(samples: Sequence[float]) -> Figure:
    change = drift(samples)
    if change is None:
        return NotMeasured(
            not_measured=f"drift needs {MIN_DRIFT_CALLS} samples, got {len(samples)}"
        )
    return change


# --- percentiles ---------------------------------------------------------------------------------


def median_of(samples: Sequence[float]) -> Figure:
    """Returns the median, an observed value; `NotMeasured` with fewer than 5 samples."""
    if len(samples) < _MIN_SAMPLES:
        return NotMeasured(not_measured=f"p50 needs {_MIN_SAMPLES} samples, got {len(samples)}")
    return _nearest_rank(samples, 0.5)


def samples_needed(q: float) -> int:
    """Fewest samples for the percentile `q`: 30 for p90, 60 for p95, 300 for p99.

    From there on, at least one of the samples is beyond the true percentile with a probability of
    95%. Of fewer samples the printed value would be too low more often than not.
    """
    # Rounded first: 1 / (1 - 0.9) is slightly more than 10 in floating point.
    return math.ceil(round(_EXPECTED_BEYOND / (1 - q), 9))


def percentile(samples: Sequence[float], q: float) -> Percentile:
    """Returns the nearest-rank percentile, or a lower bound where there are too few samples.

    Args:
        samples: Any unit, any order; independent draws, for the bound.
        q: Between 0.5 and 1.
    Returns:
        An observed value, never an interpolated one. With fewer than `samples_needed(q)` samples,
        the highest of them that the true percentile exceeds with a confidence of 95%;
        `NotMeasured` with fewer than 5.
    """
    count, needed = len(samples), samples_needed(q)
    if count >= needed:
        return _nearest_rank(samples, q)
    reason = f"p{q * 100:.0f} needs {needed} samples, got {count}"
    if count < _MIN_SAMPLES:
        return NotMeasured(not_measured=reason)
    return AtLeast(at_least=sorted(samples)[bound_rank(count, q) - 1], reason=reason)


def bound_rank(count: int, q: float) -> int:
    """Rank, from 1, of the sample that is at most the true percentile with 95% confidence.

    Args:
        count: Number of samples, at least 5.
        q: Between 0.5 and 1.
    Source: the number of samples below a percentile is binomial (distribution-free bounds).
    """
    # The sample of rank r is at most the percentile where at least r samples are.
    below, rank = 0.0, 0
    while True:
        below += math.comb(count, rank) * q**rank * (1 - q) ** (count - rank)
        if below > 1 - CONFIDENCE:
            return max(rank, 1)
        rank += 1


def _nearest_rank(samples: Sequence[float], q: float) -> float:
    # Rounded for the same reason as in `samples_needed`.
    rank = math.ceil(round(q * len(samples), 9))
    return sorted(samples)[rank - 1]


# --- ratios --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second model is than the first.

    Attributes:
        value: Geometric mean over the processes.
        low: Lower end of the confidence interval.
        high: Upper end.
        processes: Number of processes; 0 for a prediction, whose ends are a band.
    """

    value: float
    low: float
    high: float
    processes: int


def speed_ratio(processes: Sequence[Sequence[tuple[float, float]]]) -> Ratio:
    """Returns how many times faster the second model is, with a 95% interval.

    The processes are the sample, because what differs between starts (where the weights are in
    memory) is the same for all blocks of a process: the interval is Student's t of the logarithms
    of the processes' ratios.

    Args:
        processes: Blocks (time of the first, time of the second) of each process, any unit.
    Raises:
        ValueError: There are fewer than two processes, or a time is not positive.
    """
    logs = [math.log(process_ratio(blocks)) for blocks in processes]
    if len(logs) < 2:
        raise ValueError(f"the interval of a speed ratio needs 2 processes, got {len(logs)}")
    centre = fmean(logs)
    half = _t_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(centre + half), len(logs))


def process_ratio(blocks: Sequence[tuple[float, float]]) -> float:
    """Returns the median over the blocks of first's time / second's time.

    A block holds the times of both models for the same texts, taken within milliseconds of each
    other, so that most noise hits both. The median leaves out a block that was interrupted.

    Raises:
        ValueError: There is no block, or a time is not positive.
    """
    if not blocks or any(min(times) <= 0 for times in blocks):
        raise ValueError("a speed ratio needs at least one block, and positive times")
    return median(first / second for first, second in blocks)


def _t_quantile(degrees: int) -> float:
    """Two-sided quantile of Student's t distribution at CONFIDENCE."""
    # Imported here: most of a profile does not need scipy.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
