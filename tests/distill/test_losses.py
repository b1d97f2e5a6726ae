"""The losses' tests are their definitions: zero for identical models, blind to a shift, one scale at every T."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgedistil.data.masking import IGNORED
from edgedistil.distill.losses import (
    cosine_loss,
    count_tokens,
    distillation_loss,
    mlm_loss,
    soft_target_loss,
)
from edgedistil.models.encoder import MlmHead

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


def _plain(
    student_BLD: Tensor,
    teacher_BLW: Tensor,
    student: MlmHead,
    teacher: MlmHead,
    labels_BL: Tensor,
    mask_BL: Tensor,
    *,
    weights: tuple[float, float, float],
    temperature: float,
    positions: str,
) -> Tensor:
    """The three formulas on the full logits, selected afterwards: the way the paper's own code does it."""
    student_BLV = student.transform(student_BLD) @ student.weight_VD.T + student.bias_V
    teacher_BLV = teacher.transform(teacher_BLW) @ teacher.weight_VD.T + teacher.bias_V
    masked, attended = labels_BL != IGNORED, mask_BL.bool()
    chosen = attended if positions == "all" else masked
    soft, mlm, cosine = weights
    total = soft * soft_target_loss(student_BLV[chosen], teacher_BLV[chosen], temperature=temperature)
    total = total + mlm * mlm_loss(student_BLV[masked], labels_BL[masked])
    if cosine:
        total = total + cosine * cosine_loss(student_BLD[attended], teacher_BLW[attended])
    return total


@pytest.mark.parametrize("positions", ["all", "masked"])
@pytest.mark.parametrize(
    "weights", [(5.0, 2.0, 1.0), (5.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0), (3.0, 2.0, 0.0)]
)
@pytest.mark.parametrize("rows", [512, 3])
def test_engine_equals_the_plain_formulas(
    positions: str, weights: tuple[float, float, float], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedistil.distill.projection.CHUNK_ROWS", rows)
    monkeypatch.setattr("edgedistil.distill.projection.BLOCK_ROWS", 2)
    labels_BL, mask_BL = _batch()
    width = D if weights[2] else W  # without the cosine loss the widths may differ
    student, teacher = _head(D, 1), _head(width, 2)
    hidden_BLD = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    taught_BLW = torch.randn(B, L, width, dtype=torch.float64)
    leaves = [hidden_BLD, student.weight_VD, student.bias_V, *student.transform.parameters()]

    plain = _plain(
        hidden_BLD, taught_BLW, student, teacher, labels_BL, mask_BL,
        weights=weights, temperature=2.0, positions=positions,
    )  # fmt: skip
    expected = torch.autograd.grad(plain, leaves, allow_unused=True)
    got = distillation_loss(
        hidden_BLD, taught_BLW, student_head=student, teacher_head=teacher, labels_BL=labels_BL,
        attention_mask_BL=mask_BL, counts=count_tokens(labels_BL, mask_BL), soft_target=weights[0], mlm=weights[1],
        cosine=weights[2], temperature=2.0, positions=positions,
    )  # fmt: skip
    gradients = torch.autograd.grad(got.total, leaves, allow_unused=True)

    assert abs(float(got.total.detach() - plain.detach())) < 1e-5
    for name, want, have in zip(NAMES, expected, gradients, strict=True):
        have = torch.zeros_like(want) if have is None and want is not None else have
        assert want is None or (want - have).abs().max() < 1e-5, name
