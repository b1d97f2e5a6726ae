"""Agreement of an artefact's rankings of texts with PyTorch's: what a search depends on.

The cosine to PyTorch's vector can be 0.99 for every text and the order of the neighbours another
one, because the vectors of unrelated texts have a large part in common. So the texts of a pool are
ranked by both, each text as a query among the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ParityError
from edgedistil.core.export_records import RankFigures
from edgedistil.core.sentence_vector import Similarity
from edgedistil.core.similarity import similarities
from edgedistil.core.task import SENTENCE_OUTPUT
from edgedistil.parity.compare import cosines
from edgedistil.parity.probes import TextPool

Vectors = NDArray[np.float32]
RunModel = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

# Neighbours that are compared, as a search shows.
TOP = 10
# Fewer texts have too few neighbours to put them into another order.
MIN_TEXTS = 40


def compare_rankings(pool: TextPool | None, run: RunModel) -> RankFigures | None:
    """Runs an artefact on the pool and compares its rankings with PyTorch's.

    Args:
        pool: Texts with PyTorch's vectors; None for a model without sentence vectors.
        run: Computes the outputs of feeds.
    Returns:
        None without a pool, or with too few texts in it.
    Raises:
        ParityError: A vector holds NaN or an infinity, or has another width than PyTorch's.
    """
    if pool is None or pool.texts < MIN_TEXTS:
        return None
    expected, actual = [], []
    for batch in pool.batches:
        vectors = run(batch.feeds)[SENTENCE_OUTPUT]
        if vectors.shape != batch.vectors_BV.shape:
            raise ParityError(
                f"the vectors of {len(batch.vectors_BV)} texts have the shape {vectors.shape}, "
                f"expected {batch.vectors_BV.shape}"
            )
        expected.append(batch.vectors_BV)
        actual.append(vectors.astype(np.float32))
    return rank_figures(
        np.concatenate(expected), np.concatenate(actual), similarity=pool.similarity
    )


def rank_figures(
    expected_NV: Vectors, actual_NV: Vectors, *, similarity: Similarity
) -> RankFigures:
    """Compares two models' rankings of the same texts.

    Args:
        expected_NV: PyTorch's vectors.
        actual_NV: The artefact's vectors of the same texts.
        similarity: How the model's vectors are compared.
    Raises:
        ParityError: A vector holds NaN or an infinity.
    """
    bad = int((~np.isfinite(actual_NV)).any(axis=1).sum())
    if bad:
        raise ParityError(f"{bad} of {len(actual_NV)} sentence vectors hold NaN or infinite values")
    expected_NN = similarities(expected_NV, expected_NV, similarity)
    actual_NN = similarities(actual_NV, actual_NV, similarity)
    pairs = np.triu_indices(len(expected_NN), k=1)
    cosines_N = cosines(expected_NV, actual_NV)
    return RankFigures(
        texts=len(expected_NV),
        similarity=similarity,
        top10_overlap=_top_overlap(expected_NN, actual_NN),
        rank_correlation=spearman(expected_NN[pairs], actual_NN[pairs]),
        vector_cosine_min=float(cosines_N.min()),
        vector_cosine_mean=float(cosines_N.mean()),
    )


def _top_overlap(expected_NN: Vectors, actual_NN: Vectors) -> float:
    """Mean share of the nearest texts that both have, 0 to 1."""
    shares = []
    for number, (expected_N, actual_N) in enumerate(zip(expected_NN, actual_NN, strict=True)):
        # A text is its own nearest neighbour in every model.
        shares.append(len(_nearest(expected_N, number) & _nearest(actual_N, number)) / TOP)
    return float(np.mean(shares))


def _nearest(similarities_N: Vectors, own: int) -> set[int]:
    order = np.argsort(-similarities_N, kind="stable")
    return {int(index) for index in order[order != own][:TOP]}


def spearman(expected_P: NDArray[Any], actual_P: NDArray[Any]) -> float:
    """Returns Spearman's rank correlation, −1 to 1; 0 if all values of one side are equal."""
    expected, actual = _ranks(expected_P), _ranks(actual_P)
    expected -= expected.mean()
    actual -= actual.mean()
    norm = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    return float(expected @ actual) / norm if norm else 0.0


def _ranks(values_P: NDArray[Any]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values_P, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: NDArray[np.float64] = ends - (counts + 1) / 2
    return middles[inverse]
