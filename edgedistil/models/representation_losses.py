"""Losses on states and sentence vectors: plain formulas, for a teacher without an MLM head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedistil.core.errors import ShapeError
from edgedistil.models.losses import at_least_float32

# A similarity that takes no part in a softmax; finite, so that no gradient is NaN.
_EXCLUDED = -1e9


def vector_loss(student_BV: Tensor, teacher_BV: Tensor) -> Tensor:
    """Mean squared distance of normalized sentence vectors.

        L = mean_b |s/|s| − t/|t||² = 2 · mean_b (1 − cos(s, t))

    Args:
        student_BV: Sentence vectors of B texts, of any length; reduced in float32.
        teacher_BV: The teacher's vectors of the same texts and width; receive no gradient.
    Returns:
        Scalar, from 0 to 4.
    Raises:
        ShapeError: The shapes differ, or B = 0.
    Source: LEAF, arXiv 2509.12539, §3.
    """
    _check_pair(student_BV, teacher_BV, "sentence vectors", least=1)
    student_BV = F.normalize(at_least_float32(student_BV), dim=-1)
    teacher_BV = F.normalize(at_least_float32(teacher_BV.detach()), dim=-1)
    return (student_BV - teacher_BV).square().sum(-1).mean()


def similarity_loss(student_BV: Tensor, teacher_BV: Tensor, *, temperature: float) -> Tensor:
    """KL divergence between the distributions of similarities within a batch.

        p_b = softmax over the other texts c of cos(t_b, t_c) / T,   q_b likewise of the student
        L = mean_b Σ_c p_bc (log p_bc − log q_bc)

    Student and teacher may have different widths: only similarities are compared.

    Args:
        student_BV: Sentence vectors of B texts.
        teacher_BV: The teacher's, (B, V'); receive no gradient.
        temperature: T > 0, in units of a cosine; small values look at the nearest texts only.
    Returns:
        Scalar, nats per text, >= 0.
    Raises:
        ShapeError: Different numbers of texts, or fewer than 3: with two, each has one other text
            and nothing is compared.
    """
    _check_pair(student_BV, teacher_BV, "sentence vectors", least=3, same_width=False)
    log_q_BB = _log_similarities(student_BV, temperature)
    log_p_BB = _log_similarities(teacher_BV.detach(), temperature)
    return F.kl_div(log_q_BB, log_p_BB, reduction="batchmean", log_target=True)


def _log_similarities(vectors_BV: Tensor, temperature: float) -> Tensor:
    """Log-softmax of each text's similarities to the others, (B, B)."""
    unit_BV = F.normalize(at_least_float32(vectors_BV), dim=-1)
    own_BB = torch.eye(len(unit_BV), dtype=torch.bool, device=unit_BV.device)
    similarities_BB = (unit_BV @ unit_BV.T / temperature).masked_fill(own_BB, _EXCLUDED)
    return F.log_softmax(similarities_BB, dim=-1)


def relation_loss(
    student_BLD: Tensor, teacher_BLD: Tensor, mask_BL: Tensor, *, heads: int
) -> Tensor:
    """KL divergence between the relations of positions, for one of query, key or value.

        R = softmax(X_h X_hᵀ / √d) for each of the heads h, over the attended positions
        L = mean over texts, heads and attended positions of KL(R_teacher ‖ R_student)

    Widths and numbers of attention heads may differ: both are divided into `heads` parts here.

    Args:
        student_BLD: The student's queries, keys or values.
        teacher_BLD: The teacher's, (B, L, D'); receive no gradient.
        mask_BL: 1 at tokens, 0 at padding.
        heads: Relation heads; divides both widths.
    Returns:
        Scalar, nats per position, >= 0.
    Raises:
        ShapeError: B or L differ, or `heads` does not divide a width.
    Source: MiniLMv2, arXiv 2012.15828, §3.1 and §3.2.
    """
    if student_BLD.shape[:2] != teacher_BLD.shape[:2] or student_BLD.shape[:2] != mask_BL.shape:
        raise ShapeError(
            "expected student (B, L, D), teacher (B, L, D') and mask (B, L); got "
            f"{tuple(student_BLD.shape)}, {tuple(teacher_BLD.shape)} and {tuple(mask_BL.shape)}"
        )
    for states_BLD in (student_BLD, teacher_BLD):
        if states_BLD.shape[2] % heads:
            raise ShapeError(
                f"{heads} relation heads do not divide a width of {states_BLD.shape[2]}"
            )
    # Rows are distributions over the attended positions; padding has no weight as a row.
    log_q_BHLL = _log_relations(student_BLD, mask_BL, heads)
    log_p_BHLL = _log_relations(teacher_BLD.detach(), mask_BL, heads)
    divergence_BHL = (log_p_BHLL.exp() * (log_p_BHLL - log_q_BHLL)).sum(-1)
    # Mean over attended positions and heads; rows of padding are left out.
    attended_B1L = mask_BL.to(divergence_BHL.dtype)[:, None]
    return (divergence_BHL * attended_B1L).sum() / (attended_B1L.sum() * heads)


def _log_relations(states_BLD: Tensor, mask_BL: Tensor, heads: int) -> Tensor:
    """Log-softmax of the scaled products of all pairs of positions, (B, H, L, L)."""
    B, L, _ = states_BLD.shape
    split_BHLd = at_least_float32(states_BLD).reshape(B, L, heads, -1).transpose(1, 2)
    scale = split_BHLd.shape[-1] ** -0.5
    products_BHLL = split_BHLd @ split_BHLd.transpose(-1, -2) * scale
    padding_B11L = (mask_BL == 0)[:, None, None]
    return F.log_softmax(products_BHLL.masked_fill(padding_B11L, _EXCLUDED), dim=-1)


def _check_pair(
    student: Tensor, teacher: Tensor, what: str, *, least: int, same_width: bool = True
) -> None:
    """Raises ShapeError unless both have the same rows, and enough of them."""
    fits = student.ndim == teacher.ndim == 2 and len(student) == len(teacher) >= least
    if not fits or (same_width and student.shape != teacher.shape):
        raise ShapeError(
            f"expected {what} of student and teacher, of the same texts, at least {least}; "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
