"""Plain loss formulas: pure functions of logits, labels and hidden states.

These are the definitions. Distillation on a corpus computes the same losses in chunks, without
holding the logits of all positions (`edgedistil.models.fast.projection`); its tests compare it with
these formulas by value and gradient. Fine-tuning with soft targets calls them as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedistil.core.errors import ShapeError


def soft_target_loss(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float) -> Tensor:
    """Temperature-scaled KL divergence from the teacher's to the student's distribution.

        L = T² · mean_n Σ_v p (log p − log q),   p = softmax(teacher/T), q = softmax(student/T)

    T² keeps the gradient's size independent of T, so the loss weights need no retuning.

    Args:
        student_NV: Logits of N tokens or examples over V tokens or classes; reduced in float32.
        teacher_NV: Teacher logits of the same rows, shape (N, V); receives no gradient.
        temperature: T > 0, dimensionless.
    Returns:
        Scalar, nats per row, >= 0; 0 when the distributions are equal.
    Raises:
        ShapeError: The shapes differ, or N = 0 (a mean over nothing is NaN).
    Source: Hinton et al. 2015, eq. 1 and §2; Sanh et al. 2019, §3.
    """
    _check_same_shape(student_NV, teacher_NV, "logits", dimensions=2)
    log_q_NV = F.log_softmax(at_least_float32(student_NV) / temperature, dim=-1)
    log_p_NV = F.log_softmax(at_least_float32(teacher_NV.detach()) / temperature, dim=-1)
    # `batchmean` divides the sum over all elements by N. Fine-tuning records depend on this order
    # of the additions to the last bit.
    divergence = F.kl_div(log_q_NV, log_p_NV, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def mlm_loss(student_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy of the original tokens at N masked positions.

    Args:
        student_NV: Student logits at the masked positions, shape (N, V).
        labels_N: Ids of the original tokens, shape (N,), int64.
    Returns:
        Scalar, nats per token.
    Raises:
        ShapeError: Logits and labels differ in N, or N = 0.
    Source: Devlin et al. 2018, §3.1.
    """
    # Checked here: a mean over no tokens is NaN, which would reach the weights.
    if student_NV.ndim != 2 or labels_N.shape != student_NV.shape[:1] or not len(labels_N):
        raise ShapeError(
            "expected logits (N, V) and labels (N,), N > 0; "
            f"got {tuple(student_NV.shape)} and {tuple(labels_N.shape)}"
        )
    return F.cross_entropy(at_least_float32(student_NV), labels_N)


def cosine_loss(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Mean cosine distance between the last hidden states of N tokens.

    Args:
        student_ND: Student's hidden states, shape (N, D).
        teacher_ND: Teacher's hidden states of the same tokens and width; receive no gradient.
    Returns:
        Scalar, mean of 1 − cos, from 0 to 2.
    Raises:
        ShapeError: The shapes differ (the widths must be equal), or N = 0.
    Source: Sanh et al. 2019, §3.
    """
    _check_same_shape(student_ND, teacher_ND, "hidden states", dimensions=2)
    student_ND, teacher_ND = at_least_float32(student_ND), at_least_float32(teacher_ND.detach())
    return (1 - F.cosine_similarity(student_ND, teacher_ND, dim=-1)).mean()


def soft_value_loss(student_N: Tensor, teacher_N: Tensor) -> Tensor:
    """Mean squared difference of two regressions; a value has no temperature.

    Args:
        student_N: Student's predicted values, shape (N,).
        teacher_N: Teacher's predicted values of the same examples, shape (N,).
    Raises:
        ShapeError: The shapes differ, or N = 0.
    """
    # Shapes (N,) and (N, 1) would broadcast to N × N without an error.
    _check_same_shape(student_N, teacher_N, "values", dimensions=1)
    return F.mse_loss(student_N.float(), teacher_N.float())


def soft_span_loss(
    student_BL: Tensor, teacher_BL: Tensor, mask_BL: Tensor, *, temperature: float
) -> Tensor:
    """Soft-target loss over the positions of a sequence, without padding.

    Args:
        student_BL: Student's start or end logits, shape (B, L).
        teacher_BL: Teacher's logits of the same positions, shape (B, L); padding may hold anything.
        mask_BL: 1 at tokens, 0 at padding, shape (B, L).
        temperature: T > 0, dimensionless.
    Returns:
        Scalar, T² · KL, nats per sequence.
    Raises:
        ShapeError: The shapes differ, or B = 0.
    Differs from: the SQuAD script of Sanh et al. 2019, whose softmax includes the padding.
    """
    _check_same_shape(student_BL, teacher_BL, "logits", dimensions=2)
    padding_BL = mask_BL == 0
    # A finite lower bound: with −inf, padding in both would be −inf − −inf = NaN.
    lowest = torch.finfo(torch.float32).min / 4
    student_BL = (student_BL.float() / temperature).masked_fill(padding_BL, lowest)
    teacher_BL = (teacher_BL.float() / temperature).masked_fill(padding_BL, lowest)
    # Both are divided by T already, and masked after that.
    return soft_target_loss(student_BL, teacher_BL, temperature=1.0) * temperature**2


def mixed_loss(label_loss: Tensor, soft_loss: Tensor, *, alpha: float) -> Tensor:
    """Weighted mean of a label loss and a soft-target loss.

    (1 − alpha) · label_loss + alpha · soft_loss.
    """
    return (1 - alpha) * label_loss + alpha * soft_loss


def partly_labelled_loss(labelled: tuple[Tensor, int], unlabelled: tuple[Tensor, int]) -> Tensor:
    """Mean loss over the labelled and the unlabelled examples of a batch.

    Args:
        labelled: Mean loss of the labelled examples, and their number.
        unlabelled: Mean loss of the other examples, and their number. A part without examples is
            left out.
    """
    # A part without examples may hold NaN: it must not enter the sum, not even times 0.
    sums = [loss * count for loss, count in (labelled, unlabelled) if count]
    return torch.stack(sums).sum() / (labelled[1] + unlabelled[1])


def at_least_float32(values: Tensor) -> Tensor:
    """Returns `values` in float32, or in float64 if they have that dtype."""
    return values if values.dtype == torch.float64 else values.float()


def _check_same_shape(student: Tensor, teacher: Tensor, what: str, *, dimensions: int) -> None:
    """Raises ShapeError unless both have one shape, these dimensions, and N > 0."""
    if student.ndim != dimensions or student.shape != teacher.shape or not len(student):
        raise ShapeError(
            f"expected {what} of student and teacher of one shape of {dimensions} dimensions, "
            f"N > 0; got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
