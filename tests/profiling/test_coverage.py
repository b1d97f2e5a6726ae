"""Simulated worlds in which the truth is known: how often the printed intervals contain it.

A process has a ratio of its own (placement in memory, clock), and its blocks vary around that.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedistil.core.profile_records import AtLeast
from edgedistil.profiling.claim_jobs import _MAX_BLOCKS
from edgedistil.profiling.latency import CONFIDENCE, bound_rank, percentile, speed_ratio
from edgedistil.profiling.measured import DEFAULT_BUDGET
from edgedistil.profiling.tune import PROCESSES as TUNE_PROCESSES

WORLDS = 3000
TRUE_RATIO = 2.0
# 95% of 3,000 worlds vary by 0.4 points (one standard deviation): these bounds are 7 of them away.
LOWEST, HIGHEST = 0.92, 0.98


def coverage(processes: int, between: float, within: float) -> float:
    """Share of intervals that contain the true ratio.

    Args:
        processes: Processes of a claim.
        between: Standard deviation of the processes' ratios, as logarithms.
        within: The same of the blocks of a process.
    """
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(WORLDS):
        own = random.normal(0, between, (processes, 1))
        noise = random.normal(0, within, (processes, _MAX_BLOCKS))
        seconds = np.exp(own + noise)
        ratio = speed_ratio([[(TRUE_RATIO * s, 1.0) for s in blocks] for blocks in seconds])
        covered += ratio.low <= TRUE_RATIO <= ratio.high
    return covered / WORLDS


@pytest.mark.parametrize("processes", [DEFAULT_BUDGET.processes, TUNE_PROCESSES])
@pytest.mark.parametrize(
    ("between", "within"),
    [(0, 0.05), (0.005, 0.05), (0.03, 0.05), (0.05, 0.05), (0.05, 0.02), (0.05, 0.005)],
)
def test_the_interval_of_a_speed_ratio_contains_the_truth(
    processes: int, between: float, within: float
) -> None:
    assert LOWEST <= coverage(processes, between, within) <= HIGHEST


def test_a_few_blocks_of_one_process_would_not_be_an_interval() -> None:
    """The simulation finds an interval that leaves out what differs between processes."""
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(WORLDS):
        blocks = np.exp(random.normal(0, 0.05) + random.normal(0, 0.02, 12))
        # Each block as if it were a process.
        ratio = speed_ratio([[(TRUE_RATIO * block, 1.0)] for block in blocks])
        covered += ratio.low <= TRUE_RATIO <= ratio.high
    assert covered / WORLDS < 0.5


def test_an_outlier_in_a_block_does_not_bias_the_ratio() -> None:
    """One block in ten takes 1.5 times as long, for either model: the interval still covers."""
    random = np.random.default_rng(11)
    covered = 0
    for _ in range(WORLDS):
        shape = (2, DEFAULT_BUDGET.processes, _MAX_BLOCKS)
        seconds = np.exp(random.normal(0, 0.02, shape))
        seconds[random.random(shape) < 0.1] *= 1.5
        times = np.stack([TRUE_RATIO * seconds[0], seconds[1]], axis=-1)
        ratio = speed_ratio([[(float(a), float(b)) for a, b in blocks] for blocks in times])
        covered += ratio.low <= TRUE_RATIO <= ratio.high
    assert LOWEST <= covered / WORLDS <= HIGHEST


# --- bounds of percentiles -----------------------------------------------------------------------


@pytest.mark.parametrize(("q", "most"), [(0.9, 29), (0.95, 59), (0.99, 299)])
def test_the_bound_of_a_percentile_is_at_most_the_truth(q: float, most: int) -> None:
    """Exact, not simulated: the number of samples below a percentile is binomial."""
    for count in range(5, most + 1):
        rank = bound_rank(count, q)
        below = [math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(count + 1)]
        # The sample of a rank is at most the percentile where at least so many samples are.
        assert sum(below[rank:]) >= CONFIDENCE - 1e-12, "the bound holds"
        assert rank == count or sum(below[rank + 1 :]) < CONFIDENCE, "and no higher one does"


def test_the_bound_of_15_calls_in_simulated_series() -> None:
    random = np.random.default_rng(13)
    series = random.lognormal(0, 0.3, (WORLDS, 15))
    true_p90 = math.exp(0.3 * 1.2815516)
    held = 0
    for samples in series:
        bound = percentile([float(sample) for sample in samples], 0.9)
        assert isinstance(bound, AtLeast)
        held += bound.at_least <= true_p90
    # Ranks are steps: of 15 samples the next higher one would hold in 94.4% only.
    assert held / WORLDS == pytest.approx(0.987, abs=0.01)
