"""Projected losses equal the plain formulas; tests/distill/test_losses.py varies the settings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgedistil.models.fast import projection
from edgedistil.models.fast.projection import ProjectedLosses, TeacherInputs, project_and_reduce
from edgedistil.models.losses import mlm_loss, soft_target_loss

N, K, V, D, W = 23, 7, 53, 11, 13  # W: the teacher's width
T = 3.0


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _student() -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight, bias = _normal(1, N, D), _normal(2, V, D), _normal(3, V)
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def _teacher() -> TeacherInputs:
    return TeacherInputs(_normal(4, N, W), _normal(5, V, W), _normal(6, V))


def _labels(count: int) -> Tensor:
    return torch.randint(V, (count,), generator=torch.Generator().manual_seed(7))


def _project(*, labelled: int = K, temperature: float = T) -> ProjectedLosses:
    return project_and_reduce(
        *_student(),
        _teacher(),
        _labels(labelled),
        soft_scale=0.3,
        mlm_scale=0.2,
        temperature=temperature,
    )


@pytest.mark.parametrize("labelled", [0, K, N])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("chunk_rows", [5, 768])
def test_values_and_gradients_equal_the_formulas(
    labelled: int, temperature: float, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "CHUNK_ROWS", chunk_rows)
    student, teacher, labels = _student(), _teacher(), _labels(labelled)
    logits_NV = student[0] @ student[1].T + student[2]
    teacher_NV = teacher.hidden_ND @ teacher.weight_VD.T + teacher.bias_V
    soft_sum = N * soft_target_loss(logits_NV, teacher_NV, temperature=temperature)
    mlm_sum = torch.zeros(())
    if labelled:
        mlm_sum = labelled * mlm_loss(logits_NV[:labelled], labels)
    plain = 0.3 * soft_sum + 0.2 * mlm_sum
    got = project_and_reduce(
        *student, teacher, labels, soft_scale=0.3, mlm_scale=0.2, temperature=temperature
    )
    assert float(got.soft_target_sum) == pytest.approx(soft_sum.item(), rel=1e-9)
    assert float(got.mlm_sum) == pytest.approx(mlm_sum.item(), rel=1e-9)
    expected = torch.autograd.grad(plain, student)
    for want, gradient in zip(expected, torch.autograd.grad(got.total, student), strict=True):
        # The one-hot part of the gradient is rounded to float32.
        assert torch.allclose(gradient, want, rtol=1e-6, atol=1e-7)


def test_a_factor_behind_the_total_scales_the_gradient() -> None:
    student, labels = _student(), _labels(N)
    settings = {"soft_scale": 0.0, "mlm_scale": 0.2, "temperature": 1.0}
    total = project_and_reduce(*student, None, labels, **settings).total
    plain = torch.autograd.grad(total, student, retain_graph=True)
    scaled = torch.autograd.grad(total * 0.25, student)
    for want, gradient in zip(plain, scaled, strict=True):
        assert torch.allclose(gradient, 0.25 * want, rtol=1e-12)


def test_the_sums_carry_no_gradient() -> None:
    losses = _project()
    assert losses.total.requires_grad
    assert not losses.soft_target_sum.requires_grad and not losses.mlm_sum.requires_grad


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, bias = _student()
    losses = project_and_reduce(
        hidden,
        weight.detach(),
        bias.detach(),
        _teacher(),
        None,
        soft_scale=0.3,
        mlm_scale=0.0,
        temperature=T,
    )
    losses.total.backward()
    assert hidden.grad is not None and weight.grad is None and bias.grad is None


def test_a_label_of_probability_zero_does_not_spoil_the_normalizer() -> None:
    """The normalizer is read at the label's column unless its probability is not exact there."""
    logits = torch.tensor([[0.0, 200.0, 3.0]])
    out = torch.empty_like(logits)
    at_label = projection._softmax(logits, out, torch.tensor([0]))
    assert float(at_label) == pytest.approx(float(logits.logsumexp(-1)))
    assert torch.equal(out, logits.softmax(-1))


@pytest.mark.parametrize(
    ("rows", "maximum", "sizes"),
    [(0, 7, []), (5, 7, [5]), (7, 7, [7]), (8, 7, [4, 4]), (293, 31, [30] * 9 + [23])],
)
def test_chunks_have_about_one_size(rows: int, maximum: int, sizes: list[int]) -> None:
    slices = list(projection._equal_chunks(rows, maximum))
    assert [part.stop - part.start for part in slices] == sizes
