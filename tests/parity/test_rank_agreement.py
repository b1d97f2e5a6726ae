"""Rankings of two models: equal ones agree completely, and each kind of difference is seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import spearmanr

from edgedistil.core.errors import ParityError
from edgedistil.core.export_records import RankFigures
from edgedistil.parity.probes import PoolBatch, TextPool
from edgedistil.parity.rank_agreement import MIN_TEXTS, compare_rankings, rank_figures, spearman

N, V = 61, 7
VECTORS = np.random.default_rng(3).normal(size=(N, V)).astype(np.float32)


def figures(actual: np.ndarray, similarity: str = "cosine") -> RankFigures:
    return rank_figures(VECTORS, actual.astype(np.float32), similarity=similarity)  # type: ignore[arg-type]


def test_equal_vectors_agree_and_lengths_do_not_matter_to_a_cosine() -> None:
    for actual in (VECTORS, VECTORS * np.arange(1, N + 1)[:, None]):
        same = figures(actual)
        assert same.top10_overlap == 1
        assert same.rank_correlation == pytest.approx(1)
        assert same.vector_cosine_min == pytest.approx(1)
    assert figures(VECTORS * np.arange(1, N + 1)[:, None], "dot").top10_overlap < 0.7


def test_a_common_part_hides_another_order_from_the_cosine() -> None:
    # Every vector is moved to one side: all cosines are high, and the order is another one.
    common = np.zeros(V)
    common[0] = 30
    expected = (VECTORS + common).astype(np.float32)
    noise = np.random.default_rng(4).normal(size=(N, V)).astype(np.float32)
    got = rank_figures(expected, expected + noise, similarity="cosine")
    assert got.vector_cosine_min > 0.98
    assert got.top10_overlap < 0.6
    assert got.rank_correlation < 0.8


def test_the_overlap_by_hand() -> None:
    # On a line: the neighbours of the first text are the next ten.
    line = np.stack([np.arange(N), np.zeros(N)], axis=1).astype(np.float32)
    moved = line.copy()
    moved[10], moved[20] = line[20].copy(), line[10].copy()
    got = rank_figures(line, moved, similarity="euclidean")
    # Of the first text, one of ten neighbours is another one; the moved texts keep none.
    assert 0.8 < got.top10_overlap < 0.95
    assert rank_figures(line, line, similarity="euclidean").top10_overlap == 1


def test_ranks_of_equal_values_are_shared() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.integers(0, 9, 400), generator.integers(0, 9, 400)
    assert spearman(a, b + a) == pytest.approx(spearmanr(a, b + a).statistic)
    assert spearman(a, np.zeros(400)) == 0


def pool(count: int) -> TextPool:
    batches = []
    for start in range(0, count, 20):
        ids = np.arange(start, min(start + 20, count))[:, None]
        batches.append(PoolBatch({"input_ids": ids}, VECTORS[ids[:, 0]]))
    return TextPool("cosine", tuple(batches))


def look_up(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"sentence_embedding": VECTORS[feeds["input_ids"][:, 0]]}


def test_a_pool_is_run_batch_by_batch() -> None:
    got = compare_rankings(pool(N), look_up)
    assert got is not None and (got.texts, got.top10_overlap) == (N, 1)
    assert compare_rankings(None, dict) is None
    assert compare_rankings(pool(MIN_TEXTS - 1), dict) is None


def test_nan_and_other_widths_are_refused() -> None:
    with pytest.raises(ParityError, match="1 of 61 sentence vectors hold NaN"):
        bad = VECTORS.copy()
        bad[3, 2] = np.nan
        figures(bad)
    with pytest.raises(ParityError, match=r"have the shape \(20, 3\), expected \(20, 7\)"):
        compare_rankings(pool(N), lambda feeds: {"sentence_embedding": np.zeros((20, 3))})
