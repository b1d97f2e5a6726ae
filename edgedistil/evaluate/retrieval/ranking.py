"""Ranks documents by similarity of vectors, and scores the ranking with TREC's own program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.core.sentence_vector import Similarity
from edgedistil.core.similarity import Vectors, rank
from edgedistil.evaluate.retrieval.collection import Collection

# Name in records → trec_eval's name.
METRICS = {
    "ndcg@10": "ndcg_cut_10",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "mrr": "recip_rank",
}
MAIN_METRIC = "ndcg@10"
# Documents of a ranking that are scored; the deepest metric needs this many.
DEPTH = 100


@dataclass(frozen=True)
class RetrievalScores:
    """Metrics of one ranking, by query.

    Attributes:
        queries: Ids of the queries, in order.
        by_metric: Name of a metric → its value for each query.
    """

    queries: tuple[str, ...]
    by_metric: dict[str, NDArray[np.float64]]

    def mean(self, metric: str) -> float:
        """Returns the mean over the queries, 0 to 1."""
        return float(self.by_metric[metric].mean())


def score_vectors(
    collection: Collection,
    query_vectors: Vectors,
    document_vectors: Vectors,
    similarity: Similarity = "cosine",
) -> RetrievalScores:
    """Ranks all documents for each query and scores the rankings.

    Args:
        collection: Queries, documents and relevance.
        query_vectors: (queries, V), in the collection's order.
        document_vectors: (documents, V), in the collection's order.
        similarity: How vectors are compared.
    Raises:
        ModelError: Vectors contain NaN or infinite values, or have different widths.
    """
    _check(collection.queries, query_vectors, "queries")
    _check(collection.documents, document_vectors, "documents")
    if query_vectors.shape[1] != document_vectors.shape[1]:
        raise ModelError(
            f"query vectors have {query_vectors.shape[1]} values and document vectors "
            f"{document_vectors.shape[1]}; expected the same number"
        )
    names = list(collection.documents)
    run: dict[str, dict[str, float]] = {}
    ranked = rank(query_vectors, document_vectors, similarity, depth=DEPTH)
    for query, indices in zip(collection.queries, ranked, strict=True):
        # trec_eval sorts by score and breaks ties by name; scores that fall by rank keep our order.
        run[query] = {names[index]: float(-place) for place, index in enumerate(indices)}
    return score_run(collection, run)


def score_run(collection: Collection, run: dict[str, dict[str, float]]) -> RetrievalScores:
    """Scores rankings: id of a query → id of a document → score, larger for better."""
    relevance = {query: dict(grades) for query, grades in collection.relevance.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(relevance, set(METRICS.values()))
    by_query = evaluator.evaluate(run)
    queries = tuple(collection.queries)
    by_metric = {
        name: np.array([by_query[query][key] for query in queries], dtype=np.float64)
        for name, key in METRICS.items()
    }
    return RetrievalScores(queries, by_metric)


def _check(texts: Mapping[str, str], vectors: Vectors, what: str) -> None:
    if len(vectors) != len(texts):
        raise ModelError(f"got {len(vectors)} vectors for {len(texts)} {what}")
    bad = int((~np.isfinite(vectors)).any(axis=1).sum())
    if bad:
        raise ModelError(
            f"{bad:,} of {len(vectors):,} vectors of {what} contain NaN or infinite values"
        )
