"""Similarity of vectors, and the order in which they are found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.sentence_vector import Similarity

Vectors = NDArray[np.float32]

# Queries whose similarities to all documents are in memory at once.
_QUERIES_AT_ONCE = 256
# Smallest norm that a vector is divided by.
_MIN_NORM = 1e-12
_ORDERS = {"euclidean": 2, "manhattan": 1}


def similarities(queries_QV: Vectors, documents_NV: Vectors, similarity: Similarity) -> Vectors:
    """Returns the similarities of queries and documents, larger for nearer, (Q, N)."""
    if similarity == "cosine":
        queries_QV, documents_NV = _normalized(queries_QV), _normalized(documents_NV)
    if similarity in ("cosine", "dot"):
        return queries_QV @ documents_NV.T
    order = _ORDERS[similarity]
    distances = [np.linalg.norm(documents_NV - query, ord=order, axis=1) for query in queries_QV]
    return -np.stack(distances).astype(np.float32)


def pair_similarities(first_NV: Vectors, second_NV: Vectors, similarity: Similarity) -> Vectors:
    """Returns the similarity of each pair of rows, (N,)."""
    if similarity == "cosine":
        first_NV, second_NV = _normalized(first_NV), _normalized(second_NV)
    if similarity in ("cosine", "dot"):
        products: Vectors = np.einsum("nv,nv->n", first_NV, second_NV)
        return products
    distances_N = np.linalg.norm(first_NV - second_NV, ord=_ORDERS[similarity], axis=1)
    nearness_N: Vectors = -distances_N.astype(np.float32)
    return nearness_N


def rank(
    queries_QV: Vectors, documents_NV: Vectors, similarity: Similarity = "cosine", *, depth: int
) -> Iterator[NDArray[np.int64]]:
    """Yields the indices of the nearest documents of each query, best first.

    Documents of equal similarity keep their order.
    """
    if similarity == "cosine":
        # Once, and not for each part of the queries.
        queries_QV, documents_NV = _normalized(queries_QV), _normalized(documents_NV)
        similarity = "dot"
    for start in range(0, len(queries_QV), _QUERIES_AT_ONCE):
        chunk = queries_QV[start : start + _QUERIES_AT_ONCE]
        for row_N in similarities(chunk, documents_NV, similarity):
            # A stable sort of the negative scores: the first of equal ones stays first.
            yield np.argsort(-row_N, kind="stable")[:depth]


def _normalized(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalized: Vectors = vectors / np.maximum(norms, _MIN_NORM)
    return normalized
