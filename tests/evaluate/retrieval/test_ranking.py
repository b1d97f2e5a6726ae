"""Rankings and their metrics, against the definitions written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.similarity import rank
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.retrieval.ranking import score_run, score_vectors

DOCUMENTS = {f"d{index}": f"text {index}" for index in range(12)}


def collection(relevance: dict[str, dict[str, int]]) -> Collection:
    return Collection("test", "here", DOCUMENTS, dict.fromkeys(relevance, "question"), relevance)


def gain(grade: int, place: int) -> float:
    """Gain of a document at a place of the ranking, from 1; trec_eval's is linear in the grade."""
    return grade / math.log2(place + 1)


def test_ndcg_recall_and_reciprocal_rank_by_hand() -> None:
    # Two relevant documents, of the grades 2 and 1, at the places 3 and 12 (beyond the cut).
    relevance = {"q": {"d2": 2, "d11": 1}}
    run = {"q": {name: float(-place) for place, name in enumerate(DOCUMENTS)}}
    scores = score_run(collection(relevance), run)
    ideal = gain(2, 1) + gain(1, 2)
    assert scores.mean("ndcg@10") == pytest.approx(gain(2, 3) / ideal)
    assert scores.mean("recall@10") == pytest.approx(1 / 2)
    assert scores.mean("recall@100") == 1
    assert scores.mean("mrr") == pytest.approx(1 / 3)


def test_scores_are_means_over_queries() -> None:
    relevance = {"a": {"d0": 1}, "b": {"d1": 1}}
    run = {query: {name: -float(place) for place, name in enumerate(DOCUMENTS)} for query in "ab"}
    scores = score_run(collection(relevance), run)
    assert scores.by_metric["mrr"].tolist() == [1, 0.5]
    assert scores.mean("ndcg@10") == pytest.approx((1 + gain(1, 2)) / 2)


def test_vectors_rank_by_cosine_or_product() -> None:
    documents = np.array([[10.0, 10.0], [1.0, 0.1], [0.0, 3.0]], dtype=np.float32)
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    assert next(iter(rank(query, documents, depth=3))).tolist() == [1, 0, 2]
    assert next(iter(rank(query, documents, "dot", depth=2))).tolist() == [0, 1]
    assert next(iter(rank(query, documents, "euclidean", depth=2))).tolist() == [1, 2]
    assert next(iter(rank(query, documents, "manhattan", depth=2))).tolist() == [1, 2]


def test_equal_similarities_keep_the_order_of_the_documents() -> None:
    documents = np.ones((12, 2), dtype=np.float32)
    query = np.ones((1, 2), dtype=np.float32)
    scores = score_vectors(collection({"q": {"d1": 1}}), query, documents)
    assert scores.mean("mrr") == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    documents = np.ones((12, 2), dtype=np.float32)
    documents[3, 1] = value
    query = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ModelError, match="1 of 12 vectors of documents contain NaN"):
        score_vectors(collection({"q": {"d1": 1}}), query, documents)


def test_vectors_of_two_widths_are_refused() -> None:
    documents = np.ones((12, 2), dtype=np.float32)
    query = np.ones((1, 3), dtype=np.float32)
    with pytest.raises(ModelError, match="3 values and document vectors 2"):
        score_vectors(collection({"q": {"d1": 1}}), query, documents)
