"""Intervals over queries: their coverage on simulated queries, and paired comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.evaluate.retrieval.comparison import (
    estimate_difference,
    estimate_mean,
    estimate_ratio,
)
from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC, RetrievalScores

WORLDS = 200


def scores(values: np.ndarray) -> RetrievalScores:
    names = tuple(str(index) for index in range(len(values)))
    return RetrievalScores(names, {MAIN_METRIC: np.asarray(values, np.float64)})


def test_intervals_hold_the_true_value_in_95_of_100_worlds() -> None:
    generator = np.random.default_rng(4)
    held = {"mean": 0, "ratio": 0, "difference": 0}
    for _ in range(WORLDS):
        # Two models on the same queries: their scores correlate, as nDCG values do.
        difficulty = generator.beta(2, 1, 300)
        reference = np.clip(difficulty + generator.normal(0, 0.2, 300), 0, 1)
        model = np.clip(difficulty - 0.05 + generator.normal(0, 0.2, 300), 0, 1)
        truth = TRUTH
        for name, estimate in (
            ("mean", estimate_mean(scores(model))),
            ("ratio", estimate_ratio(scores(model), scores(reference))),
            ("difference", estimate_difference(scores(model), scores(reference))),
        ):
            held[name] += estimate.low <= truth[name] <= estimate.high
    for name, count in held.items():
        assert 0.91 <= count / WORLDS <= 0.99, name


def _truth() -> dict[str, float]:
    generator = np.random.default_rng(99)
    difficulty = generator.beta(2, 1, 2_000_000)
    reference = np.clip(difficulty + generator.normal(0, 0.2, len(difficulty)), 0, 1).mean()
    model = np.clip(difficulty - 0.05 + generator.normal(0, 0.2, len(difficulty)), 0, 1).mean()
    return {"mean": model, "ratio": model / reference, "difference": model - reference}


TRUTH = _truth()


def test_pairs_make_a_small_difference_visible() -> None:
    values = np.random.default_rng(1).uniform(0, 1, 400)
    estimate = estimate_difference(scores(values - 0.01), scores(values))
    assert estimate.low == pytest.approx(-0.01) == estimate.high
    assert estimate_mean(scores(values)).high - estimate_mean(scores(values)).low > 0.04
