"""Projection onto the vocabulary and the losses on it, in chunks, with the gradients computed on the way forward.

Logits of N tokens are N × V numbers: at V = 30,522 more than everything else in a step. Here a chunk of rows is
projected, reduced to its loss and to its gradient, and dropped; nothing but the gradients with respect to the hidden
states and to the head survives. So there is no backward pass to speak of: it scales what is ready.

Three sizes decide the speed on a CPU. The matrix products run over CHUNK_ROWS, because each chunk passes once over the
head's weight gradient (V × D in float32). The reductions run over BLOCK_ROWS in float32, so that a block stays in the
processor's cache. And all scratch memory is kept between calls (`_Scratch`): fresh pages cost more than the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

CHUNK_ROWS = 768
BLOCK_ROWS = 8
SLICE_TOKENS = 3816

_LEAST_EXACT = 1e-30  # below it a float32 may have lost digits

TeacherInputs = tuple[
    Tensor, Tensor, Tensor
]  # transformed hidden states (N, D'), weight (V, D'), bias (V)


@dataclass(frozen=True)
class ProjectedLosses:
    """`total` carries the gradient; the sums are over tokens, unweighted, float32, detached."""

    total: Tensor
    soft_target_sum: Tensor
    mlm_sum: Tensor


def project_and_reduce(
    student_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    teaching: TeacherInputs | None,
    labels_K: Tensor | None,
    *,
    soft_scale: float,
    mlm_scale: float,
    temperature: float,
) -> ProjectedLosses:
    """soft_scale · Σ_n T² KL_n + mlm_scale · Σ_k CE_k of N tokens.

    Computes in autocast's dtype where autocast is on, else in the student's; reduces in float32 at least.

    Args:
        student_ND: Transformed hidden states of the student.
        teaching: The teacher's side, or None without a soft-target loss.
        labels_K: Right tokens of the first K rows; None without an MLM loss. Without `teaching` K is N.
    """
    kind = student_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student_ND.dtype
    with torch.autocast(kind, enabled=False):
        total, soft_sum, mlm_sum = _ProjectAndReduce.apply(  # type: ignore[no-untyped-call]
            student_ND,
            weight_VD,
            bias_V,
            teaching,
            labels_K,
            (soft_scale, mlm_scale, temperature),
            dtype,
        )
    return ProjectedLosses(total, soft_sum, mlm_sum)


class _ProjectAndReduce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teaching: TeacherInputs | None,
        labels_K: Tensor | None,
        scales: tuple[float, float, float],
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        reduction = _Reduction(
            student_ND,
            weight_VD,
            bias_V,
            teaching,
            labels_K,
            scales,
            dtype,
            needs_weight,
            needs_bias,
        )
        total, soft_sum, mlm_sum = reduction.run()
        ctx.save_for_backward(reduction.grad_ND, reduction.grad_VD, reduction.grad_V)
        ctx.mark_non_differentiable(soft_sum, mlm_sum)
        return total, soft_sum, mlm_sum

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        is_one = (
            grad_total.device.type == "cpu" and float(grad_total) == 1.0
        )  # elsewhere asking would wait
        scaled = [
            ready if ready is None or is_one else ready * grad_total for ready in ctx.saved_tensors
        ]
        return *scaled, None, None, None, None


class _Reduction:
    """One pass over the chunks.

    The temperature is folded into what is projected, x = (h/T)·Wᵀ + b/T, and both losses share one gradient
    G = (q − p) + r · (softmax(T·x) − onehot) with r = mlm_scale / (soft_scale · T): the scale is applied to the small
    results, hidden · W and hidden · hidden, and never to N × V numbers.
    """

    def __init__(
        self,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teaching: TeacherInputs | None,
        labels_K: Tensor | None,
        scales: tuple[float, float, float],
        dtype: torch.dtype,
        needs_weight: bool,
        needs_bias: bool,
    ) -> None:
        soft_scale, mlm_scale, temperature = scales
        self.soft_scale, self.mlm_scale = soft_scale, mlm_scale
        self.temperature = temperature if teaching is not None else 1.0
        self.mlm_ratio = (
            mlm_scale / (soft_scale * self.temperature) if teaching is not None else 1.0
        )
        self.gradient_scale = soft_scale * self.temperature if teaching is not None else mlm_scale
        self.labels_K = labels_K
        self.device, self.dtype = student_ND.device, dtype
        self.wide = torch.promote_types(dtype, torch.float32)
        self.scratch = _Scratch.of(self.device)

        inverse = 1 / self.temperature
        self.hidden_ND = (student_ND.detach() * inverse).to(dtype)
        self.weight_VD = self.scratch.narrowed("student", weight_VD.detach(), dtype)
        self.bias_V = bias_V.detach().to(self.wide) * inverse
        if teaching is not None:
            hidden, weight, bias = (part.detach() for part in teaching)
            self.teacher_ND = (hidden * inverse).to(dtype)
            self.teacher_VD = self.scratch.narrowed("teacher", weight, dtype)
            self.teacher_bias_V = bias.to(self.wide) * inverse
        self.teaches = teaching is not None

        # The weight's gradient is a sum over h · scale: V × D numbers need no scaling. Float16 has no room for it.
        self.scaled_early = dtype != torch.float16
        self.scaled_ND = (
            (student_ND.detach() * self.gradient_scale).to(dtype)
            if self.scaled_early
            else self.hidden_ND
        )

        self.grad_ND = torch.empty(student_ND.shape, dtype=student_ND.dtype, device=self.device)
        self.grad_VD = (
            torch.empty(weight_VD.shape, dtype=self.wide, device=self.device)
            if needs_weight
            else None
        )
        self.grad_V = (
            torch.zeros(bias_V.shape, dtype=self.wide, device=self.device) if needs_bias else None
        )

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        zero = torch.zeros((), dtype=self.wide, device=self.device)
        soft_sum, mlm_sum = zero, zero.clone()
        rows = -(
            -len(self.hidden_ND) // max(1, -(-len(self.hidden_ND) // CHUNK_ROWS))
        )  # chunks of one size
        for start in range(0, len(self.hidden_ND), rows):
            soft, mlm = self._chunk(start, min(start + rows, len(self.hidden_ND)))
            soft_sum, mlm_sum = soft_sum + soft, mlm_sum + mlm
        return soft_sum * self.soft_scale + mlm_sum * self.mlm_scale, soft_sum, mlm_sum

    def _chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows, vocabulary = stop - start, len(self.weight_VD)
        logits_CV = self.scratch.take("student logits", (rows, vocabulary), self.dtype)
        torch.mm(self.hidden_ND[start:stop], self.weight_VD.T, out=logits_CV)
        taught_CV = None
        if self.teaches:
            taught_CV = self.scratch.take("teacher logits", (rows, vocabulary), self.dtype)
            torch.mm(self.teacher_ND[start:stop], self.teacher_VD.T, out=taught_CV)
        soft_sum = torch.zeros((), dtype=self.wide, device=self.device)
        mlm_sum = soft_sum.clone()
        block = BLOCK_ROWS if self.device.type == "cpu" else rows
        for first in range(0, rows, block):
            here = slice(first, min(first + block, rows))
            labels = (
                None
                if self.labels_K is None
                else self.labels_K[start + here.start : start + here.stop]
            )
            soft, mlm = self._block(
                logits_CV[here], None if taught_CV is None else taught_CV[here], labels
            )
            soft_sum += soft
            mlm_sum += mlm
        self._collect(logits_CV, start, stop)  # they hold the gradient now
        return soft_sum, mlm_sum

    def _block(
        self, logits_RV: Tensor, taught_RV: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Both losses of a block of rows; leaves their gradient where the student's logits were."""
        shape, scratch = logits_RV.shape, self.scratch
        x_RV = scratch.take("x", shape, self.wide).copy_(logits_RV).add_(self.bias_V)
        # On a CPU asking whether all rows have a label, and looking at them, is free.
        columns = (
            None
            if labels is None or len(labels) < len(x_RV) or x_RV.device.type != "cpu"
            else labels
        )
        if taught_RV is None:
            assert labels is not None
            g_RV = scratch.take("y", shape, self.wide)
            mlm_sum = self._add_mlm(x_RV, g_RV.zero_(), labels)
            soft_sum = torch.zeros_like(mlm_sum)
        else:
            y_RV = scratch.take("y", shape, self.wide).copy_(taught_RV).add_(self.teacher_bias_V)
            p_RV = scratch.take("p", shape, self.wide)
            divergence = -_softmax(y_RV, p_RV, columns)
            expected = torch.dot(y_RV.sub_(x_RV).view(-1), p_RV.view(-1))
            g_RV = y_RV
            normalizers = _softmax(x_RV, g_RV, columns)
            soft_sum = (expected + (divergence + normalizers).sum()) * self.temperature**2
            mlm_sum = torch.zeros_like(soft_sum)
            if labels is not None and len(labels) and self.temperature == 2:
                mlm_sum = self._add_mlm_by_squares(x_RV, g_RV, normalizers, labels)
                g_RV.sub_(p_RV)
            else:
                g_RV.sub_(p_RV)
                if labels is not None and len(labels):
                    mlm_sum = self._add_mlm(x_RV, g_RV, labels)
        if self.grad_V is not None:
            self.grad_V.add_(g_RV.sum(0), alpha=self.gradient_scale)
        logits_RV.copy_(g_RV)
        return soft_sum, mlm_sum

    def _add_mlm(self, x_RV: Tensor, g_RV: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropies of the first rows; adds their gradient to `g_RV`, and spoils `x_RV`."""
        z_KV = x_RV[: len(labels)].mul_(self.temperature)
        s_KV = self.scratch.take("s", z_KV.shape, self.wide)
        right = labels.unsqueeze(1)
        right_logits = z_KV.gather(1, right).sum()
        mlm_sum = (
            _softmax(z_KV, s_KV, labels if z_KV.device.type == "cpu" else None).sum() - right_logits
        )
        g_RV[: len(labels)].add_(s_KV, alpha=self.mlm_ratio)
        self._subtract_right(g_RV, right)
        return mlm_sum

    def _add_mlm_by_squares(
        self, x_RV: Tensor, q_RV: Tensor, normalizers: Tensor, labels: Tensor
    ) -> Tensor:
        """The same at T = 2 from q = softmax(x): softmax(2x) is q² over its sum, without another exponential."""
        x_KV, q_KV = x_RV[: len(labels)], q_RV[: len(labels)]
        right = labels.unsqueeze(1)
        squares = torch.linalg.vecdot(q_KV, q_KV)
        apart_K = normalizers[: len(labels)] - x_KV.gather(1, right).squeeze(1)
        mlm_sum: Tensor = (2 * apart_K + squares.log()).sum()
        torch.mul(q_KV, (self.mlm_ratio / squares).unsqueeze(1), out=x_KV)
        q_KV.addcmul_(q_KV, x_KV)
        self._subtract_right(q_RV, right)
        return mlm_sum

    def _subtract_right(self, g_RV: Tensor, right: Tensor) -> None:
        g_RV[: len(right)].scatter_add_(1, right, torch.full(right.shape, -self.mlm_ratio).to(g_RV))

    def _collect(self, gradient_CV: Tensor, start: int, stop: int) -> None:
        """Gradients of hidden states and head from a chunk's gradient of the logits."""
        hidden_CD = self.scratch.take("hidden", (stop - start, self.weight_VD.shape[1]), self.dtype)
        torch.mm(gradient_CV, self.weight_VD, out=hidden_CD)
        torch.mul(hidden_CD, self.gradient_scale, out=self.grad_ND[start:stop])
        if self.grad_VD is None:
            return
        scale = (
            1.0 if self.scaled_early else self.gradient_scale * self.temperature
        )  # h/T was multiplied
        # A slice of the vocabulary is multiplied, widened and added while it is in cache.
        slices = (
            torch.split(self.grad_VD, SLICE_TOKENS),
            torch.split(gradient_CV, SLICE_TOKENS, dim=1),
        )
        for into, gradient in zip(*slices, strict=True):
            product = self.scratch.take("product", into.shape, self.dtype)
            torch.mm(gradient.T, self.scaled_ND[start:stop], out=product)
            if start == 0:
                into.copy_(product)
                if scale != 1:
                    into.mul_(scale)
            else:
                widened = self.scratch.take("widened", product.shape, self.wide).copy_(product)
                into.add_(widened, alpha=scale)


def _softmax(z_RV: Tensor, into_RV: Tensor, columns: Tensor | None) -> Tensor:
    """Writes softmax of the rows into `into_RV`; returns their log-normalizers (R).

    log Σ exp z = z_c − log softmax(z)_c for any column c: one exponential per element, where log_softmax and exp take
    two. `columns` names one for each row, which saves the search for the largest; it serves unless its probability is
    too small to be exact.
    """
    torch.ops.aten._softmax.out(z_RV, -1, False, out=into_RV)
    if columns is not None:
        there = columns.unsqueeze(1)
        chances = into_RV.gather(1, there)
        if float(chances.min()) > _LEAST_EXACT:
            return (z_RV.gather(1, there) - chances.log_()).squeeze(1)
    largest: Tensor = z_RV.amax(-1)
    return largest - into_RV.amax(-1).log_()


class _Scratch:
    """Memory that is kept between calls, by name; what lies in it means nothing after a call."""

    _by_device: ClassVar[dict[torch.device, _Scratch]] = {}

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    @classmethod
    def of(cls, device: torch.device) -> _Scratch:
        return cls._by_device.setdefault(device, cls(device))

    def take(self, name: str, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = 1
        for length in shape:
            size *= length
        held = self._held.get((name, dtype))
        if held is None or len(held) < size:
            held = self._held[name, dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return held[:size].view(shape)

    def narrowed(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """`values` in `dtype`: themselves where they are that already."""
        return (
            values if values.dtype == dtype else self.take(name, values.shape, dtype).copy_(values)
        )
