"""Predicted times of a search, scaled by those of measured candidates."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.core.records import Band
from edgedistil.core.search_records import Budget, Candidate
from edgedistil.search.scaling import FEWEST_MEASURED, find_scales, scale_times

BUDGET = Budget(latency_ms=10.0, file_bytes=None, memory_bytes=None)


def candidate(ms: float, *, precision: str = "int8", width: float = 1.5) -> Candidate:
    """A candidate whose predicted time is around some milliseconds, to a factor."""
    return Candidate(
        layers=1,
        intermediate=1,
        heads=1,
        vocabulary=1,
        precision=precision,  # type: ignore[arg-type]
        parameters=1,
        file_bytes=Band(low=1, high=1),
        latency_ms=Band(low=ms / width, high=ms * width),
        memory_bytes=Band(low=1, high=1),
        fit="may fit",
        worst_ratio=0.0,
    )


def measured(predicted: Candidate, ms: float) -> tuple[Candidate, Candidate]:
    """A candidate as predicted, and as measured."""
    changes = {"latency_ms": Band(low=ms, high=ms), "is_measured": True}
    return predicted, predicted.model_copy(update=changes)


def test_a_machine_twice_as_fast_scales_the_other_times() -> None:
    pairs = [measured(candidate(ms), ms / 2) for ms in (4.0, 6.0, 9.0)]
    (scale,) = find_scales(pairs)
    assert scale.factor == pytest.approx(0.5)
    (scaled,) = scale_times([candidate(16.0)], [scale], BUDGET)
    # Half of 16 ms, in a band of 15%: within 10 ms, which the prediction was not.
    assert candidate(16.0).latency_ms.low > BUDGET.latency_ms  # type: ignore[operator]
    assert scaled.latency_ms.low < 8.0 < scaled.latency_ms.high
    assert scaled.latency_ms.high / scaled.latency_ms.low == pytest.approx(1.15)
    assert scaled.fit == "fits"


def test_measured_times_that_differ_widen_the_band_but_never_beyond_the_prediction() -> None:
    def width(*factors: float) -> float:
        pairs = [measured(candidate(10.0), 10 * factor) for factor in factors]
        (scaled,) = scale_times([candidate(10.0)], find_scales(pairs), BUDGET)
        return scaled.latency_ms.high / scaled.latency_ms.low

    few, many = (0.45, 0.5, 0.55), (0.45, 0.5, 0.55) * 4
    assert 1.15 < width(*many) < width(*few) < 1.5**2
    assert width(0.1, 0.5, 2.0) == pytest.approx(1.5**2)


def test_nine_of_ten_more_candidates_are_inside_their_band() -> None:
    generator = np.random.default_rng(7)
    inside = []
    for factors in np.exp(generator.normal(-0.7, 0.1, (400, FEWEST_MEASURED + 1))):
        *known, other = (10 * factor for factor in factors)
        scales = find_scales([measured(candidate(10.0, width=9.0), ms) for ms in known])
        (scaled,) = scale_times([candidate(10.0, width=9.0)], scales, BUDGET)
        inside.append(scaled.latency_ms.low <= other <= scaled.latency_ms.high)
    assert 0.85 < np.mean(inside) < 0.95


def test_other_precisions_and_measured_candidates_keep_their_times() -> None:
    pairs = [measured(candidate(ms), ms / 2) for ms in (4.0, 6.0, 9.0)]
    others = [pairs[0][1], candidate(8.0, precision="fp32")]
    assert scale_times(others, find_scales(pairs), BUDGET) == others


def test_fewer_measured_candidates_scale_nothing() -> None:
    pairs = [measured(candidate(ms), ms / 2) for ms in range(1, FEWEST_MEASURED)]
    assert find_scales(pairs) == []
