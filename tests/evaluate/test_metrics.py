"""Scores equal hand-computed figures, are never NaN, and the fast form equals the slow one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedistil.evaluate.metrics import (
    CLASS_METRICS,
    VALUE_METRICS,
    constant_score,
    resampled_scores,
    score,
)

LABELS = np.array([1, 1, 1, 0, 0, 1, 0], dtype=float)
# 3 true positives, 2 true negatives, 1 false positive, 1 false negative.
PREDICTIONS = np.array([1, 1, 0, 0, 1, 1, 0], dtype=float)


def test_accuracy_and_f1_by_hand() -> None:
    values, notes = score("accuracy_f1", LABELS, PREDICTIONS)
    assert values == pytest.approx(
        {"accuracy": 5 / 7, "f1": 2 * 3 / (4 + 4), "accuracy_f1": (5 / 7 + 0.75) / 2}
    )
    assert notes == []


def test_matthews_by_hand() -> None:
    # (tp · tn − fp · fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn))
    by_hand = (3 * 2 - 1 * 1) / math.sqrt((3 + 1) * (3 + 1) * (2 + 1) * (2 + 1))
    assert score("matthews", LABELS, PREDICTIONS)[0]["matthews"] == pytest.approx(by_hand)


def test_macro_f1_by_hand() -> None:
    assert score("macro_f1", LABELS, PREDICTIONS)[0]["macro_f1"] == pytest.approx(
        (6 / 8 + 4 / 6) / 2
    )


def test_correlations_by_hand() -> None:
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 10.0])
    values, _ = score("pearson_spearman", labels, predictions)
    assert values["pearson"] == pytest.approx(14 / math.sqrt(5 * 50))
    assert values["spearman"] == pytest.approx(1.0)
    assert values["pearson_spearman"] == pytest.approx((14 / math.sqrt(250) + 1) / 2)


def test_matthews_with_one_class_predicted_is_zero_with_a_warning() -> None:
    values, notes = score("matthews", LABELS, np.ones(7))
    assert values == {"matthews": 0.0}
    assert notes == ["every prediction is 1: matthews is undefined and counts as 0"]


def test_constant_regression_is_zero_with_a_warning_for_each() -> None:
    values, notes = score("pearson_spearman", np.array([1.0, 2.0, 3.0]), np.full(3, 2.5))
    assert values == {"pearson": 0.0, "spearman": 0.0, "pearson_spearman": 0.0}
    assert [note.split(":")[1].split()[0] for note in notes] == ["pearson", "spearman"]


def test_f1_without_a_positive_prediction_is_zero() -> None:
    assert score("f1", LABELS, np.zeros(7))[0]["f1"] == 0.0


def test_f1_without_the_positive_class_is_zero_with_a_warning() -> None:
    values, notes = score("f1", np.zeros(5), np.zeros(5))
    assert values == {"f1": 0.0}
    assert notes == [
        "no label and no prediction is of the positive class: f1 is undefined, counts as 0"
    ]
    draws = np.zeros((3, 5), dtype=int)
    assert resampled_scores("f1", np.zeros(5), np.zeros(5), draws).tolist() == [0, 0, 0]


TWO_CLASSES = [(metric, 2) for metric in CLASS_METRICS]
# The F1 of one class is defined for two classes only.
FIVE_CLASSES = [(metric, 5) for metric in ("accuracy", "macro_f1", "matthews")]


@pytest.mark.parametrize(("metric", "classes"), [*TWO_CLASSES, *FIVE_CLASSES])
def test_resampled_class_scores_equal_the_slow_ones(metric: str, classes: int) -> None:
    generator = np.random.default_rng(3)
    labels, predictions = (generator.integers(0, classes, 31).astype(float) for _ in range(2))
    draws = generator.integers(0, 31, (13, 31))
    slow = [score(metric, labels[draw], predictions[draw])[0][metric] for draw in draws]
    assert resampled_scores(metric, labels, predictions, draws) == pytest.approx(slow)


@pytest.mark.parametrize("metric", VALUE_METRICS)
def test_resampled_correlations_equal_the_slow_ones(metric: str) -> None:
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 6, 29).astype(float)  # ties
    predictions = labels + generator.normal(size=29)
    draws = generator.integers(0, 29, (11, 29))
    slow = [score(metric, labels[draw], predictions[draw])[0][metric] for draw in draws]
    assert resampled_scores(metric, labels, predictions, draws) == pytest.approx(slow)


def test_resampled_score_of_a_constant_is_zero_not_nan() -> None:
    draws = np.random.default_rng(1).integers(0, 7, (3, 7))
    assert resampled_scores("matthews", LABELS, np.ones(7), draws).tolist() == [0, 0, 0]
    assert resampled_scores("spearman", LABELS, np.ones(7), draws).tolist() == [0, 0, 0]


def test_score_of_a_constant_is_the_share_of_its_class() -> None:
    assert constant_score("accuracy", 1.0, LABELS) == pytest.approx(4 / 7)
    assert constant_score("accuracy", 0.0, LABELS) == pytest.approx(3 / 7)


def test_correlation_of_a_constant_is_zero() -> None:
    assert constant_score("pearson", 1.0, np.array([1.0, 2.0, 3.0])) == 0.0
