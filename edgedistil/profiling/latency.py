"""Statistics of timed calls: observed percentiles, drift, and the interval of a speed ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedistil.core.records import Figure, LatencyStats, NotMeasured

# Drift compares thirds: with 15 samples each third has 5, the fewest that a median is taken of.
MIN_DRIFT_SAMPLES = 15
# Fewest samples of any percentile, the median included.
_MIN_SAMPLES = 5
# Quantiles of 2,000 draws change little with the seed, and take 10 ms
# (docs/log.md#bootstrap-draws).
_BOOTSTRAP_DRAWS = 2000
# Fixed, so that the same samples always give the same interval.
_BOOTSTRAP_SEED = 56


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
        p50_ms=percentile(samples_ms, 0.50),
        p90_ms=percentile(samples_ms, 0.90),
        p95_ms=percentile(samples_ms, 0.95),
        p99_ms=percentile(samples_ms, 0.99),
        min_ms=min(samples_ms),
        mean_ms=sum(samples_ms) / len(samples_ms),
        drift=drift(samples_ms),
        samples_ms=samples_ms,
    )


def samples_needed(q: float) -> int:
    """Fewest samples for the percentile `q`: one is expected beyond it."""
    # Rounded first: 1 / (1 - 0.9) is slightly more than 10 in floating point.
    return max(_MIN_SAMPLES, math.ceil(round(1 / (1 - q), 9)))


def percentile(samples: Sequence[float], q: float) -> Figure:
    """Returns the nearest-rank percentile: an observed value, never an interpolated one.

    Args:
        samples: Any unit, any order.
        q: Between 0 and 1.
    Returns:
        The percentile, or `NotMeasured` if there are fewer than `samples_needed(q)` samples.
    """
    needed = samples_needed(q)
    if len(samples) < needed:
        return NotMeasured(
            not_measured=f"p{q * 100:.0f} needs {needed} samples, got {len(samples)}"
        )
    # Rounded for the same reason as in `samples_needed`.
    rank = math.ceil(round(q * len(samples), 9))
    return sorted(samples)[rank - 1]


def drift(samples: Sequence[float]) -> Figure:
    """Returns how much slower the last third is than the first: 0.1 is 10% slower.

    Args:
        samples: Any unit, in the order of the calls.
    """
    if len(samples) < MIN_DRIFT_SAMPLES:
        return NotMeasured(
            not_measured=f"drift needs {MIN_DRIFT_SAMPLES} samples, got {len(samples)}"
        )
    third = len(samples) // 3
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second model is than the first.

    Attributes:
        value: Median over all blocks.
        low: Lower end of the confidence interval.
        high: Upper end.
        blocks: Number of blocks.
        confidence: Share of such intervals that contain the true ratio.
    """

    value: float
    low: float
    high: float
    blocks: int
    confidence: float


def speed_ratio(
    processes: Sequence[Sequence[tuple[float, float]]], *, confidence: float = 0.95
) -> Ratio:
    """Returns the median of first's time / second's time, with a bootstrap interval.

    A block holds the times of both models for the same texts, taken within milliseconds of each
    other, so that most noise hits both. Blocks are grouped by process, and the bootstrap draws
    processes first: the interval includes what differs between starts, such as the placement of
    the weights in memory.

    Args:
        processes: Blocks (time of the first, time of the second) of each process, any unit.
        confidence: Share of such intervals that should contain the true ratio.
    Raises:
        ValueError: No block was passed, or a time is not positive.
    """
    groups = [_block_ratios(blocks) for blocks in processes if blocks]
    if not groups or any(not np.all(np.isfinite(group) & (group > 0)) for group in groups):
        raise ValueError("a speed ratio needs at least one block, and positive times")
    # Percentile interval of the bootstrap: no assumption on the distribution of the times.
    medians = _bootstrap_medians(groups)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    ratios = np.concatenate(groups)
    return Ratio(
        value=float(np.median(ratios)),
        low=float(low),
        high=float(high),
        blocks=len(ratios),
        confidence=confidence,
    )


def _block_ratios(blocks: Sequence[tuple[float, float]]) -> Any:
    return np.array([first / second for first, second in blocks])


def _bootstrap_medians(groups: Sequence[Any]) -> Any:
    """Returns the medians of resampled processes with resampled blocks.

    `groups` has an array of ratios per process. All draws are computed at once: a loop in Python
    takes 40 times as long (docs/log.md#bootstrap-draws).
    """
    # Processes may have different numbers of blocks: shorter rows are padded.
    random = np.random.default_rng(_BOOTSTRAP_SEED)
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group

    # Draw processes, then blocks within each drawn process.
    processes = random.integers(0, len(groups), (_BOOTSTRAP_DRAWS, len(groups), 1))
    uniform = random.random((_BOOTSTRAP_DRAWS, len(groups), sizes.max()))
    blocks = (uniform * sizes[processes]).astype(int)
    ratios = padded[processes, blocks]
    if len(set(sizes)) == 1:
        return np.median(ratios.reshape(_BOOTSTRAP_DRAWS, -1), axis=1)
    # A process contributes as many blocks as it has: the columns beyond are left out.
    ratios[np.arange(sizes.max()) >= sizes[processes]] = np.nan
    return np.nanmedian(ratios.reshape(_BOOTSTRAP_DRAWS, -1), axis=1)
