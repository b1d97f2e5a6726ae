"""Projection onto the vocabulary and the losses on it, in chunks, with the gradients computed on the way forward.

Logits of N tokens are N × V numbers: at V = 30,522 more than everything else in a step. Here a chunk of rows is
projected, reduced to its loss and to its gradient, and dropped; nothing but the gradients with respect to the hidden
states and to the head survives. So there is no backward pass to speak of: it scales what is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 512  # of a chunk: many rows share one pass over the head's weight gradient

Teaching = tuple[Tensor, Tensor, Tensor]  # transformed hidden states (N, D'), weight (V, D'), bias (V)


@dataclass(frozen=True)
class Projected:
    """`total` carries the gradient; the sums are over tokens, unweighted, float32, detached."""

    total: Tensor
    soft_target_sum: Tensor
    mlm_sum: Tensor


def project_and_reduce(
    student_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    teaching: Teaching | None,
    labels_K: Tensor | None,
    *,
    soft_scale: float,
    mlm_scale: float,
    temperature: float,
) -> Projected:
    """soft_scale · Σ_n T² KL_n + mlm_scale · Σ_k CE_k of N tokens.

    Args:
        student_ND: Transformed hidden states of the student.
        teaching: The teacher's side, or None without a soft-target loss.
        labels_K: Right tokens of the first K rows; None without an MLM loss.
    """
    dtype = _compute_dtype(student_ND)
    with torch.autocast(student_ND.device.type, enabled=False):
        total, soft_sum, mlm_sum = _ProjectAndReduce.apply(  # type: ignore[no-untyped-call]
            student_ND.to(dtype),
            weight_VD,
            bias_V,
            None if teaching is None else tuple(part.detach().to(dtype) for part in teaching),
            labels_K,
            soft_scale,
            mlm_scale,
            temperature,
        )
    return Projected(total, soft_sum, mlm_sum)


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _ProjectAndReduce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teaching: Teaching | None,
        labels_K: Tensor | None,
        soft_scale: float,
        mlm_scale: float,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = weight_VD.detach().to(student_ND.dtype), bias_V.detach().to(student_ND.dtype)
        wide = torch.float64 if student_ND.dtype == torch.float64 else torch.float32
        soft_sum = torch.zeros((), dtype=wide, device=student_ND.device)
        mlm_sum = soft_sum.clone()
        needs = ctx.needs_input_grad
        grad_ND = torch.empty_like(student_ND)
        grad_VD = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs[1] else None
        grad_V = torch.zeros(bias.shape, dtype=wide, device=bias.device) if needs[2] else None
        labelled = 0 if labels_K is None else len(labels_K)
        for start in range(0, len(student_ND), ROWS):
            rows = slice(start, start + ROWS)
            hidden_CD = student_ND[rows]
            logits_CV = torch.addmm(bias, hidden_CD, weight.T).to(wide)
            gradient_CV = torch.zeros_like(logits_CV)
            if teaching is not None:
                hidden, head, head_bias = teaching
                log_p = torch.log_softmax(torch.addmm(head_bias, hidden[rows], head.T).to(wide) / temperature, -1)
                log_q = torch.log_softmax(logits_CV / temperature, -1)
                p = log_p.exp()
                soft_sum += (p * (log_p - log_q)).sum() * temperature**2
                gradient_CV.add_(log_q.exp() - p, alpha=soft_scale * temperature)
            if labels_K is not None and start < labelled:
                labels_C = labels_K[rows]
                log_q = torch.log_softmax(logits_CV[: len(labels_C)], -1)
                right = labels_C.unsqueeze(1)
                mlm_sum -= log_q.gather(1, right).sum()
                probability = log_q.exp()
                probability.scatter_add_(1, right, torch.full_like(right, -1, dtype=wide))
                gradient_CV[: len(labels_C)].add_(probability, alpha=mlm_scale)
            narrow_CV = gradient_CV.to(student_ND.dtype)
            torch.mm(narrow_CV, weight, out=grad_ND[rows])
            if grad_VD is not None:
                grad_VD += narrow_CV.T @ hidden_CD
            if grad_V is not None:
                grad_V += gradient_CV.sum(0)
        ctx.save_for_backward(grad_ND, grad_VD, grad_V)
        ctx.dtypes = weight_VD.dtype, bias_V.dtype
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(soft_sum, mlm_sum)
        return soft_sum * soft_scale + mlm_sum * mlm_scale, soft_sum, mlm_sum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        grad_ND, grad_VD, grad_V = ctx.saved_tensors
        scaled = [
            None if ready is None else (ready * scale).to(dtype)
            for ready, dtype in zip((grad_ND, grad_VD, grad_V), (grad_ND.dtype, *ctx.dtypes), strict=True)
        ]
        return *scaled, None, None, None, None, None
