"""The engine of the three distillation losses, which never holds the logits of all positions.

`edgedistil.models.losses` has the plain formulas, which define them. `distillation_loss` is what a loop
calls: it selects hidden states first, and `projection.py` projects and reduces them in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edgedistil.core.errors import ShapeError
from edgedistil.data.masking import IGNORED
from edgedistil.models.fast.encoder import MlmHead
from edgedistil.models.fast.projection import TeacherInputs, project_and_reduce
from edgedistil.models.losses import at_least_float32

Positions = Literal["all", "masked"]

_COSINE_ROWS = 256
_SHORTEST = 1e-8  # length that a hidden state is taken to have at least, as PyTorch's cosine similarity does


@dataclass(frozen=True)
class TokenCounts:
    """How many tokens the losses of an optimizer step are a mean over; add up micro-batches and ranks.

    A loop sums `count_tokens` over the micro-batches of a step (and over ranks, with one all-reduce) before it starts
    the forward passes, and gives the sum to each `distillation_loss`: then the step's gradient is that of one mean over
    all its tokens. With DDP, which averages over ranks, give `counts.divided(world_size)`. The original's mean per
    micro-batch is `count_tokens(…).times(micro_batches)`.
    """

    attended: float
    masked: float

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(self.attended + other.attended, self.masked + other.masked)

    def times(self, factor: float) -> TokenCounts:
        return TokenCounts(self.attended * factor, self.masked * factor)

    def divided(self, divisor: float) -> TokenCounts:
        return self.times(1 / divisor)


def count_tokens(labels_BL: Tensor, attention_mask_BL: Tensor | None) -> TokenCounts:
    attended = labels_BL.numel() if attention_mask_BL is None else int(attention_mask_BL.sum())
    return TokenCounts(attended, int((labels_BL != IGNORED).sum()))


@dataclass(frozen=True)
class DistillationLoss:
    """The loss of one micro-batch and its parts.

    Attributes:
        total: w_soft · soft/n + w_mlm · mlm/n + w_cos · cos/n with the n of the given counts: call `backward` on it.
        soft_target_sum, mlm_sum, cosine_sum: Unweighted sums over this micro-batch's tokens, float32, detached (T² is
            in the first one); 0 where the weight is 0. Divided by the counts of a step they are its mean losses.
    """

    total: Tensor
    soft_target_sum: Tensor
    mlm_sum: Tensor
    cosine_sum: Tensor


def distillation_loss(
    student_BLD: Tensor,
    teacher_BLD: Tensor | None,
    *,
    student_head: MlmHead,
    teacher_head: MlmHead | None,
    labels_BL: Tensor,
    attention_mask_BL: Tensor | None,
    counts: TokenCounts,
    soft_target: float,
    mlm: float,
    cosine: float,
    temperature: float,
    positions: Positions,
) -> DistillationLoss:
    """The weighted sum of the three losses over one micro-batch, without the logits of all positions at once.

    A part whose weight is 0 costs nothing; with `soft_target` and `cosine` both 0 no teacher is needed.

    Args:
        student_BLD: Student's last hidden states, with gradient.
        teacher_BLD: Teacher's last hidden states; its width may differ from the student's when `cosine` is 0.
        labels_BL: The right token at masked positions, -100 elsewhere.
        attention_mask_BL: 0 at padding; None when there is none.
        counts: Tokens that the means are over; see TokenCounts.
        soft_target, mlm, cosine: Weights, >= 0.
        positions: Where the soft-target loss looks; MLM looks at masked ones, cosine at all attended ones.
    Raises:
        ShapeError: Shapes do not fit, or a count is not positive.
    """
    _check(student_BLD, teacher_BLD, labels_BL, attention_mask_BL, counts)
    masked_first, masked = _select(
        labels_BL, attention_mask_BL, all_of_them=positions == "all" and soft_target > 0
    )
    student_MD = student_BLD.flatten(0, 1)
    zero = torch.zeros((), dtype=torch.float32, device=student_BLD.device)
    total, soft_sum, mlm_sum, cosine_sum = zero, zero, zero, zero

    if cosine > 0:
        if teacher_BLD is None or teacher_BLD.shape != student_BLD.shape:
            raise ShapeError(
                f"the cosine loss compares hidden states of one width; got {_told(student_BLD, teacher_BLD)}",
                hint="give student and teacher the same width, or set [loss] cosine = 0",
            )
        teacher_MD = teacher_BLD.flatten(0, 1)
        with_gradient = _attended_cosine_sum(student_MD, teacher_MD, attention_mask_BL)
        total, cosine_sum = total + cosine / counts.attended * with_gradient, with_gradient.detach()

    if (soft_target > 0 or mlm > 0) and len(masked_first):
        if soft_target > 0 and (teacher_BLD is None or teacher_head is None):
            raise ShapeError(
                "the soft-target loss needs the teacher's hidden states and head; got none"
            )
        soft_tokens = counts.attended if positions == "all" else counts.masked
        teaching = None
        if soft_target > 0:
            assert teacher_BLD is not None and teacher_head is not None
            with torch.no_grad():
                transformed = teacher_head.transform(teacher_BLD.flatten(0, 1)[masked_first])
            teaching = TeacherInputs(transformed, teacher_head.weight_VD, teacher_head.bias_V)
        projected = project_and_reduce(
            student_head.transform(student_MD[masked_first]),
            student_head.weight_VD,
            student_head.bias_V,
            teaching,
            labels_BL.flatten()[masked_first[:masked]] if mlm > 0 else None,
            soft_scale=soft_target / soft_tokens,
            mlm_scale=mlm / counts.masked if mlm > 0 else 0.0,
            temperature=temperature,
        )
        total = total + projected.total
        soft_sum, mlm_sum = projected.soft_target_sum, projected.mlm_sum
    return DistillationLoss(total, soft_sum, mlm_sum, cosine_sum)


def _select(
    labels_BL: Tensor, attention_mask_BL: Tensor | None, *, all_of_them: bool
) -> tuple[Tensor, int]:
    """Flat indices of the positions that are projected, masked ones first, and how many of them are masked."""
    is_masked = labels_BL.flatten() != IGNORED
    masked = is_masked.nonzero().squeeze(1)
    if not all_of_them:
        return masked, len(masked)
    others = (
        ~is_masked if attention_mask_BL is None else ~is_masked & attention_mask_BL.flatten().bool()
    )
    return torch.cat([masked, others.nonzero().squeeze(1)]), len(masked)


def _attended_cosine_sum(
    student_MD: Tensor, teacher_MD: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    if attention_mask_BL is not None:
        attended = attention_mask_BL.flatten().nonzero().squeeze(1)
        student_MD, teacher_MD = student_MD[attended], teacher_MD[attended]
    return _cosine_sum(student_MD, teacher_MD)


def _cosine_sum(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    with torch.autocast(
        student_ND.device.type, enabled=False
    ):  # it would take the products of float32 rows in 16 bits
        total: Tensor = _CosineSum.apply(student_ND, teacher_ND)  # type: ignore[no-untyped-call]
    return total


class _CosineSum(torch.autograd.Function):
    """Σ 1 − cos of rows, and its gradient with it, block by block in cache, where autograd takes 20 float32 passes."""

    @staticmethod
    def forward(ctx: Any, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        grad_ND = torch.empty_like(student_ND)
        block = _COSINE_ROWS if student_ND.device.type == "cpu" else max(1, len(student_ND))
        distances = []
        parts = [torch.split(part, block) for part in (student_ND, teacher_ND, grad_ND)]
        for student, teacher, grad in zip(*parts, strict=True):
            s, t = (
                at_least_float32(student),
                at_least_float32(teacher).to(at_least_float32(student).dtype),
            )
            s_length, t_length = (
                torch.linalg.vecdot(v, v).sqrt_().clamp_min_(_SHORTEST) for v in (s, t)
            )
            inverse = (s_length * t_length).reciprocal_()
            cosine = torch.linalg.vecdot(s, t) * inverse
            distances.append((1 - cosine).sum())
            along = (cosine / s_length.square()).masked_fill_(s_length <= _SHORTEST, 0)
            grad.copy_((s * along.unsqueeze(1)).addcmul_(t, inverse.unsqueeze(1), value=-1))
        ctx.save_for_backward(grad_ND)
        return torch.stack(distances).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


def _check(
    student_BLD: Tensor,
    teacher_BLD: Tensor | None,
    labels_BL: Tensor,
    mask_BL: Tensor | None,
    counts: TokenCounts,
) -> None:
    fits = student_BLD.ndim == 3 and labels_BL.shape == student_BLD.shape[:2]
    fits = fits and (mask_BL is None or mask_BL.shape == labels_BL.shape)
    fits = fits and (teacher_BLD is None or teacher_BLD.shape[:2] == labels_BL.shape)
    if not fits:
        raise ShapeError(
            "expected student (B, L, D), teacher (B, L, D'), labels (B, L), mask (B, L); "
            f"got {_told(student_BLD, teacher_BLD, labels_BL, mask_BL)}"
        )
    if not (counts.attended > 0 and counts.masked > 0):
        raise ShapeError(
            f"a mean over no tokens: {counts.attended:g} attended, {counts.masked:g} masked"
        )


def _told(*tensors: Tensor | None) -> str:
    return " and ".join("none" if t is None else str(tuple(t.shape)) for t in tensors)
