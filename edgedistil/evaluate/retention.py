"""Retention of a reference model's score by another model, with confidence intervals.

An interval is a t interval around the figure. Its variance has two parts that are estimated
separately: the spread of the scores over the seeds, and the bootstrap's variance over the dev
examples, the same ones for all models. A bootstrap over seeds alone is far too narrow for one or
two of them and too wide for five (docs/decisions.md#retention-has-a-t-interval).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edgedistil.core.records import Figure, NotMeasured
from edgedistil.evaluate.metrics import Floats, resampled_scores

Ints = NDArray[np.int64]

# Enough for a variance that is known to 5%.
RESAMPLES = 1000
LEVEL = 0.95
_BOOTSTRAP_SEED = 20191002  # fixed, so that repeated evaluations print the same interval
# One seed shows nothing of what another seed would give.
_MIN_SEEDS_FOR_INTERVAL = 2
# A ratio is nearly linear in its denominator if that is this many standard errors above 0.
_MIN_DENOMINATOR = 4.0


# --- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model for the dev set of one task, by seed.

    Attributes:
        metric: Name of the metric that counts.
        labels: N classes or values.
        by_seed: Seed → N predicted classes or values, or N scores where `holds_scores`.
        holds_scores: Each example was already scored on its own (spans, queries), so the metric is
            the mean of `by_seed`.
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
class SeedScores:
    """Scores of one model on the dev set of one task.

    Attributes:
        complete_S: Score of each seed on the complete dev set, shape (S,).
        resampled_SR: Score of each seed on R resamples of the dev set, shape (S, R). All models
            have the same resamples.
        trained: False for a prediction that no training leads to: seeds do not change it.
    """

    complete_S: Floats
    resampled_SR: Floats
    trained: bool = True

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(self.complete_S.mean())

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len(self.complete_S)


def seed_scores(model: Predictions) -> SeedScores:
    """Scores a model on the dev set and on its resamples."""
    examples = len(model.labels)
    draws_RN = _draws(examples)
    complete_1N = np.arange(examples)[None, :]
    seeds = sorted(model.by_seed)
    return SeedScores(
        np.concatenate([model.resampled(seed, complete_1N) for seed in seeds]),
        np.stack([model.resampled(seed, draws_RN) for seed in seeds]),
    )


def constant_scores(model: Predictions, constant: float) -> SeedScores:
    """Scores a constant prediction for a model's dev set; 0 where the predictions hold scores."""
    examples = len(model.labels)
    if model.holds_scores:
        return SeedScores(np.zeros(1), np.zeros((1, RESAMPLES)), trained=False)
    constant_N = np.full(examples, constant)
    alone = Predictions(model.metric, model.labels, {0: constant_N})
    scores = seed_scores(alone)
    return SeedScores(scores.complete_S, scores.resampled_SR, trained=False)


def _draws(examples: int) -> Ints:
    """Returns R draws of dev examples, shape (R, examples)."""
    generator = np.random.default_rng(_BOOTSTRAP_SEED)
    # int32 draws halve the generator's work; indexing needs int64.
    draws_RN = generator.integers(0, examples, size=(RESAMPLES, examples), dtype=np.int32)
    return draws_RN.astype(np.int64)


# --- noise ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Variance of a figure, by origin.

    Attributes:
        of_seeds: (variance, degrees of freedom) for each model that is trained.
        of_examples: Variance from the choice of the dev examples.
        fewest_seeds: Seeds of the model that has the fewest.
    """

    of_seeds: tuple[tuple[float, int], ...]
    of_examples: float
    fewest_seeds: int

    @property
    def variance(self) -> float:
        """Variance from both origins."""
        return self.of_examples + sum(part for part, _ in self.of_seeds)

    def __add__(self, other: Noise) -> Noise:
        """Returns the noise of a sum of two independent figures."""
        return Noise(
            self.of_seeds + other.of_seeds,
            self.of_examples + other.of_examples,
            min(self.fewest_seeds, other.fewest_seeds),
        )


def contrast_noise(terms: Sequence[tuple[float, SeedScores]]) -> Noise:
    """Returns the noise of Σ weight · mean over the seeds, on one dev set.

    Args:
        terms: Weight and scores of each model.
    """
    contrast_R = sum(weight * model.resampled_SR.mean(axis=0) for weight, model in terms)
    of_examples = float(np.var(contrast_R, ddof=1))
    of_seeds: list[tuple[float, int]] = []
    trained = [(weight, model) for weight, model in terms if model.trained]
    for weight, model in trained:
        if model.seeds < _MIN_SEEDS_FOR_INTERVAL:
            continue
        variance = float(np.var(model.complete_S, ddof=1)) / model.seeds
        of_seeds.append((weight**2 * variance, model.seeds - 1))
        # What depends on both seed and example is in both variances: subtract it from one.
        of_examples -= weight**2 * _interaction(model)
    fewest = min((model.seeds for _, model in trained), default=_MIN_SEEDS_FOR_INTERVAL)
    return Noise(tuple(of_seeds), max(of_examples, 0.0), fewest)


def _interaction(model: SeedScores) -> float:
    """Variance of the mean that depends on seed and examples together."""
    # One seed has the examples' variance and all of the interaction, the mean a share 1/S of it.
    of_one = float(np.var(model.resampled_SR, axis=1, ddof=1).mean())
    of_mean = float(np.var(model.resampled_SR.mean(axis=0), ddof=1))
    return max(of_one - of_mean, 0.0) / (model.seeds - 1)


@dataclass(frozen=True)
class Interval:
    """Lower and upper bound of a confidence interval."""

    low: Figure
    high: Figure


def t_interval(figure: float, noise: Noise, *, level: float = LEVEL) -> Interval:
    """Returns the interval of a figure; `NotMeasured` with fewer than two seeds.

    Args:
        figure: The figure.
        noise: Its variance.
        level: Share of such intervals that hold the true figure.
    Source: Satterthwaite 1946, for the degrees of freedom of a sum of variances.
    """
    if noise.fewest_seeds < _MIN_SEEDS_FOR_INTERVAL:
        reason = NotMeasured(
            not_measured=f"an interval needs at least {_MIN_SEEDS_FOR_INTERVAL} seeds, "
            f"got {noise.fewest_seeds}"
        )
        return Interval(reason, reason)
    half = _half_width(noise, level)
    return Interval(figure - half, figure + half)


def _half_width(noise: Noise, level: float) -> float:
    variance = noise.variance
    uncertainty = sum(part**2 / freedom for part, freedom in noise.of_seeds)
    # Without spread over the seeds the variance is known as well as the bootstrap knows it.
    quantile = float(stats.norm.ppf((1 + level) / 2))
    if uncertainty > 0:
        quantile = float(stats.t.ppf((1 + level) / 2, variance**2 / uncertainty))
    return quantile * float(np.sqrt(variance))


# --- retention -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetentionEstimate:
    """Retention of one model on one task, plain and above the baseline."""

    retention: Figure
    retention_interval: Interval
    retention_above_baseline: Figure
    retention_above_baseline_interval: Interval
    seeds: int
    interval: str


def estimate_retention(
    reference: SeedScores, model: SeedScores, baseline: SeedScores | NotMeasured
) -> RetentionEstimate:
    """Estimates retention and retention above the baseline, with confidence intervals.

        retention                = model / reference
        retention above baseline = (model - baseline) / (reference - baseline)

    Args:
        reference: Scores of the model whose score is retained.
        model: Scores of the other model on the same dev examples.
        baseline: Scores of a constant prediction or of a model with random weights; or why it is
            missing.
    Returns:
        Figures as shares, of the means over the seeds; a figure is `NotMeasured` where the
        reference does not exceed the baseline by more than the noise.
    """
    # Plain retention is retention above a baseline that scores 0.
    nothing = SeedScores(np.zeros(1), np.zeros((1, RESAMPLES)), trained=False)
    retention, retention_interval = _ratio(reference, model, nothing)
    above: Figure
    if isinstance(baseline, NotMeasured):
        above, above_interval = baseline, Interval(baseline, baseline)
    else:
        above, above_interval = _ratio(reference, model, baseline)
    return RetentionEstimate(
        retention=retention,
        retention_interval=retention_interval,
        retention_above_baseline=above,
        retention_above_baseline_interval=above_interval,
        seeds=min(scores.seeds for scores in (reference, model) if scores.trained),
        interval=describe_interval(contrast_noise([(1.0, model), (-1.0, reference)])),
    )


def describe_interval(noise: Noise) -> str:
    """Describes an interval for the record."""
    if noise.fewest_seeds < _MIN_SEEDS_FOR_INTERVAL:
        return "no interval: one seed does not show how much seeds differ"
    return (
        f"{LEVEL:.0%} t intervals of ratios of means over the seeds; variance of {RESAMPLES} "
        f"resamples of the dev examples, and of {noise.fewest_seeds} seeds or more"
    )


def _ratio(
    reference: SeedScores, model: SeedScores, baseline: SeedScores
) -> tuple[Figure, Interval]:
    """Returns (model - baseline) / (reference - baseline) and its interval."""
    denominator = reference.mean - baseline.mean
    if denominator <= 0:
        reason = NotMeasured(not_measured="the reference does not score above the baseline")
        return reason, Interval(reason, reason)
    ratio = (model.mean - baseline.mean) / denominator
    # First-order error of the ratio.
    terms = [(1.0, model), (-ratio, reference), (ratio - 1.0, baseline)]
    noise = contrast_noise([(weight / denominator, scores) for weight, scores in terms])
    of_denominator = contrast_noise([(1.0, reference), (-1.0, baseline)])
    if denominator < _MIN_DENOMINATOR * np.sqrt(of_denominator.variance):
        reason = NotMeasured(
            not_measured="the reference is not above the baseline by much more than the noise"
        )
        return ratio, Interval(reason, reason)
    return ratio, t_interval(ratio, noise)


# --- several tasks -------------------------------------------------------------------------------


def estimate_macro_retention(
    reference: Sequence[SeedScores], model: Sequence[SeedScores]
) -> tuple[float, Interval, Noise]:
    """Estimates the ratio of two models' means over several tasks.

    Args:
        reference: Scores of the reference, one entry per task.
        model: Scores of the other model on the same tasks, in the same order.
    Returns:
        The ratio, its interval, and its noise.
    """
    total = sum(scores.mean for scores in reference)
    ratio = sum(scores.mean for scores in model) / total
    # Tasks have other examples and other trainings, so their noise is independent.
    noises = [
        contrast_noise([(1 / total, model_scores), (-ratio / total, reference_scores)])
        for reference_scores, model_scores in zip(reference, model, strict=True)
    ]
    noise = reduce(Noise.__add__, noises)
    return ratio, t_interval(ratio, noise), noise


def estimate_difference(
    reference: Sequence[SeedScores], model: Sequence[SeedScores], weights: Sequence[float]
) -> tuple[float, Interval, Noise]:
    """Estimates the difference of two models' weighted means over several tasks.

    Args:
        reference: Scores of the reference, one entry per task.
        model: Scores of the other model on the same tasks, in the same order.
        weights: Weight of each task; they sum to 1.
    Returns:
        model - reference, its interval, and its noise.
    """
    difference = 0.0
    noises = []
    for weight, before, after in zip(weights, reference, model, strict=True):
        difference += weight * (after.mean - before.mean)
        noises.append(contrast_noise([(weight, after), (-weight, before)]))
    noise = reduce(Noise.__add__, noises)
    return difference, t_interval(difference, noise), noise
