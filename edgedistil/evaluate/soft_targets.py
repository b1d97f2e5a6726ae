"""Distillation while fine-tuning, "(D)": what the fine-tuned teacher's soft targets add to the loss. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgedistil.core.errors import ShapeError


def soft_label_loss(student_NC: Tensor, teacher_NC: Tensor, *, temperature: float) -> Tensor:
    """Temperature-scaled KL divergence from the teacher's to the student's distribution over C classes.

        L = T² · mean_n Σ_c p (log p - log q),   p = softmax(teacher/T), q = softmax(student/T)

    Returns:
        Scalar float32, nats, >= 0; 0 when the distributions are equal.
    Raises:
        ShapeError: The shapes differ, or N = 0.
    Source: Hinton et al. 2015, eq. 1 and §2.
    """
    _same_shape(student_NC, teacher_NC)
    student = functional.log_softmax(student_NC.float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_NC.float() / temperature, dim=-1)
    return (
        functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    )


def soft_value_loss(student_N: Tensor, teacher_N: Tensor) -> Tensor:
    """Mean squared difference of the two predictions; a value has no temperature."""
    _same_shape(student_N, teacher_N)
    return functional.mse_loss(student_N.float(), teacher_N.float())


def soft_span_loss(
    student_BL: Tensor, teacher_BL: Tensor, mask_BL: Tensor, *, temperature: float
) -> Tensor:
    """T² · KL over the positions of a sequence (start or end logits), padding left out of both distributions.

    Args:
        student_BL: Student logits, shape (B, L).
        teacher_BL: Teacher logits of the same positions, shape (B, L); what stands at padding does not matter.
        mask_BL: 1 at tokens, 0 at padding.
    Differs from: the SQuAD script of Sanh et al. 2019, whose softmax runs over the padding too.
    """
    _same_shape(student_BL, teacher_BL)
    padding = mask_BL == 0
    lowest = (
        torch.finfo(torch.float32).min / 4
    )  # a finite floor: -inf - -inf would be NaN where both are padding
    student = (student_BL.float() / temperature).masked_fill(padding, lowest)
    teacher = (teacher_BL.float() / temperature).masked_fill(padding, lowest)
    return soft_label_loss(student, teacher, temperature=1.0) * temperature**2


def partly_labelled_loss(labelled: tuple[Tensor, int], unlabelled: tuple[Tensor, int]) -> Tensor:
    """Mean over a batch of the mixed loss of its labelled examples and the soft loss of the others.

    Args:
        labelled, unlabelled: A mean loss and the number of examples that it is over; with 0 of them it does not count.
    """
    parts = [loss * count for loss, count in (labelled, unlabelled) if count]
    return torch.stack(parts).sum() / (labelled[1] + unlabelled[1])


def mixed_loss(label_loss: Tensor, soft_loss: Tensor, *, alpha: float) -> Tensor:
    """(1 - alpha) · label_loss + alpha · soft_loss."""
    return (1 - alpha) * label_loss + alpha * soft_loss


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.numel() == 0:
        raise ShapeError(
            f"student logits {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}: expected equal"
        )
