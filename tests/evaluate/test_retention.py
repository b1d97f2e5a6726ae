"""Retention by hand, and intervals that behave as intervals must."""

import numpy as np
import pytest

from edgedistil.core.records import NotMeasured
from edgedistil.evaluate.retention import (
    Predictions,
    RetentionEstimate,
    confidence_interval,
    estimate_retention,
    score_differences,
)

N = 211
LABELS = np.arange(N) % 2.0


def model(accuracy: float, seeds: int = 1, noise: float = 0.0) -> Predictions:
    """A model that is right on the first share of a fixed shuffle of the dev set."""
    by_seed = {}
    for seed in range(1, seeds + 1):
        order = np.random.default_rng(11).permutation(N)
        wrong = order[round((accuracy + noise * (seed - 2)) * N) :]
        predicted = LABELS.copy()
        predicted[wrong] = 1 - predicted[wrong]
        by_seed[seed] = predicted
    return Predictions("accuracy", LABELS, by_seed)


def estimate(
    teacher: Predictions,
    student: Predictions,
    teacher_score: float,
    student_score: float,
    baseline: float = 0.5,
) -> RetentionEstimate:
    return estimate_retention(
        teacher,
        student,
        teacher_median=teacher_score,
        student_median=student_score,
        baseline=baseline,
        constant=0.0,
    )


def test_retention_plain_and_above_the_baseline_by_hand() -> None:
    result = estimate(model(0.9), model(0.8), 0.9, 0.8)
    assert result.retention == pytest.approx(0.8 / 0.9)
    assert result.retention_above_baseline == pytest.approx(0.3 / 0.4)


def test_interval_holds_the_figure() -> None:
    result = estimate(model(0.9), model(0.8), 0.9, 0.8)
    plain, above = result.retention_interval, result.retention_above_baseline_interval
    assert plain.low < result.retention < plain.high
    assert above.low < result.retention_above_baseline < above.high


def test_pairing_makes_equal_models_certain() -> None:
    result = estimate(model(0.8), model(0.8), 0.8, 0.8)
    assert (result.retention_interval.low, result.retention_interval.high) == (1.0, 1.0)


def test_more_seeds_that_differ_widen_the_interval() -> None:
    def width(noise: float) -> float:
        result = estimate(model(0.9, 3), model(0.8, 3, noise), 0.9, 0.8)
        return result.retention_interval.high - result.retention_interval.low

    assert width(0.1) > width(0.0) * 1.5


def test_one_seed_says_that_its_noise_is_missing() -> None:
    one = estimate(model(0.9), model(0.8), 0.9, 0.8)
    three = estimate(model(0.9, 3), model(0.8, 3), 0.9, 0.8)
    assert "one seed: its noise is not in it" in one.interval
    assert "dev examples and 3 seeds" in three.interval


def test_teacher_at_the_baseline_leaves_nothing_to_retain() -> None:
    result = estimate(model(0.5), model(0.5), 0.5, 0.5, baseline=0.5)
    assert isinstance(result.retention_above_baseline, NotMeasured)
    assert isinstance(result.retention_above_baseline_interval.low, NotMeasured)
    assert result.retention == 1.0


def test_same_interval_each_time() -> None:
    first, second = (estimate(model(0.9), model(0.8), 0.9, 0.8) for _ in range(2))
    assert first == second


def test_spans_are_means_of_questions() -> None:
    scores = np.linspace(0, 1, 101)
    spans = Predictions("f1", scores, {1: scores}, holds_scores=True)
    result = estimate_retention(
        spans, spans, teacher_median=0.5, student_median=0.5, baseline=0.0, constant=0.0
    )
    assert result.retention_above_baseline_interval.low == pytest.approx(1.0)


def test_score_differences_are_over_tasks_and_signed() -> None:
    values, description = score_differences([model(0.9), model(0.7)], [model(0.8), model(0.7)])
    low, high = confidence_interval(values)
    assert low < -0.05 < high < 0
    assert "paired resamples" in description


def test_bounds_are_observed_values() -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0])
    assert set(confidence_interval(values)) <= set(values)
