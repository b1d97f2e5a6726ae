"""Retention of the teacher's score by a student, with paired-bootstrap confidence intervals.

Each bootstrap resample draws dev examples (the same ones for both models) and seeds, and takes the
median over the drawn seeds. With one seed the interval covers the sampling noise of the dev set
only, and the description of the interval says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.records import Figure, NotMeasured
from edgedistil.evaluate.metrics import Floats, resampled_scores

Ints = NDArray[np.int64]

# Enough for bounds at 2.5% and 97.5% to be the 25th value from each end.
RESAMPLES = 1000
LEVEL = 0.95
_BOOTSTRAP_SEED = 20191002  # fixed, so that repeated evaluations print the same interval


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for the dev set of one task, by seed.

    Attributes:
        metric: Name of the metric that counts.
        labels: N classes or values.
        by_seed: Seed → N predicted classes or values, or N scores where `holds_scores`.
        holds_scores: Each example was already scored on its own (spans), so the metric is the
            mean of `by_seed` and there is no constant prediction to compare with.
    """

    metric: str
    labels: Floats
    by_seed: Mapping[int, Floats]
    holds_scores: bool = False

    def resampled(self, seed: int, draws_RN: Ints) -> Floats:
        """Returns the metric on each of R resamples, shape (R,)."""
        if self.holds_scores:
            return np.asarray(self.by_seed[seed][draws_RN].mean(axis=1))
        return resampled_scores(self.metric, self.labels, self.by_seed[seed], draws_RN)


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound of a confidence interval."""

    low: Figure
    high: Figure


@dataclass(frozen=True)
class RetentionEstimate:
    """Retention of one student on one task, plain and above the baseline."""

    retention: Figure
    retention_interval: Interval
    retention_above_baseline: Figure
    retention_above_baseline_interval: Interval
    interval: str


def estimate_retention(
    teacher: Predictions,
    student: Predictions,
    *,
    teacher_median: float,
    student_median: float,
    baseline: float,
    constant: float,
) -> RetentionEstimate:
    """Estimates retention and retention above the baseline, with confidence intervals.

        retention                = student / teacher
        retention above baseline = (student - baseline) / (teacher - baseline)

    Args:
        teacher: Predictions of the fine-tuned teacher.
        student: Predictions of the fine-tuned student for the same dev examples.
        teacher_median: The teacher's score, median over its seeds.
        student_median: The student's score, median over its seeds.
        baseline: Score of the constant prediction on the dev set.
        constant: The constant prediction itself; it is scored again on every resample. Ignored
            where the predictions hold scores.
    Returns:
        Figures as shares; a figure is `NotMeasured` where the teacher does not exceed the baseline
        by more than the noise.
    """
    resamples = _Resamples(len(teacher.labels), teacher, student)
    student_R, teacher_R = resamples.medians(student), resamples.medians(teacher)
    baseline_R = resamples.baselines(teacher, constant)
    return RetentionEstimate(
        retention=_ratio(student_median, teacher_median),
        retention_interval=_ratio_interval(student_R, teacher_R),
        retention_above_baseline=_ratio(student_median - baseline, teacher_median - baseline),
        retention_above_baseline_interval=_ratio_interval(
            student_R - baseline_R, teacher_R - baseline_R
        ),
        interval=resamples.description,
    )


def score_differences(
    full: Sequence[Predictions], varied: Sequence[Predictions]
) -> tuple[Floats, str]:
    """Resamples the difference of two models' mean scores over several tasks.

    Args:
        full: Predictions of the reference model, one entry per task.
        varied: Predictions of the other model for the same tasks, in the same order.
    Returns:
        varied - full on each resample, shape (R,), both scored on the same examples and seeds, and
        a description of the resampling.
    """
    # The mean over tasks of differences equals the difference of the models' means.
    total = np.zeros(RESAMPLES)
    description = ""
    for reference, other in zip(full, varied, strict=True):
        resamples = _Resamples(len(reference.labels), reference, other)
        total += resamples.medians(other) - resamples.medians(reference)
        description = resamples.description
    return total / len(full), description


def confidence_interval(values_R: Floats) -> tuple[float, float]:
    """Returns the bounds of the central LEVEL of the values: observed, not interpolated."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


class _Resamples:
    """Bootstrap draws of examples and seeds that two models share."""

    def __init__(self, examples: int, first: Predictions, second: Predictions) -> None:
        generator = np.random.default_rng(_BOOTSTRAP_SEED)
        # int32 draws halve the generator's work; indexing needs int64.
        draws_RN = generator.integers(0, examples, size=(RESAMPLES, examples), dtype=np.int32)
        self._draws_RN = draws_RN.astype(np.int64)

        # Seeds are paired where both models have them; otherwise each model uses its first ones.
        self._shared_seeds = sorted(set(first.by_seed) & set(second.by_seed))
        count = len(self._shared_seeds) or min(len(first.by_seed), len(second.by_seed))
        self._seed_draws_RS = generator.integers(0, count, size=(RESAMPLES, count))

        resampled = "dev examples (one seed: its noise is not in it)"
        if count > 1:
            resampled = f"dev examples and {count} seeds"
        self.description = f"{LEVEL:.0%}, {RESAMPLES} paired resamples of {resampled}"

    def medians(self, model: Predictions) -> Floats:
        """Returns the metric on each resample, median over the drawn seeds, shape (R,)."""
        seeds = self._shared_seeds
        if not seeds:
            seeds = sorted(model.by_seed)[: self._seed_draws_RS.shape[1]]
        scores_SR = np.stack([model.resampled(seed, self._draws_RN) for seed in seeds])
        drawn_RS = np.take_along_axis(scores_SR.T, self._seed_draws_RS, axis=1)
        return np.asarray(np.median(drawn_RS, axis=1))

    def baselines(self, model: Predictions, constant: float) -> Floats:
        """Returns the score of the constant prediction on each resample, shape (R,)."""
        if model.holds_scores:
            return np.zeros(RESAMPLES)
        predictions = np.full(len(model.labels), constant)
        return resampled_scores(model.metric, model.labels, predictions, self._draws_RN)


def _ratio(numerator: float, denominator: float) -> Figure:
    if denominator <= 0:
        return NotMeasured(not_measured="the teacher does not score above the constant prediction")
    return numerator / denominator


def _ratio_interval(numerator_R: Floats, denominator_R: Floats) -> Interval:
    # A ratio has no meaningful interval when its denominator changes sign within the noise.
    if float(np.mean(denominator_R <= 0)) > (1 - LEVEL) / 2:
        reason = NotMeasured(
            not_measured="the teacher is not above the constant prediction by more than the noise"
        )
        return Interval(reason, reason)
    # The few resamples below the baseline, if any, are left out.
    usable = denominator_R > 0
    return Interval(*confidence_interval(numerator_R[usable] / denominator_R[usable]))
