"""Samples → statistics: percentiles that were observed, drift, and the interval of a speed ratio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedistil.core.records import Figure, LatencyStats, NotMeasured

MIN_DRIFT_SAMPLES = 15
_BOOTSTRAPS = 2000
_SEED = 56


def summarize(samples_ns: Sequence[int]) -> LatencyStats | NotMeasured:
    """Percentiles, drift and the samples themselves, in milliseconds."""
    if not samples_ns:
        return NotMeasured(not_measured="no call was timed")
    samples = [each / 1e6 for each in samples_ns]
    return LatencyStats(
        calls=len(samples),
        p50_ms=percentile(samples, 0.50),
        p90_ms=percentile(samples, 0.90),
        p95_ms=percentile(samples, 0.95),
        p99_ms=percentile(samples, 0.99),
        min_ms=min(samples),
        mean_ms=sum(samples) / len(samples),
        drift=drift(samples),
        samples_ms=samples,
    )


def samples_needed(q: float) -> int:
    """Fewest samples that a percentile is told from: one is expected beyond it, and five at least."""
    return max(5, math.ceil(round(1 / (1 - q), 9)))


def percentile(samples: Sequence[float], q: float) -> Figure:
    """The nearest-rank percentile: an observed value, never interpolated; refused when the samples are too few."""
    needed = samples_needed(q)
    if len(samples) < needed:
        return NotMeasured(
            not_measured=f"p{q * 100:.0f} needs {needed} samples, there are {len(samples)}"
        )
    return sorted(samples)[math.ceil(round(q * len(samples), 9)) - 1]


def drift(samples: Sequence[float]) -> Figure:
    """Median of the last third over the median of the first third, minus one: 0.1 is 10% slower at the end."""
    if len(samples) < MIN_DRIFT_SAMPLES:
        return NotMeasured(
            not_measured=f"drift needs {MIN_DRIFT_SAMPLES} samples, there are {len(samples)}"
        )
    third = len(samples) // 3
    return float(np.median(samples[-third:]) / np.median(samples[:third]) - 1)


@dataclass(frozen=True)
class Ratio:
    """How many times faster the second is; `low` and `high` bound it at `confidence`."""

    value: float
    low: float
    high: float
    blocks: int
    confidence: float


def speed_ratio(
    processes: Sequence[Sequence[tuple[float, float]]], *, confidence: float = 0.95
) -> Ratio:
    """The median over blocks of first's time / second's time, with a bootstrap interval.

    A block holds both models' time for the same texts, taken within milliseconds of each other. Blocks are grouped by
    process, and the bootstrap draws processes first: what differs from one start to the next (where the memory lies) is
    in the interval too.

    Args:
        processes: Per process its blocks (first's time, second's time), any unit.
        confidence: Share of such intervals that are meant to hold the true ratio.
    Raises:
        ValueError: No block, or a time that is not positive.
    """
    groups = [
        np.array([first / second for first, second in blocks]) for blocks in processes if blocks
    ]
    if not groups or any(not np.all(np.isfinite(group) & (group > 0)) for group in groups):
        raise ValueError("a speed ratio needs at least one block, and positive times")
    draws = _bootstrap_medians(groups)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    everything = np.concatenate(groups)
    return Ratio(float(np.median(everything)), float(low), float(high), len(everything), confidence)


def _bootstrap_medians(groups: Sequence[Any]) -> Any:
    """Medians of resampled processes with resampled blocks, all draws at once."""
    random = np.random.default_rng(_SEED)
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group
    chosen = random.integers(0, len(groups), (_BOOTSTRAPS, len(groups), 1))
    within = (random.random((_BOOTSTRAPS, len(groups), sizes.max())) * sizes[chosen]).astype(int)
    values = padded[chosen, within]
    if len(set(sizes)) == 1:
        return np.median(values.reshape(_BOOTSTRAPS, -1), axis=1)
    values[np.arange(sizes.max()) >= sizes[chosen]] = np.nan
    return np.nanmedian(values.reshape(_BOOTSTRAPS, -1), axis=1)
