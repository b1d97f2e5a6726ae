"""Differences and ratios of two rankings' scores, with intervals.

With one distillation an interval is over the queries, the same ones for both models. With several
it is also over the seeds, as for labelled tasks (`evaluate.retention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.records import NotMeasured
from edgedistil.evaluate.retention import (
    Predictions,
    SeedScores,
    contrast_noise,
    estimate_retention,
    seed_scores,
    t_interval,
)
from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC, RetrievalScores

# Rankings of one model on the same queries, one for each distillation.
BySeed = Sequence[RetrievalScores]

RESAMPLES = 2000
# 1 MB of indices stays in the cache of a core.
_DRAWS_AT_ONCE = 2**17
LEVEL = 0.95
SEED = 20250911  # fixed, so that repeated evaluations print the same interval


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def estimate_mean(model: BySeed, metric: str = MAIN_METRIC) -> Estimate:
    """Estimates the mean of a metric over queries and seeds, 0 to 1."""
    if len(model) == 1:
        by_query = model[0].by_metric[metric]
        return percentile_interval(float(by_query.mean()), _resampled_means(by_query))
    scores = _seed_scores(model, metric)
    return _t_estimate(scores.mean, [(1.0, scores)])


def estimate_ratio(model: BySeed, reference: BySeed, metric: str = MAIN_METRIC) -> Estimate:
    """Estimates model / reference, both scored on the same queries.

    Args:
        model: One ranking for each distillation.
        reference: The same, or one ranking of a model that is not trained here.
        metric: Name of the metric.
    """
    if len(model) == 1:
        of_model = _resampled_means(model[0].by_metric[metric])
        of_reference = _resampled_means(reference[0].by_metric[metric])
        ratio = model[0].mean(metric) / reference[0].mean(metric)
        return percentile_interval(ratio, of_model / of_reference)
    absent = NotMeasured(not_measured="a search has no baseline of a constant answer")
    result = estimate_retention(
        _seed_scores(reference, metric), _seed_scores(model, metric), absent
    )
    interval = result.retention_interval
    figures = [result.retention, interval.low, interval.high]
    value, low, high = (figure if isinstance(figure, float) else np.nan for figure in figures)
    return Estimate(value, low, high)


def estimate_difference(model: BySeed, other: BySeed, metric: str = MAIN_METRIC) -> Estimate:
    """Estimates model - other, both scored on the same queries."""
    if len(model) == 1:
        by_query = model[0].by_metric[metric] - other[0].by_metric[metric]
        return percentile_interval(float(by_query.mean()), _resampled_means(by_query))
    of_model, of_other = _seed_scores(model, metric), _seed_scores(other, metric)
    return _t_estimate(of_model.mean - of_other.mean, [(1.0, of_model), (-1.0, of_other)])


def estimate_rounding(artefact: BySeed, model: BySeed, metric: str = MAIN_METRIC) -> Estimate:
    """Estimates artefact - model, where artefact k was made from model k.

    Both have the same distillation, so its noise cancels within each pair. Models without an
    artefact do not count.
    """
    pairs = zip(artefact, model[: len(artefact)], strict=True)
    return estimate_mean(
        [
            RetrievalScores(a.queries, {metric: a.by_metric[metric] - b.by_metric[metric]})
            for a, b in pairs
        ],
        metric,
    )


def describe_interval(seeds: int) -> str:
    """Describes the noise that the intervals of a model include."""
    if seeds == 1:
        return f"{LEVEL:.0%}, resampled queries; another distillation is not included"
    return f"{LEVEL:.0%}, t intervals over queries and {seeds} distillations"


def _seed_scores(rankings: BySeed, metric: str) -> SeedScores:
    by_seed = {number: ranking.by_metric[metric] for number, ranking in enumerate(rankings)}
    labels = np.zeros(len(by_seed[0]))
    scores = seed_scores(Predictions(metric, labels, by_seed, holds_scores=True))
    # A teacher, a baseline or an artefact of a given student has no seeds.
    return scores if len(rankings) > 1 else replace(scores, trained=False)


def _t_estimate(value: float, terms: Sequence[tuple[float, SeedScores]]) -> Estimate:
    interval = t_interval(value, contrast_noise(terms))
    assert isinstance(interval.low, float) and isinstance(interval.high, float)
    return Estimate(value, interval.low, interval.high)


def _resampled_means(by_query: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over R resamples of the queries; the same queries for every model."""
    generator, queries = np.random.default_rng(SEED), len(by_query)
    means = np.empty(RESAMPLES)
    # Several resamples at once are five times as fast; all of them would need 100 MB.
    step = max(1, _DRAWS_AT_ONCE // queries)
    for first in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - first)
        draws_RN = generator.integers(0, queries, (rows, queries))
        means[first : first + rows] = by_query[draws_RN].mean(axis=1)
    return means


def percentile_interval(value: float, resampled_R: NDArray[np.float64]) -> Estimate:
    """Returns a figure with the percentiles of its resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled_R, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
