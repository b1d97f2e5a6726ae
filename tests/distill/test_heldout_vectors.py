"""Figures of sentence vectors on held-out text, against counting by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.data.masking import IGNORED
from edgedistil.distill import heldout_vectors as module
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.heldout_vectors import VectorEvaluator, nearest_overlap
from edgedistil.distill.losses import count_tokens

TEXTS, WIDTH = 23, 7


class Table(nn.Module):
    """Vectors by the number of a text."""

    def __init__(self, vectors_TV: Tensor) -> None:
        super().__init__()
        self.vectors_TV = vectors_TV


class Rows:
    def __init__(self, vectors_TV: Tensor) -> None:
        self.vectors_TV = vectors_TV

    def vectors(self, rows_B: NDArray[np.int64]) -> Tensor:
        return self.vectors_TV[torch.from_numpy(rows_B)]


def batches() -> Sequence[MicroBatch]:
    result = []
    for number, rows in enumerate(np.array_split(np.arange(TEXTS), 3)):
        labels_BL = torch.full((len(rows), 2), IGNORED)
        counts = count_tokens(labels_BL, None)
        ids_BL = torch.from_numpy(rows)[:, None].repeat(1, 2)
        result.append(MicroBatch(number, ids_BL, None, labels_BL, counts, rows))
    return result


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> VectorEvaluator:
    monkeypatch.setattr(
        module, "encode_vectors", lambda table, ids_BL, _: table.vectors_TV[ids_BL[:, 0]]
    )
    torch.manual_seed(5)
    targets = Rows(torch.randn(TEXTS, WIDTH) * 3)
    return VectorEvaluator(
        batches(),
        None,
        targets=targets,
        accelerator=Accelerator(cpu=True),  # type: ignore[arg-type]
    )


def unit(vectors_TV: Tensor) -> Tensor:
    return vectors_TV / vectors_TV.norm(dim=-1, keepdim=True)


def test_figures_equal_a_count_by_hand(evaluator: VectorEvaluator) -> None:
    teacher_TV = unit(evaluator._teacher_TV)
    student_TV = unit(teacher_TV + 0.3 * torch.randn(TEXTS, WIDTH))
    got = evaluator.evaluate(Table(student_TV * 5), name="student", step=3)  # type: ignore[arg-type]

    pairs = list(itertools.combinations(range(TEXTS), 2))
    ours = [float(student_TV[a] @ student_TV[b]) for a, b in pairs]
    theirs = [float(teacher_TV[a] @ teacher_TV[b]) for a, b in pairs]
    assert got.rank_correlation == pytest.approx(stats.spearmanr(ours, theirs).statistic, abs=1e-6)
    assert got.cosine == pytest.approx(float((student_TV * teacher_TV).sum(-1).mean()), abs=1e-6)

    def nearest(queries_TV: Tensor, documents_TV: Tensor, text: int) -> set[int]:
        others = [other for other in range(TEXTS) if other != text]
        others.sort(key=lambda other: -float(queries_TV[text] @ documents_TV[other]))
        return set(others[:10])

    right = [nearest(teacher_TV, teacher_TV, text) for text in range(TEXTS)]
    for figure, documents_TV in (
        (got.top10_overlap, student_TV),
        (got.asymmetric_top10_overlap, teacher_TV),
    ):
        neighbours = [nearest(student_TV, documents_TV, text) for text in range(TEXTS)]
        overlaps = [len(a & b) / 10 for a, b in zip(neighbours, right, strict=True)]
        assert figure == pytest.approx(np.mean(overlaps), abs=1e-6)
        assert 0.5 < float(figure) < 1  # type: ignore[arg-type]
    assert (got.model, got.step, got.texts) == ("student", 3, TEXTS)


def test_the_teacher_agrees_with_itself(evaluator: VectorEvaluator) -> None:
    got = evaluator.evaluate(None, name="teacher", step=0)
    assert got.rank_correlation == pytest.approx(1) and got.cosine == pytest.approx(1)
    assert got.top10_overlap == got.asymmetric_top10_overlap == 1


def test_another_length_of_vectors_changes_nothing(evaluator: VectorEvaluator) -> None:
    scaled = Table(evaluator._teacher_TV * torch.rand(TEXTS, 1).add(0.5))
    got = evaluator.evaluate(scaled, name="student", step=1)  # type: ignore[arg-type]
    assert got.rank_correlation == pytest.approx(1)


def test_one_vector_for_all_texts_has_no_rank(evaluator: VectorEvaluator) -> None:
    collapsed = Table(torch.ones(TEXTS, WIDTH))
    got = evaluator.evaluate(collapsed, name="student", step=1)  # type: ignore[arg-type]
    assert got.rank_correlation == 0


def test_vectors_that_are_not_finite_are_named(evaluator: VectorEvaluator) -> None:
    broken = Table(torch.full((TEXTS, WIDTH), torch.nan))
    with pytest.raises(TrainingDiverged, match="after step 2"):
        evaluator.evaluate(broken, name="student", step=2)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="of the student"):
        evaluator.evaluate(broken, name="student", step=0)  # type: ignore[arg-type]


def test_too_few_texts_have_no_ranks() -> None:
    with pytest.raises(ModelError, match="the held-out part has 0 texts"):
        VectorEvaluator([], None, targets=None, accelerator=Accelerator(cpu=True))  # type: ignore[arg-type]


def test_the_overlap_sees_one_exchanged_neighbour() -> None:
    teacher_TT = -np.abs(np.subtract.outer(np.arange(13.0), np.arange(13.0))).astype(np.float32)
    student_TT = teacher_TT.copy()
    student_TT[0, [10, 11]] = student_TT[0, [11, 10]]
    assert nearest_overlap(student_TT, teacher_TT) == pytest.approx(1 - 1 / 130)
