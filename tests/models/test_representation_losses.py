"""Losses on states and vectors, against the formulas written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgedistil.core.errors import ShapeError
from edgedistil.models.representation_losses import relation_loss, similarity_loss, vector_loss


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(rows: torch.Tensor) -> np.ndarray:
    array = rows.double().numpy()
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


def test_vector_loss_is_the_squared_distance_of_unit_vectors() -> None:
    student, teacher = drawn(4, 6, seed=1), drawn(4, 6, seed=2)
    expected = ((unit(student) - unit(teacher)) ** 2).sum(-1).mean()
    assert vector_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    cosines = (unit(student) * unit(teacher)).sum(-1)
    assert expected == pytest.approx(2 * (1 - cosines).mean())


def test_the_length_of_a_vector_is_ignored() -> None:
    student, teacher = drawn(4, 6, seed=1), drawn(4, 6, seed=2)
    assert vector_loss(3 * student, teacher).item() == pytest.approx(
        vector_loss(student, teacher).item(), rel=1e-5
    )
    assert vector_loss(teacher, teacher).item() == 0


def test_similarity_loss_compares_the_other_texts() -> None:
    student, teacher = drawn(5, 4, seed=3), drawn(5, 7, seed=4)
    divergences = []
    for text in range(5):
        others = [other for other in range(5) if other != text]
        q = log_softmax(unit(student)[text] @ unit(student)[others].T / 0.1)
        p = log_softmax(unit(teacher)[text] @ unit(teacher)[others].T / 0.1)
        divergences.append((np.exp(p) * (p - q)).sum())
    loss = similarity_loss(student, teacher, temperature=0.1)
    assert loss.item() == pytest.approx(np.mean(divergences), rel=1e-4)
    assert similarity_loss(teacher, teacher, temperature=0.1).item() == pytest.approx(0, abs=1e-6)


def test_relation_loss_of_attended_positions() -> None:
    student, teacher = drawn(2, 4, 6, seed=5), drawn(2, 4, 8, seed=6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    divergences = []
    for text, size in enumerate((4, 2)):
        for head in range(2):
            q_rows = student[text, :size, 3 * head : 3 * head + 3].double().numpy()
            p_rows = teacher[text, :size, 4 * head : 4 * head + 4].double().numpy()
            q = log_softmax(q_rows @ q_rows.T / 3**0.5)
            p = log_softmax(p_rows @ p_rows.T / 4**0.5)
            divergences += list((np.exp(p) * (p - q)).sum(-1))
    loss = relation_loss(student, teacher, mask, heads=2)
    assert loss.item() == pytest.approx(np.mean(divergences), rel=1e-4)


def test_only_the_student_gets_a_gradient() -> None:
    student = drawn(3, 4, seed=7).requires_grad_()
    teacher = drawn(3, 4, seed=8).requires_grad_()
    loss = vector_loss(student, teacher) + similarity_loss(student, teacher, temperature=0.05)
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_padding_has_no_gradient_and_no_nan() -> None:
    student = drawn(1, 3, 4, seed=9).requires_grad_()
    mask = torch.tensor([[1, 1, 0]])
    relation_loss(student, drawn(1, 3, 4, seed=10), mask, heads=2).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert student.grad[0, 2].abs().sum() == 0


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 4\) and \(2, 5\)"):
        vector_loss(torch.ones(2, 4), torch.ones(2, 5))
    with pytest.raises(ShapeError, match="at least 3"):
        similarity_loss(torch.ones(2, 4), torch.ones(2, 4), temperature=1)
    with pytest.raises(ShapeError, match="4 relation heads do not divide a width of 6"):
        relation_loss(torch.ones(1, 2, 8), torch.ones(1, 2, 6), torch.ones(1, 2), heads=4)
