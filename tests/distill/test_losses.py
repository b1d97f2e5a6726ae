"""The chunked losses equal the plain formulas in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgedistil.core.errors import ShapeError
from edgedistil.core.recipe import Loss
from edgedistil.data.masking import IGNORED
from edgedistil.distill.losses import TokenCounts, count_tokens, distillation_loss
from edgedistil.models.losses import cosine_loss, mlm_loss, soft_target_loss
from edgedistil.models.mlm_head import MlmHead

NAMES = ("hidden", "weight", "bias", "dense.weight", "dense.bias", "norm.weight", "norm.bias")
B, L, D, W, V = 2, 5, 7, 11, 13  # W: the teacher's own width


def _head(width: int, seed: int) -> MlmHead:
    torch.manual_seed(seed)
    transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)).double()
    weight = torch.randn(V, width, dtype=torch.float64, requires_grad=True)
    return MlmHead(transform, weight, torch.randn(V, dtype=torch.float64, requires_grad=True))


def _batch(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Labels and attention mask: two paddings in the second line, three masked positions."""
    generator = torch.Generator().manual_seed(seed)
    mask_BL = torch.ones(B, L, dtype=torch.long)
    mask_BL[1, -2:] = 0
    labels_BL = torch.full((B, L), IGNORED)
    for b, position in ((0, 1), (0, 4), (1, 2)):
        labels_BL[b, position] = torch.randint(V, (), generator=generator)
    return labels_BL, mask_BL


def _settings(
    weights: tuple[float, float, float], *, temperature: float = 2.0, positions: str = "all"
) -> Loss:
    """Recipe section [loss] with the weights of soft-target, MLM and cosine loss."""
    soft_target, mlm, cosine = weights
    return Loss(
        soft_target=soft_target,
        mlm=mlm,
        cosine=cosine,
        temperature=temperature,
        positions=positions,  # type: ignore[arg-type]
    )


def _plain(
    student_BLD: Tensor,
    teacher_BLW: Tensor,
    student: MlmHead,
    teacher: MlmHead,
    labels_BL: Tensor,
    mask_BL: Tensor,
    settings: Loss,
) -> Tensor:
    """The three formulas on the full logits, selected afterwards, as the paper's code does it."""
    student_BLV = student.transform(student_BLD) @ student.weight_VD.T + student.bias_V
    teacher_BLV = teacher.transform(teacher_BLW) @ teacher.weight_VD.T + teacher.bias_V
    masked, attended = labels_BL != IGNORED, mask_BL.bool()
    selected = attended if settings.positions == "all" else masked
    soft_target = soft_target_loss(
        student_BLV[selected], teacher_BLV[selected], temperature=settings.temperature
    )
    mlm = mlm_loss(student_BLV[masked], labels_BL[masked])
    total = settings.soft_target * soft_target + settings.mlm * mlm
    # The cosine of states of different widths is not defined.
    if settings.cosine:
        cosine = cosine_loss(student_BLD[attended], teacher_BLW[attended])
        total = total + settings.cosine * cosine
    return total


@pytest.mark.parametrize("positions", ["all", "masked"])
@pytest.mark.parametrize(
    "weights", [(5.0, 2.0, 1.0), (5.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0), (3.0, 2.0, 0.0)]
)
@pytest.mark.parametrize(("rows", "temperature"), [(512, 2.0), (3, 2.0), (512, 3.0)])
def test_engine_equals_the_plain_formulas(
    positions: str,
    weights: tuple[float, float, float],
    rows: int,
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgedistil.models.fast.projection.CHUNK_ROWS", rows)
    monkeypatch.setattr("edgedistil.models.fast.projection.BLOCK_ROWS", 2)
    labels_BL, mask_BL = _batch()
    width = D if weights[2] else W  # without the cosine loss the widths may differ
    student, teacher = _head(D, 1), _head(width, 2)
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    teacher_BLW = torch.randn(B, L, width, dtype=torch.float64)
    leaves = [hidden_BLD, student.weight_VD, student.bias_V, *student.transform.parameters()]

    settings = _settings(weights, temperature=temperature, positions=positions)
    plain = _plain(hidden_BLD, teacher_BLW, student, teacher, labels_BL, mask_BL, settings)
    expected = torch.autograd.grad(plain, leaves, allow_unused=True)
    got = _engine(hidden_BLD, teacher_BLW, student, teacher, settings=settings)
    gradients = torch.autograd.grad(got.total, leaves, allow_unused=True)

    assert abs(float(got.total.detach() - plain.detach())) < 1e-5
    for name, want, have in zip(NAMES, expected, gradients, strict=True):
        have = torch.zeros_like(want) if have is None and want is not None else have
        assert want is None or (want - have).abs().max() < 1e-5, name


def _engine(
    hidden_BLD: Tensor,
    teacher_BLD: Tensor | None,
    student: MlmHead,
    teacher: MlmHead | None,
    **changes: Any,
) -> Any:
    """`distillation_loss` with some arguments changed."""
    labels_BL, mask_BL = changes.pop("batch", None) or _batch()
    defaults: dict[str, Any] = {
        "counts": count_tokens(labels_BL, mask_BL),
        "labels_BL": labels_BL,
        "attention_mask_BL": mask_BL,
        "settings": _settings((5.0, 2.0, 1.0)),
    }
    arguments = {**defaults, **changes}
    return distillation_loss(
        hidden_BLD, teacher_BLD, student_head=student, teacher_head=teacher, **arguments
    )


# --- the engine ----------------------------------------------------------------------------------


def test_identical_models_through_the_engine() -> None:
    head, hidden_BLD = _head(D, 1), torch.randn(B, L, D, dtype=torch.float64)
    got = _engine(hidden_BLD, hidden_BLD, head, head)
    assert abs(float(got.soft_target_sum)) < 1e-9 and abs(float(got.cosine_sum)) < 1e-9
    assert float(got.mlm_sum) > 0


def test_identical_models_through_the_engine_in_bfloat16() -> None:
    """The student's head is in float32 and the teacher's in bfloat16: the same distribution."""
    head = _head(D, 1)
    student = MlmHead(
        nn.Identity(),
        head.weight_VD.detach().float().requires_grad_(),
        head.bias_V.detach().float(),
    )
    narrow = student.weight_VD.detach().bfloat16(), student.bias_V.bfloat16()
    student = MlmHead(
        student.transform, student.weight_VD, narrow[1].float()
    )  # a bias is added in float32
    hidden_BLD = torch.randn(B, L, D).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = _engine(
            hidden_BLD,
            hidden_BLD.detach(),
            student,
            MlmHead(nn.Identity(), *narrow),
            settings=_settings((5.0, 0.0, 1.0)),
        )
    got.total.backward()
    assert float(got.soft_target_sum) == 0
    assert abs(float(got.cosine_sum)) < 1e-5
    assert student.weight_VD.grad is not None and float(student.weight_VD.grad.abs().max()) == 0
    assert hidden_BLD.grad is not None and float(hidden_BLD.grad.float().abs().max()) < 1e-4


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_micro_batches_share_one_mean(positions: str) -> None:
    """Rows passed one by one with the counts of the step add up to the loss of the step."""
    settings = _settings((5.0, 2.0, 1.0), positions=positions)
    student, teacher = _head(D, 1), _head(D, 2)
    labels_BL, mask_BL = _batch()
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    teacher_BLD = torch.randn(B, L, D, dtype=torch.float64)
    step = _engine(hidden_BLD, teacher_BLD, student, teacher, settings=settings)
    rows = [(labels_BL[b : b + 1], mask_BL[b : b + 1]) for b in range(B)]
    counts = count_tokens(*rows[0]) + count_tokens(*rows[1])
    parts = [
        _engine(
            hidden_BLD[b : b + 1],
            teacher_BLD[b : b + 1],
            student,
            teacher,
            settings=settings,
            batch=row,
            counts=counts,
        )
        for b, row in enumerate(rows)
    ]
    assert (counts.attended, counts.masked) == (8, 3)
    assert torch.allclose(step.total, parts[0].total + parts[1].total)
    expected = torch.autograd.grad(step.total, [hidden_BLD, student.weight_VD])
    summed = torch.autograd.grad(parts[0].total + parts[1].total, [hidden_BLD, student.weight_VD])
    for want, have in zip(expected, summed, strict=True):
        assert torch.allclose(want, have, atol=1e-9)


@pytest.mark.parametrize("frozen_part", ["weight", "bias", "hidden"])
def test_a_frozen_part_leaves_the_others_their_gradients(frozen_part: str) -> None:
    student, teacher = _head(D, 1), _head(D, 2)
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    teacher_BLD = torch.randn(B, L, D, dtype=torch.float64)
    leaves = {"weight": student.weight_VD, "bias": student.bias_V, "hidden": hidden_BLD}
    names = [name for name in leaves if name != frozen_part]
    full = _engine(hidden_BLD, teacher_BLD, student, teacher).total
    expected = torch.autograd.grad(full, [leaves[name] for name in names])
    leaves[frozen_part].requires_grad_(False)
    part = _engine(hidden_BLD, teacher_BLD, student, teacher).total
    for want, have in zip(
        expected, torch.autograd.grad(part, [leaves[name] for name in names]), strict=True
    ):
        assert torch.allclose(want, have)


def test_counts_scale_the_loss() -> None:
    counts = TokenCounts(12, 4)
    assert counts.times(3) == TokenCounts(36, 12) and counts.divided(4) == TokenCounts(3, 1)


def test_a_loss_scaler_scales_the_gradients() -> None:
    student, teacher = _head(D, 1), _head(D, 2)
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    teacher_BLD = torch.randn(B, L, D, dtype=torch.float64)
    leaves = [hidden_BLD, student.weight_VD, student.bias_V]
    plain = torch.autograd.grad(_engine(hidden_BLD, teacher_BLD, student, teacher).total, leaves)
    scaled = torch.autograd.grad(
        _engine(hidden_BLD, teacher_BLD, student, teacher).total * 1024, leaves
    )
    for want, have in zip(plain, scaled, strict=True):
        assert torch.allclose(want * 1024, have)


def test_without_soft_target_and_cosine_no_teacher_is_needed() -> None:
    labels_BL, mask_BL = _batch()
    got = distillation_loss(
        torch.randn(B, L, D, dtype=torch.float64),
        None,
        student_head=_head(D, 1),
        teacher_head=None,
        labels_BL=labels_BL,
        attention_mask_BL=mask_BL,
        counts=count_tokens(labels_BL, mask_BL),
        settings=_settings((0.0, 1.0, 0.0), positions="masked"),
    )
    assert float(got.total.detach()) == pytest.approx(float(got.mlm_sum) / 3)
    assert float(got.soft_target_sum) == float(got.cosine_sum) == 0


def test_padding_changes_nothing() -> None:
    student, teacher = _head(D, 1), _head(D, 2)
    _, mask_BL = _batch()
    hidden_BLD, teacher_BLD = torch.randn(2, B, L, D, dtype=torch.float64)
    first = _engine(hidden_BLD, teacher_BLD, student, teacher)
    hidden_BLD[mask_BL == 0] += 7
    teacher_BLD[mask_BL == 0] -= 7
    assert torch.equal(first.total, _engine(hidden_BLD, teacher_BLD, student, teacher).total)


def test_bfloat16_is_near_float32_in_value_and_gradient() -> None:
    """At a vocabulary where sums in bfloat16 would lose digits: they are in float32."""
    torch.manual_seed(1)
    rows, width, vocabulary = 67, 61, 3001
    weights = [torch.randn(vocabulary, width) * 0.2 for _ in range(2)]
    heads = [
        MlmHead(nn.Identity(), w.requires_grad_(), torch.zeros(vocabulary, requires_grad=True))
        for w in weights
    ]
    hidden_BLD, teacher_BLD = torch.randn(2, 1, rows, width)
    labels_BL = torch.where(
        torch.rand(1, rows) < 0.3, torch.randint(vocabulary, (1, rows)), IGNORED
    )

    def run(*, narrow: bool) -> tuple[Any, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            got = _engine(
                hidden_BLD, teacher_BLD, *heads, batch=(labels_BL, torch.ones_like(labels_BL))
            )
        return got, torch.autograd.grad(got.total, heads[0].weight_VD)[0]

    (exact, exact_gradient), (narrow, narrow_gradient) = run(narrow=False), run(narrow=True)
    assert narrow_gradient.dtype == torch.float32
    assert float(narrow.total.detach()) == pytest.approx(float(exact.total.detach()), rel=1e-2)
    assert float(narrow.mlm_sum) == pytest.approx(float(exact.mlm_sum), rel=1e-2)
    assert float((narrow_gradient - exact_gradient).norm() / exact_gradient.norm()) < 2e-2


class _Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.numel())
        return out


def test_the_vocabulary_is_never_materialised_for_all_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgedistil.models.fast.projection.CHUNK_ROWS", 31)
    rows, vocabulary = 293, 1009
    head = MlmHead(
        nn.Identity(), torch.randn(vocabulary, D, requires_grad=True), torch.zeros(vocabulary)
    )
    hidden_BLD = torch.randn(1, rows, D, requires_grad=True)
    batch = (torch.zeros(1, rows, dtype=torch.long), torch.ones(1, rows, dtype=torch.long))
    with _Largest() as seen:
        _engine(hidden_BLD, hidden_BLD.detach(), head, head, batch=batch).total.backward()
    assert seen.elements == 30 * vocabulary  # ten chunks of one size
    with _Largest() as seen:  # the check can fail: all positions at once
        _ = hidden_BLD.detach()[0] @ head.weight_VD.detach().T
    assert seen.elements == rows * vocabulary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"counts": TokenCounts(0, 3)},
            "at least one attended and one masked token; got 0 attended, 3 masked",
        ),
        ({"labels_BL": torch.zeros(B, L + 1, dtype=torch.long)}, r"expected student \(B, L, D\)"),
        (
            {"attention_mask_BL": torch.ones(L, B, dtype=torch.long)},
            r"expected student \(B, L, D\)",
        ),
    ],
)
def test_shapes_that_do_not_match_are_rejected(changes: dict[str, Any], message: str) -> None:
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64)
    with pytest.raises(ShapeError, match=message):
        _engine(hidden_BLD, hidden_BLD, _head(D, 1), _head(D, 2), **changes)


def test_cosine_of_different_widths_has_a_hint() -> None:
    hidden_BLD, teacher_BLW = (
        torch.randn(B, L, D, dtype=torch.float64),
        torch.randn(B, L, W, dtype=torch.float64),
    )
    with pytest.raises(ShapeError, match=r"set \[loss\] cosine = 0"):
        _engine(hidden_BLD, teacher_BLW, _head(D, 1), _head(W, 2))


def test_a_soft_target_loss_without_a_teacher_is_an_error() -> None:
    head = _head(D, 1)
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64)
    with pytest.raises(ShapeError, match="needs the teacher's hidden states and head"):
        _engine(hidden_BLD, None, head, None, settings=_settings((5.0, 0.0, 0.0)))


def test_soft_targets_are_a_mean_over_the_positions_of_the_recipe() -> None:
    counts = TokenCounts(attended=12, masked=4)
    assert counts.soft_target(_settings((5.0, 2.0, 1.0), positions="all")) == 12
    assert counts.soft_target(_settings((5.0, 2.0, 1.0), positions="masked")) == 4
