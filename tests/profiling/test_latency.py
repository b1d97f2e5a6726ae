"""Percentiles are observed values or bounds, and a ratio is that of its processes."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistil.core.profile_records import AtLeast, LatencyStats
from edgedistil.core.records import NotMeasured
from edgedistil.profiling.latency import (
    median_of,
    percentile,
    process_ratio,
    samples_needed,
    speed_ratio,
    summarize,
)


@pytest.mark.parametrize(("q", "needed"), [(0.9, 30), (0.95, 60), (0.99, 300)])
def test_a_percentile_needs_a_minimum_of_samples(q: float, needed: int) -> None:
    assert samples_needed(q) == needed
    # With so many, one of them is beyond the percentile in 95% of all series; with a fifth less,
    # in fewer.
    assert q**needed < 0.05 < q ** (0.8 * needed)
    assert percentile([1.0] * needed, q) == 1.0
    assert percentile([1.0] * (needed - 1), q) == AtLeast(
        at_least=1.0, reason=f"p{100 * q:.0f} needs {needed} samples, got {needed - 1}"
    )
    assert isinstance(percentile([1.0] * 4, q), NotMeasured)


def test_a_median_needs_five_samples() -> None:
    assert median_of([3.0, 1.0, 2.0, 5.0, 4.0]) == 3.0
    assert median_of([1.0] * 4) == NotMeasured(not_measured="p50 needs 5 samples, got 4")


def test_nearest_rank_by_hand() -> None:
    samples = [float(i) for i in range(300, 0, -1)]
    assert [percentile(samples, q) for q in (0.9, 0.95, 0.99)] == [270, 285, 297]


def test_a_bound_by_hand() -> None:
    # 10 of 15 samples or fewer are below the p90 in 1.3% of all series, 11 or fewer in 5.6%.
    bound = percentile([float(i) for i in range(1, 16)], 0.9)
    assert isinstance(bound, AtLeast) and bound.at_least == 11


@given(
    st.lists(st.floats(0.001, 1e6), min_size=5, max_size=300),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_a_percentile_and_a_bound_were_observed(samples: list[float], q: float) -> None:
    value = percentile(samples, q)
    if isinstance(value, float):
        assert value in samples
        assert sum(sample <= value for sample in samples) >= q * len(samples)
    elif isinstance(value, AtLeast):
        assert value.at_least in samples


def test_summary_keeps_the_samples_in_milliseconds() -> None:
    stats = summarize([2_000_000] * 59 + [9_000_000])
    assert isinstance(stats, LatencyStats)
    assert (stats.calls, stats.p50_ms, stats.p95_ms, stats.min_ms) == (60, 2.0, 2.0, 2.0)
    assert isinstance(stats.p99_ms, AtLeast)
    assert stats.samples_ms[-1] == 9.0
    assert stats.window_s == pytest.approx(0.127)
    assert isinstance(summarize([]), NotMeasured)


def test_drift_of_a_few_calls_is_not_measured() -> None:
    few, enough = summarize([10**6] * 14), summarize([10**6] * 10 + [11 * 10**5] * 5)
    assert isinstance(few, LatencyStats) and isinstance(enough, LatencyStats)
    assert few.drift == NotMeasured(not_measured="drift needs 15 samples, got 14")
    assert enough.drift == pytest.approx(0.1)


# --- ratios --------------------------------------------------------------------------------------


def test_a_process_has_the_median_of_its_blocks() -> None:
    assert process_ratio([(2.0, 1.0), (2.0, 1.0), (900.0, 1.0)]) == 2.0


def test_noise_that_hits_both_models_cancels() -> None:
    ratio = speed_ratio([[(2 * n, n)] for n in (0.1, 1.0, 7.0, 40.0)])
    assert (ratio.low, ratio.high) == (pytest.approx(2), pytest.approx(2))


def test_the_interval_is_students_t_of_the_logarithms() -> None:
    ratio = speed_ratio([[(1.8 * math.exp(shift), 1.0)] * 3 for shift in (-0.1, 0.0, 0.1)])
    # t(0.975, 2 degrees) = 4.3027, standard error 0.1 / √3.
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert ratio.processes == 3
    assert ratio.value == pytest.approx(1.8)
    assert (math.log(ratio.high / 1.8), math.log(1.8 / ratio.low)) == (
        pytest.approx(half),
        pytest.approx(half),
    )


def test_blocks_do_not_narrow_the_interval() -> None:
    few, many = ([[(shift, 1.0)] * blocks for shift in (1.6, 1.8, 2.0)] for blocks in (2, 50))
    assert speed_ratio(few) == speed_ratio(many)


def test_one_process_has_no_interval() -> None:
    with pytest.raises(ValueError, match=re.escape("needs 2 processes, got 1")):
        speed_ratio([[(7.0, 7.0)] * 11])


@pytest.mark.parametrize("blocks", [[], [(0.0, 1.0)], [(1.0, 0.0)]])
def test_a_ratio_without_positive_times_is_an_error(blocks: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="at least one block, and positive times"):
        process_ratio(blocks)
