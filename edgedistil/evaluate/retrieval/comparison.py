"""Differences and ratios of two rankings' scores, with intervals over the queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC, RetrievalScores

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 20250911  # fixed, so that repeated evaluations print the same interval


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def estimate_mean(scores: RetrievalScores, metric: str = MAIN_METRIC) -> Estimate:
    """Estimates the mean of a metric over the queries, 0 to 1."""
    by_query = scores.by_metric[metric]
    return _estimate(scores.mean(metric), _resampled_means(by_query))


def estimate_ratio(
    model: RetrievalScores, reference: RetrievalScores, metric: str = MAIN_METRIC
) -> Estimate:
    """Estimates model / reference, both scored on the same resampled queries."""
    of_model = _resampled_means(model.by_metric[metric])
    of_reference = _resampled_means(reference.by_metric[metric])
    return _estimate(model.mean(metric) / reference.mean(metric), of_model / of_reference)


def estimate_difference(
    model: RetrievalScores, reference: RetrievalScores, metric: str = MAIN_METRIC
) -> Estimate:
    """Estimates model - reference, both scored on the same queries."""
    difference = model.by_metric[metric] - reference.by_metric[metric]
    return _estimate(float(difference.mean()), _resampled_means(difference))


def _resampled_means(by_query: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over R resamples of the queries; the same queries for every model."""
    generator = np.random.default_rng(_SEED)
    means = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        means[number] = by_query[generator.integers(0, len(by_query), len(by_query))].mean()
    return means


def _estimate(value: float, resampled_R: NDArray[np.float64]) -> Estimate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled_R, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
