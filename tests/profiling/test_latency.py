"""Percentiles are observed values; a ratio's interval contains the truth as often as stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistil.core.records import LatencyStats, NotMeasured
from edgedistil.profiling.latency import (
    Ratio,
    drift,
    percentile,
    samples_needed,
    speed_ratio,
    summarize,
)


@pytest.mark.parametrize(("q", "needed"), [(0.5, 5), (0.9, 10), (0.95, 20), (0.99, 100)])
def test_a_percentile_needs_a_minimum_of_samples(q: float, needed: int) -> None:
    assert samples_needed(q) == needed
    assert percentile([1.0] * needed, q) == 1.0
    assert percentile([1.0] * (needed - 1), q) == NotMeasured(
        not_measured=f"p{100 * q:.0f} needs {needed} samples, got {needed - 1}"
    )


def test_nearest_rank_by_hand() -> None:
    samples = [float(i) for i in range(100, 0, -1)]
    assert [percentile(samples, q) for q in (0.5, 0.9, 0.95, 0.99)] == [50, 90, 95, 99]


@given(
    st.lists(st.floats(0.001, 1e6), min_size=5, max_size=300),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_a_percentile_was_observed(samples: list[float], q: float) -> None:
    value = percentile(samples, q)
    if isinstance(value, float):
        assert value in samples
        assert sum(sample <= value for sample in samples) >= q * len(samples)


def test_drift_is_last_third_over_first() -> None:
    assert drift([10.0] * 6 + [10.5] * 6 + [11.0] * 6) == pytest.approx(0.1)
    assert isinstance(drift([1.0] * 14), NotMeasured)


def test_summary_keeps_the_samples_in_milliseconds() -> None:
    stats = summarize([2_000_000] * 19 + [9_000_000])
    assert isinstance(stats, LatencyStats)
    assert (stats.calls, stats.p50_ms, stats.p95_ms, stats.min_ms) == (20, 2.0, 2.0, 2.0)
    assert isinstance(stats.p99_ms, NotMeasured)
    assert stats.samples_ms[-1] == 9.0
    assert isinstance(summarize([]), NotMeasured)


def test_a_ratio_of_identical_models_is_one() -> None:
    ratio = speed_ratio([[(7.0, 7.0)] * 11])
    assert (ratio.value, ratio.low, ratio.high, ratio.blocks) == (1, 1, 1, 11)


def test_noise_that_hits_both_models_cancels() -> None:
    random = np.random.default_rng(3)
    noise = random.lognormal(0, 1, 29)
    ratio = speed_ratio([[(2 * n, n) for n in noise]])
    assert (ratio.low, ratio.high) == (pytest.approx(2), pytest.approx(2))


def test_the_interval_covers_as_often_as_stated() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        first, second = 1.7 * random.lognormal(0, 0.1, (3, 13)), random.lognormal(0, 0.1, (3, 13))
        ratio = speed_ratio(
            [list(zip(a, b, strict=True)) for a, b in zip(first, second, strict=True)]
        )
        covered += ratio.low <= 1.7 <= ratio.high
    # 95% of 60 are 57; 51 or fewer happen by chance in under 1% of all seeds.
    assert covered >= 51


def test_processes_that_differ_widen_the_interval() -> None:
    def width(ratio: Ratio) -> float:
        return ratio.high - ratio.low

    equal = speed_ratio([[(1.8, 1.0)] * 9] * 3)
    different = speed_ratio([[(1.6, 1.0)] * 9, [(1.8, 1.0)] * 9, [(2.0, 1.0)] * 9])
    assert width(equal) == 0 < width(different)


def test_processes_may_have_different_numbers_of_blocks() -> None:
    ratio = speed_ratio([[(1.8, 1.0)] * 9, [], [(1.8, 1.0)] * 4])
    assert (ratio.value, ratio.low, ratio.high, ratio.blocks) == (1.8, 1.8, 1.8, 13)


@pytest.mark.parametrize("processes", [[], [[]], [[(0.0, 1.0)]], [[(1.0, 0.0)]]])
def test_a_ratio_without_positive_times_is_an_error(
    processes: list[list[tuple[float, float]]],
) -> None:
    with np.errstate(divide="ignore"), pytest.raises((ValueError, ZeroDivisionError)):
        speed_ratio(processes)
