"""Graded pairs: correlations against scipy's, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from edgedistil.core.errors import ModelError, TaskError
from edgedistil.evaluate.retrieval.embedders import Embedder
from edgedistil.evaluate.retrieval.pairs import correlate, read_pairs

N = 41
GENERATOR = np.random.default_rng(2)
VECTORS = {f"text {number}": GENERATOR.normal(size=5).astype(np.float32) for number in range(2 * N)}


def write(path: Path, scores: list[object]) -> Path:
    lines = [f"text {2 * n}\ttext {2 * n + 1}\t{score}" for n, score in enumerate(scores)]
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(lines) + "\n")
    return path


def embedder(vectors: dict[str, np.ndarray]) -> Embedder:
    return Embedder("model", lambda texts, side: np.stack([vectors[text] for text in texts]))


def test_correlations_are_scipys(tmp_path: Path) -> None:
    grades = [round(float(value), 2) for value in np.random.default_rng(3).uniform(0, 5, N)]
    pairs = read_pairs(write(tmp_path / "sts.tsv", list(grades)))
    cosines = []
    for n in range(N):
        a, b = VECTORS[f"text {2 * n}"], VECTORS[f"text {2 * n + 1}"]
        cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    correlations = correlate(pairs, embedder(VECTORS))
    pearson = correlations.pearson
    assert pearson.value == pytest.approx(stats.pearsonr(cosines, grades).statistic, abs=1e-6)
    expected = stats.spearmanr(cosines, grades).statistic
    assert correlations.spearman.value == pytest.approx(expected, abs=1e-6)
    # The textbook's interval of a correlation of 41 pairs, by Fisher's transformation.
    half = (pearson.high - pearson.low) / 2
    assert half == pytest.approx(1.96 / np.sqrt(N - 3) * (1 - pearson.value**2), rel=0.3)


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ([1.0] * 11 + ["much"], r"sts\.tsv:13: the score is 'much'; expected a number"),
        ([1.0] * 11 + ["nan"], r"sts\.tsv:13: the score is 'nan'"),
        ([1.0] * 12, "12 pairs with 1 different scores"),
        ([1.0, 2.0], "2 pairs with 2 different scores; expected at least 10"),
    ],
)
def test_a_file_that_cannot_be_used(scores: list[object], problem: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=problem):
        read_pairs(write(tmp_path / "sts.tsv", scores))


def test_a_vector_with_nan_is_refused(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "sts.tsv", list(range(12))))
    vectors = {name: vector.copy() for name, vector in VECTORS.items()}
    vectors["text 3"][0] = np.nan
    with pytest.raises(ModelError, match="the similarity of 1 pairs is NaN or infinite"):
        correlate(pairs, embedder(vectors))
