"""The soft-target losses are their definitions: zero for equal models, blind to a shift, blind to padding."""

import pytest
import torch

from edgedistil.core.errors import ShapeError
from edgedistil.evaluate.soft_targets import (
    mixed_loss,
    soft_label_loss,
    soft_span_loss,
    soft_value_loss,
)

N, C, L = 5, 3, 11


def rows(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_zero_for_equal_and_for_shifted_logits():
    teacher = rows(1, N, C)
    assert soft_label_loss(teacher, teacher, temperature=2.0).item() == pytest.approx(0, abs=1e-6)
    assert soft_label_loss(teacher + 7, teacher, temperature=2.0).item() == pytest.approx(
        0, abs=1e-6
    )


def test_by_hand_at_temperature_one():
    student, teacher = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    by_hand = 0.9 * torch.log(torch.tensor(0.9 / 0.5)) + 0.1 * torch.log(torch.tensor(0.1 / 0.5))
    assert soft_label_loss(student, teacher, temperature=1.0).item() == pytest.approx(
        by_hand.item(), rel=1e-5
    )


def test_gradient_does_not_shrink_with_the_temperature():
    """At high T the gradient tends to (student - teacher) / C, whatever T."""
    sizes = []
    for temperature in (20.0, 200.0):
        student = rows(2, N, C).requires_grad_()
        soft_label_loss(student, rows(3, N, C), temperature=temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_padding_counts_for_nothing():
    mask = torch.ones(N, L)
    mask[:, 7:] = 0
    student, teacher = rows(4, N, L), rows(5, N, L)
    short = soft_label_loss(student[:, :7], teacher[:, :7], temperature=2.0)
    noisy = teacher + (1 - mask) * 1000
    assert soft_span_loss(student, noisy, mask, temperature=2.0).item() == pytest.approx(
        short.item(), rel=1e-5
    )


def test_padding_gets_no_gradient():
    mask = torch.ones(N, L)
    mask[:, 7:] = 0
    student = rows(6, N, L).requires_grad_()
    soft_span_loss(student, rows(7, N, L), mask, temperature=2.0).backward()
    assert student.grad[:, 7:].abs().max() == 0
    assert student.grad[:, :7].abs().max() > 0


def test_values_by_hand():
    assert soft_value_loss(
        torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    ).item() == pytest.approx(2.0)


def test_mixture_by_hand():
    assert mixed_loss(torch.tensor(2.0), torch.tensor(10.0), alpha=0.25).item() == pytest.approx(
        4.0
    )


def test_shapes_must_agree_and_hold_something():
    with pytest.raises(ShapeError, match=r"\(5, 3\).*\(5, 2\)"):
        soft_label_loss(rows(1, N, C), rows(1, N, 2), temperature=1.0)
    with pytest.raises(ShapeError):
        soft_value_loss(torch.zeros(0), torch.zeros(0))
