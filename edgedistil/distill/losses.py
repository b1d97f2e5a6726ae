"""The three distillation losses over one micro-batch, without the logits of all positions at once.

`edgedistil.models.losses` has the plain formulas, which define them. `distillation_loss` selects
hidden states first; `edgedistil.models.fast.projection` projects and reduces them in chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgedistil.core.errors import ShapeError
from edgedistil.core.recipe import Loss
from edgedistil.data.masking import IGNORED
from edgedistil.models.fast.projection import ProjectedLosses, TeacherInputs, project_and_reduce
from edgedistil.models.losses import at_least_float32
from edgedistil.models.mlm_head import MlmHead

# Rows of the cosine loss that are computed at once on a CPU, so that a block stays in its cache
# (docs/log.md#cosine-loss-in-blocks).
_COSINE_BLOCK_ROWS = 256
# Smallest norm of a hidden state in the cosine loss, the one of PyTorch's cosine similarity.
_MIN_NORM = 1e-8


# --- token counts --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenCounts:
    """Number of tokens that the losses are means over.

    A loop adds up `count_tokens` over the micro-batches of a step and over ranks before the forward
    passes, and passes the sum to each `distillation_loss`: the gradient is then that of one mean
    over all tokens of the step. DDP averages over ranks: pass `counts.divided(world_size)`. The
    original's mean per micro-batch is `count_tokens(…).times(micro_batches)`.

    Attributes:
        attended: Tokens that are not padding.
        masked: Masked tokens.
        texts: Rows, each of which is a text where sentence vectors are learned.
    """

    attended: float
    masked: float
    texts: float = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.attended + other.attended, self.masked + other.masked, self.texts + other.texts
        )

    def times(self, factor: float) -> TokenCounts:
        return TokenCounts(self.attended * factor, self.masked * factor, self.texts * factor)

    def divided(self, divisor: float) -> TokenCounts:
        return self.times(1 / divisor)

    def soft_target(self, settings: Loss) -> float:
        """Returns the number of tokens that the soft-target loss is a mean over."""
        return self.attended if settings.positions == "all" else self.masked


def count_tokens(labels_BL: Tensor, attention_mask_BL: Tensor | None) -> TokenCounts:
    """Counts the tokens of a micro-batch; without an attention mask all are attended."""
    attended = labels_BL.numel()
    if attention_mask_BL is not None:
        attended = int(attention_mask_BL.sum())
    return TokenCounts(attended, int((labels_BL != IGNORED).sum()), len(labels_BL))


# --- the weighted sum ----------------------------------------------------------------------------


@dataclass(frozen=True)
class DistillationLoss:
    """Loss of one micro-batch and its parts.

    Attributes:
        total: w_soft · soft/n + w_mlm · mlm/n + w_cos · cos/n with the n of the counts; the tensor
            to call `backward` on.
        soft_target_sum: Sum over the micro-batch's tokens without the weight, float32, detached;
            includes T². 0 if the weight is 0.
        mlm_sum: The same of the MLM loss.
        cosine_sum: The same of the cosine loss.
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
    settings: Loss,
) -> DistillationLoss:
    """Returns the weighted sum of the three losses over one micro-batch.

    A loss whose weight is 0 is not computed. No teacher is needed if both the soft-target and the
    cosine loss have the weight 0.

    Args:
        student_BLD: Student's last hidden states, with gradient.
        teacher_BLD: Teacher's last hidden states; their width may differ without the cosine loss.
        student_head, teacher_head: MLM heads.
        labels_BL: The original token at masked positions, IGNORED elsewhere.
        attention_mask_BL: 1 at tokens, 0 at padding; None without padding.
        counts: Number of tokens that the losses are means over; see `TokenCounts`.
        settings: Recipe section [loss]: weights, temperature and positions.
    Raises:
        ShapeError: Shapes do not match, a count is not positive, or the teacher is missing.
    """
    _check_shapes(student_BLD, teacher_BLD, labels_BL, attention_mask_BL, counts)
    student_MD = student_BLD.flatten(0, 1)
    zero = torch.zeros((), dtype=torch.float32, device=student_BLD.device)
    total, soft_target_sum, mlm_sum, cosine_sum = zero, zero, zero, zero

    # Cosine loss: hidden states of all attended tokens.
    if settings.cosine > 0:
        teacher_MD = _teacher_hidden_of_same_width(student_BLD, teacher_BLD)
        distance = attended_cosine_sum(student_MD, teacher_MD, attention_mask_BL)
        total, cosine_sum = total + settings.cosine / counts.attended * distance, distance.detach()

    # Soft-target and MLM loss: logits of the selected positions. A micro-batch may have none.
    positions = _select_positions(labels_BL, attention_mask_BL, settings)
    if len(positions.indices):
        student_ND = student_head.transform(student_MD[positions.indices])
        teacher = _teacher_inputs(teacher_BLD, teacher_head, positions, settings)
        labels_K = _labels_of_masked(labels_BL, positions, settings)
        projected = _projected(student_ND, student_head, teacher, labels_K, counts, settings)
        total = total + projected.total
        soft_target_sum, mlm_sum = projected.soft_target_sum, projected.mlm_sum
    return DistillationLoss(total, soft_target_sum, mlm_sum, cosine_sum)


@dataclass(frozen=True)
class _Positions:
    """Positions whose hidden states are projected: the masked ones, then all others.

    Attributes:
        indices: Flat indices into (B, L).
        masked: Number of masked positions, which come first.
    """

    indices: Tensor
    masked: int


def _select_positions(
    labels_BL: Tensor, attention_mask_BL: Tensor | None, settings: Loss
) -> _Positions:
    is_masked = labels_BL.flatten() != IGNORED
    masked = is_masked.nonzero().squeeze(1)
    # The cosine loss alone needs no logits.
    if settings.soft_target == settings.mlm == 0:
        return _Positions(masked[:0], 0)
    # The MLM loss needs masked positions only.
    if settings.positions == "masked" or settings.soft_target == 0:
        return _Positions(masked, len(masked))
    is_other = ~is_masked
    if attention_mask_BL is not None:
        is_other = is_other & attention_mask_BL.flatten().bool()
    others = is_other.nonzero().squeeze(1)
    return _Positions(torch.cat([masked, others]), len(masked))


def _teacher_inputs(
    teacher_BLD: Tensor | None,
    teacher_head: MlmHead | None,
    positions: _Positions,
    settings: Loss,
) -> TeacherInputs | None:
    """The teacher's side of the projection; None without a soft-target loss."""
    if settings.soft_target == 0:
        return None
    if teacher_BLD is None or teacher_head is None:
        raise ShapeError(
            "the soft-target loss needs the teacher's hidden states and head; got none"
        )
    with torch.no_grad():
        hidden_ND = teacher_head.transform(teacher_BLD.flatten(0, 1)[positions.indices])
    return TeacherInputs(hidden_ND, teacher_head.weight_VD, teacher_head.bias_V)


def _labels_of_masked(labels_BL: Tensor, positions: _Positions, settings: Loss) -> Tensor | None:
    """The original tokens at the masked positions; None without an MLM loss."""
    if settings.mlm == 0:
        return None
    return labels_BL.flatten()[positions.indices[: positions.masked]]


def _projected(
    student_ND: Tensor,
    student_head: MlmHead,
    teacher: TeacherInputs | None,
    labels_K: Tensor | None,
    counts: TokenCounts,
    settings: Loss,
) -> ProjectedLosses:
    """Soft-target and MLM loss of N positions, of which the first K are masked."""
    return project_and_reduce(
        student_ND,
        student_head.weight_VD,
        student_head.bias_V,
        teacher,
        labels_K,
        soft_scale=settings.soft_target / counts.soft_target(settings),
        mlm_scale=settings.mlm / counts.masked,
        temperature=settings.temperature,
    )


# --- cosine loss ---------------------------------------------------------------------------------


def _teacher_hidden_of_same_width(student_BLD: Tensor, teacher_BLD: Tensor | None) -> Tensor:
    """The teacher's hidden states, (B · L, D)."""
    if teacher_BLD is None or teacher_BLD.shape != student_BLD.shape:
        raise ShapeError(
            "the cosine loss compares hidden states of one width; "
            f"got {_format_shapes(student_BLD, teacher_BLD)}",
            hint="give student and teacher the same width, or set [loss] cosine = 0",
        )
    return teacher_BLD.flatten(0, 1)


def attended_cosine_sum(
    student_MD: Tensor, teacher_MD: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    """Returns the sum of 1 − cos over the attended tokens, with gradient.

    Args:
        student_MD: The student's states of M = B · L tokens.
        teacher_MD: The teacher's, of the same width; receive no gradient.
        attention_mask_BL: 1 at tokens, 0 at padding; None without padding.
    """
    if attention_mask_BL is not None:
        attended = attention_mask_BL.flatten().nonzero().squeeze(1)
        student_MD, teacher_MD = student_MD[attended], teacher_MD[attended]
    # Autocast would compute `vecdot` of float32 rows in 16 bits.
    with torch.autocast(student_MD.device.type, enabled=False):
        total: Tensor = _CosineSum.apply(student_MD, teacher_MD)  # type: ignore[no-untyped-call]
    return total


class _CosineSum(torch.autograd.Function):
    """Σ 1 − cos of rows; the gradient is computed in the forward pass, block by block.

    Autograd would take 20 passes over float32 copies of the hidden states.
    """

    @staticmethod
    def forward(ctx: Any, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        grad_ND = torch.empty_like(student_ND)
        # A GPU has no cache to fit a block into: all rows at once.
        block = max(1, len(student_ND))
        if student_ND.device.type == "cpu":
            block = _COSINE_BLOCK_ROWS
        distances = []
        for student_RD, teacher_RD, grad_RD in zip(
            torch.split(student_ND, block),
            torch.split(teacher_ND, block),
            torch.split(grad_ND, block),
            strict=True,
        ):
            distances.append(_cosine_block(student_RD, teacher_RD, grad_RD))
        ctx.save_for_backward(grad_ND)
        return torch.stack(distances).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grad, None


def _cosine_block(student_RD: Tensor, teacher_RD: Tensor, grad_RD: Tensor) -> Tensor:
    """Sum of 1 − cos over R rows; writes its gradient with respect to the student to `grad_RD`."""
    s_RD = at_least_float32(student_RD)
    t_RD = at_least_float32(teacher_RD).to(s_RD.dtype)
    s_norm_R = torch.linalg.vecdot(s_RD, s_RD).sqrt_().clamp_min_(_MIN_NORM)
    t_norm_R = torch.linalg.vecdot(t_RD, t_RD).sqrt_().clamp_min_(_MIN_NORM)
    inverse_R = (s_norm_R * t_norm_R).reciprocal_()
    cosine_R = torch.linalg.vecdot(s_RD, t_RD) * inverse_R

    # d(1 − cos)/ds = s · cos/|s|² − t/(|s||t|); the first term vanishes where |s| is clamped.
    along_R = (cosine_R / s_norm_R.square()).masked_fill_(s_norm_R <= _MIN_NORM, 0)
    gradient_RD = s_RD * along_R.unsqueeze(1)
    grad_RD.copy_(gradient_RD.addcmul_(t_RD, inverse_R.unsqueeze(1), value=-1))
    distance: Tensor = (1 - cosine_R).sum()
    return distance


# --- checks --------------------------------------------------------------------------------------


def _check_shapes(
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
            f"got {_format_shapes(student_BLD, teacher_BLD, labels_BL, mask_BL)}"
        )
    if not (counts.attended > 0 and counts.masked > 0):
        raise ShapeError(
            "expected at least one attended and one masked token; "
            f"got {counts.attended:g} attended, {counts.masked:g} masked"
        )


def _format_shapes(*tensors: Tensor | None) -> str:
    shapes = ["none" if tensor is None else str(tuple(tensor.shape)) for tensor in tensors]
    return " and ".join(shapes)
