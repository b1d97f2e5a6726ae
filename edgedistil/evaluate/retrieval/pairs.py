"""Pairs of texts with a grade of similarity (STS): correlation of a model's with people's.

Source: Agirre et al. 2012, SemEval's task "Semantic Textual Similarity"; Cer et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, TaskError
from edgedistil.core.similarity import pair_similarities
from edgedistil.evaluate.formats import text_of
from edgedistil.evaluate.retrieval.comparison import (
    RESAMPLES,
    SEED,
    Estimate,
    percentile_interval,
)
from edgedistil.evaluate.retrieval.embedders import Embedder
from edgedistil.evaluate.spec import Files
from edgedistil.evaluate.tables import read_rows

Floats = NDArray[np.float64]

# Name of --task for a file of pairs: sts:FILE.
PREFIX = "sts:"
_COLUMNS = ("sentence1", "sentence2", "score")
# Fewer say nothing about a correlation.
_MIN_PAIRS = 10


@dataclass(frozen=True)
class PairSet:
    """Pairs of texts with grades.

    Attributes:
        name: Name in records.
        origin: File that it is from.
        first, second: The two texts of each pair.
        grades: Similarity of each pair, larger for more similar.
    """

    name: str
    origin: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    grades: Floats


def is_pair_set(task: str) -> bool:
    """Returns whether a name of --task is a file of graded pairs."""
    return task.startswith(PREFIX)


def read_pairs(path: Path) -> PairSet:
    """Reads a csv, tsv, jsonl or parquet file with sentence1, sentence2 and score.

    Raises:
        TaskError: The file is missing or malformed, has too few pairs, or only one grade.
    """
    first, second, grades = [], [], []
    for where, row in read_rows(path, Files(train=path.name, dev=(path.name,)), _COLUMNS, []):
        texts = [text_of(where, name, row[name]) for name in _COLUMNS[:2]]
        if not all(texts):
            raise TaskError(f"{where}: a text is empty", hint="leave the line out")
        first.append(texts[0])
        second.append(texts[1])
        grades.append(_grade(where, row["score"]))
    if len(grades) < _MIN_PAIRS or len(set(grades)) == 1:
        raise TaskError(
            f"{path} has {len(grades)} pairs with {len(set(grades))} different scores; expected at "
            f"least {_MIN_PAIRS} pairs and two scores"
        )
    return PairSet(path.stem, str(path), tuple(first), tuple(second), np.array(grades))


def _grade(where: str, value: object) -> float:
    try:
        grade = float(str(value))
    except ValueError:
        grade = float("nan")
    if not np.isfinite(grade):
        raise TaskError(f"{where}: the score is '{echo(value)}'; expected a number")
    return grade


@dataclass(frozen=True)
class Correlations:
    """Correlations of a model's similarities with the grades."""

    pearson: Estimate
    spearman: Estimate


def correlate(pairs: PairSet, embedder: Embedder) -> Correlations:
    """Returns the correlations of a model, with intervals over the pairs.

    Both texts are embedded as documents: neither of them is a question.

    Raises:
        ModelError: A vector holds NaN or infinite values.
    """
    first, second = (embedder.embed(texts, "document") for texts in (pairs.first, pairs.second))
    similarity_N = pair_similarities(first, second, embedder.similarity).astype(np.float64)
    bad = int((~np.isfinite(similarity_N)).sum())
    if bad:
        raise ModelError(f"{embedder.name}: the similarity of {bad} pairs is NaN or infinite")
    return Correlations(
        _estimate(_pearson, similarity_N, pairs.grades),
        _estimate(_spearman, similarity_N, pairs.grades),
    )


Statistic = Callable[[Floats, Floats], float]


def _estimate(statistic: Statistic, similarity_N: Floats, grades_N: Floats) -> Estimate:
    """Returns a correlation with its percentile interval over resampled pairs."""
    generator = np.random.default_rng(SEED)
    resampled = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        draw_N = generator.integers(0, len(grades_N), len(grades_N))
        resampled[number] = statistic(similarity_N[draw_N], grades_N[draw_N])
    return percentile_interval(statistic(similarity_N, grades_N), resampled)


def _pearson(a_N: Floats, b_N: Floats) -> float:
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    norm = float(np.linalg.norm(a_N) * np.linalg.norm(b_N))
    # Equal values are in no relation to anything.
    return float(a_N @ b_N) / norm if norm else 0.0


def _spearman(a_N: Floats, b_N: Floats) -> float:
    return _pearson(stats.rankdata(a_N), stats.rankdata(b_N))
