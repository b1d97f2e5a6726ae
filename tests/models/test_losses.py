"""The formulas' tests are their definitions: zero for identical models, one scale at every T."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import edgedistil
from edgedistil.core.errors import ShapeError
from edgedistil.evaluate import finetune
from edgedistil.evaluate.kinds import KINDS
from edgedistil.evaluate.spec import SecondDistillation
from edgedistil.models import losses
from edgedistil.models.losses import (
    at_least_float32,
    cosine_loss,
    mixed_loss,
    mlm_loss,
    partly_labelled_loss,
    soft_span_loss,
    soft_target_loss,
    soft_value_loss,
)

N, C, D, W, V, L = 5, 3, 7, 11, 13, 17  # W: another width


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- soft targets --------------------------------------------------------------------------------


def test_soft_target_loss_by_hand() -> None:
    """p = (3/4, 1/4) and q = (1/2, 1/2) at T = 2: the logits are 2 log 3 apart, and level."""
    student_NV, teacher_NV = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    loss = soft_target_loss(student_NV, teacher_NV, temperature=2.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_soft_target_loss_by_hand_at_temperature_one() -> None:
    student, teacher = torch.log(torch.tensor([[0.5, 0.5]])), torch.log(torch.tensor([[0.9, 0.1]]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    loss = soft_target_loss(student, teacher, temperature=1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("classes", [2, C, 1009])
def test_soft_target_loss_keeps_the_bits_of_records(temperature: float, classes: int) -> None:
    """Fine-tuned scores depend on this exact order of operations."""
    student, teacher = rows(1, 101, classes), rows(2, 101, classes)
    expected = (
        F.kl_div(
            F.log_softmax(student / temperature, dim=-1),
            F.log_softmax(teacher / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )
    assert torch.equal(soft_target_loss(student, teacher, temperature=temperature), expected)


def test_identical_models_have_no_soft_target_and_no_cosine_loss() -> None:
    logits_NV, hidden_ND = rows(1, N, V), rows(2, N, D)
    assert float(soft_target_loss(logits_NV, logits_NV, temperature=2.0)) == 0
    assert abs(float(cosine_loss(hidden_ND, hidden_ND))) < 1e-6


@settings(deadline=None, max_examples=25)
@given(st.floats(-50, 50), st.sampled_from([1.0, 2.0, 7.0]))
def test_soft_target_loss_is_blind_to_a_constant_shift(shift: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    student_NV, teacher_NV = torch.randn(2, N, V, generator=generator, dtype=torch.float64)
    plain = soft_target_loss(student_NV, teacher_NV, temperature=temperature)
    shifted = soft_target_loss(student_NV + shift, teacher_NV - shift, temperature=temperature)
    assert torch.allclose(plain, shifted, atol=1e-9)
    assert plain > 0


def test_equal_logits_up_to_a_shift_cost_nothing() -> None:
    teacher = rows(1, N, C)
    for student in (teacher, teacher + 7):
        loss = soft_target_loss(student, teacher, temperature=2.0)
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_gradients_scale_is_about_independent_of_the_temperature() -> None:
    student_NV, teacher_NV = torch.randn(2, 101, V, dtype=torch.float64) * 0.1
    norms = []
    for temperature in (2.0, 4.0, 8.0):
        leaf = student_NV.clone().requires_grad_()
        soft_target_loss(leaf, teacher_NV, temperature=temperature).backward()
        norms.append(float(leaf.grad.norm()))  # type: ignore[union-attr]
    assert max(norms) / min(norms) < 1.1


def test_gradient_does_not_shrink_with_the_temperature() -> None:
    """At high T the gradient tends to (student - teacher) / C, whatever T."""
    sizes = []
    for temperature in (20.0, 200.0):
        student = rows(2, N, C).requires_grad_()
        soft_target_loss(student, rows(3, N, C), temperature=temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_teacher_receives_no_gradient() -> None:
    student, teacher = (torch.randn(N, V).requires_grad_() for _ in range(2))
    (soft_target_loss(student, teacher, temperature=2.0) + cosine_loss(student, teacher)).backward()
    assert student.grad is not None and teacher.grad is None


def test_float64_is_not_narrowed() -> None:
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


# --- hidden states, spans, values, mixtures ------------------------------------------------------


def test_cosine_loss_spans_zero_to_two() -> None:
    hidden_ND = rows(1, N, D)
    assert float(cosine_loss(hidden_ND, 3 * hidden_ND)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(hidden_ND, -hidden_ND)) == pytest.approx(2, abs=1e-6)


def test_padding_counts_for_nothing() -> None:
    mask = torch.ones(N, L)
    mask[:, 7:] = 0
    student, teacher = rows(4, N, L), rows(5, N, L)
    short = soft_target_loss(student[:, :7], teacher[:, :7], temperature=2.0)
    noisy = teacher + (1 - mask) * 1000
    loss = soft_span_loss(student, noisy, mask, temperature=2.0)
    assert loss.item() == pytest.approx(short.item(), rel=1e-5)


def test_padding_gets_no_gradient() -> None:
    mask = torch.ones(N, L)
    mask[:, 7:] = 0
    student = rows(6, N, L).requires_grad_()
    soft_span_loss(student, rows(7, N, L), mask, temperature=2.0).backward()
    assert student.grad is not None
    assert student.grad[:, 7:].abs().max() == 0
    assert student.grad[:, :7].abs().max() > 0


def test_values_by_hand() -> None:
    loss = soft_value_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    assert loss.item() == pytest.approx(2.0)


def test_mixture_by_hand() -> None:
    mixture = mixed_loss(torch.tensor(2.0), torch.tensor(10.0), alpha=0.25)
    assert mixture.item() == pytest.approx(4.0)


def test_a_part_without_examples_is_left_out_even_if_it_is_nan() -> None:
    nothing = (torch.tensor(math.nan), 0)
    assert partly_labelled_loss((torch.tensor(2.0), 3), nothing).item() == 2.0
    both = partly_labelled_loss((torch.tensor(2.0), 3), (torch.tensor(6.0), 1))
    assert both.item() == pytest.approx(3.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: soft_target_loss(torch.zeros(0, V), torch.zeros(0, V), temperature=2.0),
        lambda: soft_target_loss(torch.zeros(3, V), torch.zeros(3, V + 1), temperature=2.0),
        lambda: soft_span_loss(
            torch.zeros(0, L), torch.zeros(0, L), torch.zeros(0, L), temperature=2.0
        ),
        lambda: soft_value_loss(torch.zeros(0), torch.zeros(0)),
        lambda: mlm_loss(torch.zeros(3, V), torch.zeros(2, dtype=torch.long)),
        lambda: mlm_loss(torch.zeros(0, V), torch.zeros(0, dtype=torch.long)),
        lambda: cosine_loss(torch.zeros(3, D), torch.zeros(3, W)),
        lambda: cosine_loss(torch.zeros(0, D), torch.zeros(0, D)),
    ],
)
def test_formulas_refuse_shapes_that_do_not_match(call: Callable[[], Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"expected .* N > 0; got \("):
        call()


def test_the_error_has_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\(5, 3\).*\(5, 2\)"):
        soft_target_loss(rows(1, N, C), rows(1, N, 2), temperature=1.0)


# --- one home -------------------------------------------------------------------------------------


def test_fine_tuning_calls_this_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def recording(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
        calls.append(temperature)
        return soft_target_loss(student, teacher, temperature=temperature)

    monkeypatch.setattr(losses, "soft_target_loss", recording)
    finetune.loss_with_soft_targets(
        KINDS["classification"],
        [rows(1, N, C)],
        [torch.zeros(N, dtype=torch.long)],
        rows(2, N, C),
        torch.ones(N, L),
        torch.ones(N, dtype=torch.bool),
        second=SecondDistillation(temperature=3.0),
    )
    assert calls == [3.0]


def test_no_other_module_scales_a_divergence_by_its_temperature() -> None:
    """The chunked engine is the one exception, and its tests compare it with these formulas."""
    package = Path(edgedistil.__file__).parent
    squaring = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
            if is_power and "temperature" in ast.unparse(node.left):
                squaring.add(path.relative_to(package).as_posix())
    assert squaring == {"models/losses.py", "models/fast/projection.py"}
