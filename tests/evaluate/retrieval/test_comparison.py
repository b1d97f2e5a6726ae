"""Intervals over queries: their coverage on simulated queries, and paired comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.evaluate.retrieval.comparison import (
    estimate_difference,
    estimate_mean,
    estimate_ratio,
    estimate_rounding,
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
            ("mean", estimate_mean([scores(model)])),
            ("ratio", estimate_ratio([scores(model)], [scores(reference)])),
            ("difference", estimate_difference([scores(model)], [scores(reference)])),
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
    estimate = estimate_difference([scores(values - 0.01)], [scores(values)])
    assert estimate.low == pytest.approx(-0.01) == estimate.high
    assert estimate_mean([scores(values)]).high - estimate_mean([scores(values)]).low > 0.04


def test_seeds_widen_an_interval_that_queries_alone_make_too_narrow() -> None:
    generator = np.random.default_rng(8)
    reference = generator.beta(2, 1, 400)
    # Distillations that differ by two points each, far more than the choice of queries does.
    seeds = [scores(reference * share) for share in (0.95, 0.97, 0.99)]
    alone = estimate_ratio(seeds[:1], [scores(reference)])
    together = estimate_ratio(seeds, [scores(reference)])
    assert together.value == pytest.approx(0.97)
    assert alone.high < 0.951
    assert together.low < 0.93 and together.high > 1.0
    # With two degrees of freedom: 4.3 standard errors of the mean of three seeds.
    half = 4.303 * 0.02 / np.sqrt(3)
    assert together.high - together.value == pytest.approx(half, rel=0.02)
    difference = estimate_difference(seeds, [scores(reference)])
    assert difference.value == pytest.approx(-0.03 * reference.mean())
    assert difference.low < estimate_mean(seeds).value - reference.mean() < difference.high


def test_an_artefact_is_compared_with_the_model_that_it_was_made_from() -> None:
    generator = np.random.default_rng(8)
    values = generator.uniform(0.2, 1, 400)
    models = [scores(values * share) for share in (0.8, 0.9, 1.0)]
    artefacts = [scores(model.by_metric[MAIN_METRIC] - 0.01) for model in models]
    # The models differ by tens of points, which unpaired artefacts would show as noise.
    paired = estimate_rounding(artefacts, models)
    assert [paired.low, paired.value, paired.high] == pytest.approx([-0.01] * 3)
    assert estimate_difference(artefacts, models).low < -0.1
    # One artefact: of the first model.
    assert estimate_rounding(artefacts[:1], models).value == pytest.approx(-0.01)
