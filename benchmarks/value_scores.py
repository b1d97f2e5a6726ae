"""Scores and noise of judged models, from the records of value_judge.py and table4.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from value_data import Ints, random_pairs
from value_judge import DEPTH, unpack

from edgedistil.evaluate.retention import Noise, SeedScores, contrast_noise

RESAMPLES = 1000
_SEED = 20191002  # fixed, so that the same records give the same intervals
DRAWN_TASKS = ("sentiment", "topics")

Record = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TextScores(SeedScores):
    """Scores over texts, and over draws of labels where there are any.

    Attributes:
        of_draws: For each task its part of the score by seed and draw, (S, D); the score of a seed
            is the sum over the tasks of the means over the draws. Empty without labels.
    """

    of_draws: tuple[Floats, ...] = ()


def mean_of(parts: Sequence[TextScores]) -> TextScores:
    """The mean of several scores of the same models, over independent texts and draws."""
    return TextScores(
        np.mean([scores.complete_S for scores in parts], axis=0),
        np.mean([scores.resampled_SR for scores in parts], axis=0),
        of_draws=tuple(of_draws_SD / len(parts) for one in parts for of_draws_SD in one.of_draws),
    )


# --- texts and draws of labels -------------------------------------------------------------------


def ndcg_of_ranks(ranks: Sequence[int]) -> Floats:
    """nDCG@10 of queries with one right document each, of its rank; 0 if it was not found."""
    by_rank = np.concatenate([[0.0], 1 / np.log2(np.arange(1, DEPTH + 1) + 1)])
    values: Floats = by_rank[np.array(ranks)]
    return values


def text_scores(by_seed_SN: Floats, group_N: Ints | None = None) -> TextScores:
    """Scores that are means over N texts, resampled over their groups; None: each text alone."""
    return TextScores(by_seed_SN.mean(axis=1), _resampled_means(by_seed_SN, group_N))


def accuracies(outcomes: Sequence[Mapping[str, Any]], group_N: Ints | None = None) -> TextScores:
    """Accuracies over draws of labels, resampled over the groups of the judged texts.

    Args:
        outcomes: What `value_judge.pack` wrote, of each seed.
        group_N: Group of each judged text; None: each text alone.
    """
    by_seed_SDN = np.stack([unpack(packed) for packed in outcomes]).astype(float)
    of_texts = text_scores(by_seed_SDN.mean(axis=1), group_N)
    return replace(of_texts, of_draws=(by_seed_SDN.mean(axis=2),))


def few_label_scores(
    records: Sequence[Record], task: str, group_N: Ints | None = None
) -> TextScores:
    """Accuracies with few labels on frozen vectors."""
    return accuracies([record["correct"][task] for record in records], group_N)


def _resampled_means(by_seed_SN: Floats, group_N: Ints | None) -> Floats:
    """Means over groups of texts, drawn with replacement, the same for all models, (S, R)."""
    if group_N is None:
        group_N = np.arange(by_seed_SN.shape[1])
    texts_G = np.bincount(group_N)
    sums_SG = [np.bincount(group_N, weights=by_text_N) for by_text_N in by_seed_SN]
    groups = len(texts_G)
    drawn_RG = np.random.default_rng([_SEED, 0]).integers(0, groups, (RESAMPLES, groups))
    texts_R = texts_G[drawn_RG].sum(axis=1)
    return np.stack([sums_G[drawn_RG].sum(axis=1) / texts_R for sums_G in sums_SG])


# --- pairs of texts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairScores:
    """Scores over P pairs of texts, where a text is in several pairs.

    Attributes:
        complete_S: Score of each seed.
        influence_SP: How much a pair's weight changes a seed's score; the mean over pairs is 0.
        texts_2P: The two texts of each pair.
        trained: As in SeedScores.
    """

    complete_S: Floats
    influence_SP: Floats
    texts_2P: Ints
    trained: bool = True

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(self.complete_S.mean())


def correlations(records: Sequence[Record], of_teacher: Ints) -> PairScores:
    """Spearman's correlation of the cosines of pairs with the teacher's."""
    # The pairs are of the film sentences, all of which are judged.
    texts_2P = random_pairs(records[0]["correct"]["sentiment"]["texts"])
    estimates = [spearman(np.array(record["cosines"]), of_teacher) for record in records]
    return PairScores(
        np.array([correlation for correlation, _ in estimates]),
        np.stack([influence_P for _, influence_P in estimates]),
        texts_2P,
    )


def spearman(left_P: Ints | Floats, right_P: Ints | Floats) -> tuple[float, Floats]:
    """Returns Spearman's correlation and each pair's influence on it.

        ρ = cov(u, v) / (σ_u σ_v),  u_i = Σ_j w_j h(x_j, x_i),  h = 1 below, ½ if equal, else 0

    u and v are the mid-ranks as shares of the sample, and depend on all weights w = 1/P. The
    influence of pair i is P times the derivative of ρ along the direction that raises its weight
    w_i at the expense of all (the infinitesimal jackknife): a pair also moves the ranks of others.

    Source: Efron 1982, "The jackknife, the bootstrap and other resampling plans", §6.
    """
    left, right = _Ranks.of(left_P), _Ranks.of(right_P)
    # Derivatives of E[uv], E[u²] and E[v²]; means of u and v are ½ whatever the weights.
    of_product_P = left.shares_P * right.shares_P
    of_product_P += left.mean_above(right.shares_P) + right.mean_above(left.shares_P)
    correlation = _covariance(left, right) / np.sqrt(left.variance * right.variance)
    influence_P = of_product_P / np.sqrt(left.variance * right.variance)
    for ranks in (left, right):
        of_square_P = ranks.shares_P**2 + 2 * ranks.mean_above(ranks.shares_P)
        influence_P -= correlation * of_square_P / (2 * ranks.variance)
    return float(correlation), influence_P - influence_P.mean()


@dataclass(frozen=True)
class _Ranks:
    """Mid-ranks of P values, as shares of the sample.

    Attributes:
        shares_P: Share of the values below a value, and half of those equal to it.
        value_P: Index of a value among the different values, in ascending order.
    """

    shares_P: Floats
    value_P: Ints

    @classmethod
    def of(cls, values_P: Ints | Floats) -> _Ranks:
        _, value_P, counts = np.unique(values_P, return_inverse=True, return_counts=True)
        shares = (np.cumsum(counts) - counts / 2) / len(values_P)
        return cls(shares[value_P], value_P)

    @property
    def variance(self) -> float:
        return _covariance(self, self)

    def mean_above(self, other_P: Floats) -> Floats:
        """For each value, the sum of `other` over greater values and half of equal ones, by P."""
        sums = np.bincount(self.value_P, weights=other_P)
        above = np.cumsum(sums[::-1])[::-1] - sums / 2
        means: Floats = above[self.value_P] / len(other_P)
        return means


def _covariance(left: _Ranks, right: _Ranks) -> float:
    return float(np.mean((left.shares_P - 0.5) * (right.shares_P - 0.5)))


def dyadic_variance(influence_P: Floats, texts_2P: Ints) -> float:
    """Variance of a score over pairs, where pairs with a text in common depend on each other.

        Σ u_p u_q / P² over all (p, q) with a common text = (Σ_i S_i² − Σ_p u_p²) / P²

    S_i is the sum of the influences of the pairs that have text i. The estimate can be negative
    by chance; 0 is returned then.

    Source: Aronow, Samii and Assenova 2015, "Cluster-robust variance estimation for dyadic data".
    """
    texts = int(texts_2P.max()) + 1
    # Two pairs of the same texts have both in common: they are one pair here.
    low_P, high_P = np.sort(texts_2P, axis=0)
    pairs, pair_P = np.unique(low_P * texts + high_P, return_inverse=True)
    by_pair = np.bincount(pair_P, weights=influence_P)
    by_text = np.bincount(pairs // texts, by_pair, texts) + np.bincount(
        pairs % texts, by_pair, texts
    )
    total = float(np.sum(by_text**2) - np.sum(by_pair**2))
    return max(total, 0.0) / len(influence_P) ** 2


# --- noise of a difference -----------------------------------------------------------------------


def difference_noise(ours: TextScores | PairScores, theirs: TextScores | PairScores) -> Noise:
    """Returns the noise of one model's mean minus another's."""
    if isinstance(ours, TextScores) and isinstance(theirs, TextScores):
        noise = contrast_noise([(1.0, ours), (-1.0, theirs)])
        pairs = zip(ours.of_draws, theirs.of_draws, strict=True)
        return _with_draws(noise, [mine.mean(axis=0) - other.mean(axis=0) for mine, other in pairs])
    if isinstance(ours, PairScores) and isinstance(theirs, PairScores):
        return _pair_noise(ours, theirs)
    raise TypeError("expected two scores of the same kind")


def paired(ours: TextScores, theirs: TextScores) -> TextScores:
    """Returns the differences of two models seed by seed, on the same texts and draws."""
    pairs = zip(ours.of_draws, theirs.of_draws, strict=True)
    return TextScores(
        ours.complete_S - theirs.complete_S,
        ours.resampled_SR - theirs.resampled_SR,
        of_draws=tuple(mine_SD - other_SD for mine_SD, other_SD in pairs),
    )


def paired_noise(differences: TextScores) -> Noise:
    """Returns the noise of the mean of `paired` differences."""
    noise = contrast_noise([(1.0, differences)])
    return _with_draws(noise, [of_draws_SD.mean(axis=0) for of_draws_SD in differences.of_draws])


def _with_draws(noise: Noise, of_draws: Sequence[Floats]) -> Noise:
    """Adds the variance of means over draws of labels, which are as few as seeds are.

    Args:
        noise: From seeds and texts.
        of_draws: For each task the differences of the draws, (D,).
    """
    parts = [(float(np.var(of_D, ddof=1)) / len(of_D), len(of_D) - 1) for of_D in of_draws]
    return replace(noise, of_seeds=(*noise.of_seeds, *parts))


def of_seeds_alone(complete_S: Floats, *, trained: bool = True) -> TextScores:
    """Scores whose texts are the same whatever was drawn: only seeds give them noise."""
    return TextScores(complete_S, np.repeat(complete_S[:, None], 2, axis=1), trained=trained)


def _pair_noise(ours: PairScores, theirs: PairScores) -> Noise:
    """The same decomposition as `contrast_noise`, with the dyadic variance for the bootstrap's."""
    of_seeds = contrast_noise(
        [
            (1.0, of_seeds_alone(ours.complete_S, trained=ours.trained)),
            (-1.0, of_seeds_alone(theirs.complete_S, trained=theirs.trained)),
        ]
    )
    influence_P = ours.influence_SP.mean(axis=0) - theirs.influence_SP.mean(axis=0)
    of_pairs = dyadic_variance(influence_P, ours.texts_2P)
    of_pairs -= _interaction(ours) + _interaction(theirs)
    return replace(of_seeds, of_examples=max(of_pairs, 0.0))


def _interaction(scores: PairScores) -> float:
    """Variance of the mean that depends on seed and pairs together; 0 for an untrained model."""
    seeds = len(scores.complete_S)
    if not scores.trained or seeds < 2:
        return 0.0
    of_one = np.mean([dyadic_variance(one_P, scores.texts_2P) for one_P in scores.influence_SP])
    of_mean = dyadic_variance(scores.influence_SP.mean(axis=0), scores.texts_2P)
    return max(float(of_one) - of_mean, 0.0) / (seeds - 1)
