"""What is kept, by hand, and intervals that behave as intervals must."""

import numpy as np
import pytest

from edgedistil.core.records import NotMeasured
from edgedistil.evaluate.retention import Predictions, bounds, change, what_is_kept

N = 211
LABELS = np.arange(N) % 2.0


def model(accuracy: float, seeds: int = 1, noise: float = 0.0) -> Predictions:
    """A model that is right on the first share of a fixed shuffle of the dev set."""
    by_seed = {}
    for seed in range(1, seeds + 1):
        order = np.random.default_rng(11).permutation(N)
        wrong = order[round((accuracy + noise * (seed - 2)) * N) :]
        said = LABELS.copy()
        said[wrong] = 1 - said[wrong]
        by_seed[seed] = said
    return Predictions("accuracy", LABELS, by_seed)


def kept(
    teacher: Predictions,
    student: Predictions,
    teacher_score: float,
    student_score: float,
    floor: float = 0.5,
):
    return what_is_kept(
        teacher,
        student,
        teacher_median=teacher_score,
        student_median=student_score,
        floor=floor,
        constant=0.0,
    )


def test_retention_and_what_lies_above_the_floor_by_hand():
    found = kept(model(0.9), model(0.8), 0.9, 0.8)
    assert found.retention == pytest.approx(0.8 / 0.9)
    assert found.above_floor == pytest.approx(0.3 / 0.4)


def test_interval_holds_the_figure():
    found = kept(model(0.9), model(0.8), 0.9, 0.8)
    assert found.retention_interval.low < found.retention < found.retention_interval.high
    assert found.above_floor_interval.low < found.above_floor < found.above_floor_interval.high


def test_pairing_makes_equal_models_certain():
    found = kept(model(0.8), model(0.8), 0.8, 0.8)
    assert (found.retention_interval.low, found.retention_interval.high) == (1.0, 1.0)


def test_more_seeds_that_differ_widen_the_interval():
    def width(noise: float) -> float:
        found = kept(model(0.9, 3), model(0.8, 3, noise), 0.9, 0.8)
        return found.retention_interval.high - found.retention_interval.low

    assert width(0.1) > width(0.0) * 1.5


def test_one_seed_says_that_its_noise_is_missing():
    assert "one seed: its noise is not in it" in kept(model(0.9), model(0.8), 0.9, 0.8).interval
    assert "dev examples and 3 seeds" in kept(model(0.9, 3), model(0.8, 3), 0.9, 0.8).interval


def test_teacher_at_the_floor_has_nothing_to_keep():
    found = kept(model(0.5), model(0.5), 0.5, 0.5, floor=0.5)
    assert isinstance(found.above_floor, NotMeasured)
    assert isinstance(found.above_floor_interval.low, NotMeasured)
    assert found.retention == 1.0


def test_same_interval_each_time():
    assert kept(model(0.9), model(0.8), 0.9, 0.8) == kept(model(0.9), model(0.8), 0.9, 0.8)


def test_spans_are_means_of_questions():
    scores = np.linspace(0, 1, 101)
    spans = Predictions("f1", scores, {1: scores}, is_span=True)
    found = what_is_kept(
        spans, spans, teacher_median=0.5, student_median=0.5, floor=0.0, constant=0.0
    )
    assert found.above_floor_interval.low == pytest.approx(1.0)


def test_change_is_over_tasks_and_signed():
    values, described = change([model(0.9), model(0.7)], [model(0.8), model(0.7)])
    low, high = bounds(values)
    assert low < -0.05 < high < 0
    assert "paired resamples" in described


def test_bounds_are_observed_values():
    values = np.array([3.0, 1.0, 2.0, 5.0])
    assert set(bounds(values)) <= set(values)
