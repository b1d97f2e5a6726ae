"""Losses on the vocabulary in chunks; the forward pass computes the gradients.

The logits of N tokens are N × V numbers: at V = 30,522 more than everything else in a step. Here a
chunk of rows is projected, reduced to its loss and its gradient, and dropped. Only the gradients of
the hidden states and of the head remain, so the backward pass just scales them
(docs/decisions.md#the-engine-computes-gradients-in-the-forward-pass).

Both losses share one gradient of the logits. With the hidden states h, the temperature T,
x = (h/T)·Wᵀ + b/T, q = softmax(x) and the teacher's p, the gradient with respect to h is

    T · soft_scale · G · W
    G = (q − p) + r · (softmax(T·x) − onehot)
    r = mlm_scale / (soft_scale · T)

so the scales are applied to the small results (N × D and V × D), never to N × V numbers. Without a
teacher T and r are 1, q − p is left out, and mlm_scale replaces T · soft_scale.

Shape suffixes: N tokens, K of them with a label, V vocabulary, D width, C rows of a chunk, R rows
of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgedistil.models.fast.scratch import Scratch

# Rows that are projected at once. Each chunk passes once over the head's weight gradient (V × D in
# float32), so chunks are large; 1,024 rows are no faster per token and need more memory
# (docs/log.md#chunk-size-of-the-projection).
CHUNK_ROWS = 768
# Rows that are reduced at once on a CPU: the float32 buffers of 32 rows no longer fit its cache
# (docs/log.md#blocks-of-the-projection).
BLOCK_ROWS = 8
# Rows of the weight gradient that are computed at once, an eighth of BERT's vocabulary: a temporary
# of all V rows would add 40 MB to the peak (docs/log.md#peak-memory-of-a-step).
SLICE_TOKENS = 3816

# A float32 probability below this may have lost digits, so its logarithm is not used.
_MIN_EXACT_PROBABILITY = 1e-30


class TeacherInputs(NamedTuple):
    """The teacher's part of the soft-target loss.

    Attributes:
        hidden_ND: Transformed hidden states of the same tokens; the width may differ from the
            student's.
        weight_VD: Projection of the teacher's head.
        bias_V: Its bias.
    """

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor


@dataclass(frozen=True)
class ProjectedLosses:
    """Losses on the vocabulary.

    Attributes:
        total: Weighted sum; carries the gradient.
        soft_target_sum: Sum over the tokens, with T², unweighted, float32, detached.
        mlm_sum: Sum over the labelled tokens, unweighted, float32, detached.
    """

    total: Tensor
    soft_target_sum: Tensor
    mlm_sum: Tensor


class _Projection(NamedTuple):
    """Hidden states and head whose product is logits / T."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor


class _Scales(NamedTuple):
    """Factors of the two losses, and the temperature."""

    soft_target: float
    mlm: float
    temperature: float


def project_and_reduce(
    student_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    teacher: TeacherInputs | None,
    labels_K: Tensor | None,
    *,
    soft_scale: float,
    mlm_scale: float,
    temperature: float,
) -> ProjectedLosses:
    """Returns soft_scale · Σ_n T² KL_n + mlm_scale · Σ_k CE_k of N tokens.

    Computes in autocast's dtype if autocast is on, otherwise in the student's; reduces in float32
    at least. `edgedistil.models.losses` has the plain formulas.

    Args:
        student_ND: Transformed hidden states of the student.
        weight_VD: Projection of the student's head.
        bias_V: Its bias.
        teacher: The teacher's part; None without a soft-target loss.
        labels_K: Original tokens of the first K rows; None without an MLM loss. Without `teacher` K
            is N.
        soft_scale: Factor of the soft-target loss, > 0 with `teacher`.
        mlm_scale: Factor of the MLM loss.
        temperature: T > 0, dimensionless.
    """
    device_type = student_ND.device.type
    dtype = student_ND.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    scales = _Scales(soft_scale, mlm_scale, temperature)
    with torch.autocast(device_type, enabled=False):
        total, soft_sum, mlm_sum = _ProjectAndReduce.apply(  # type: ignore[no-untyped-call]
            student_ND, weight_VD, bias_V, teacher, labels_K, scales, dtype
        )
    return ProjectedLosses(total, soft_sum, mlm_sum)


class _ProjectAndReduce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teacher: TeacherInputs | None,
        labels_K: Tensor | None,
        scales: _Scales,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_weight_and_bias = ctx.needs_input_grad[1:3]
        reduction = _Reduction(
            student_ND, weight_VD, bias_V, teacher, labels_K, scales, dtype, needs_weight_and_bias
        )
        total, soft_sum, mlm_sum = reduction.run()
        ctx.save_for_backward(reduction.grad_ND, reduction.grad_VD, reduction.grad_V)
        ctx.mark_non_differentiable(soft_sum, mlm_sum)
        return total, soft_sum, mlm_sum

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = list(ctx.saved_tensors)
        # A loop calls backward on the total itself, so the factor is usually 1 and a pass over
        # V × D numbers is saved. On a GPU reading the factor would wait for the device.
        is_one = grad_total.device.type == "cpu" and float(grad_total) == 1.0
        if not is_one:
            gradients = [grad if grad is None else grad * grad_total for grad in gradients]
        return *gradients, None, None, None, None


class _Reduction:
    """One pass over the chunks, which computes losses and gradients.

    Attributes:
        grad_ND: Gradient of the student's hidden states.
        grad_VD: Gradient of its projection; None if not needed.
        grad_V: Gradient of its bias; None if not needed.
    """

    def __init__(
        self,
        student_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teacher: TeacherInputs | None,
        labels_K: Tensor | None,
        scales: _Scales,
        dtype: torch.dtype,
        needs_weight_and_bias: tuple[bool, bool],
    ) -> None:
        self.labels_K = labels_K
        self.device, self.dtype = student_ND.device, dtype
        self.wide = torch.promote_types(dtype, torch.float32)
        self.scratch = Scratch.of(self.device)

        # The module's docstring defines these three.
        self.soft_scale, self.mlm_scale = scales.soft_target, scales.mlm
        if teacher is None:
            self.temperature, self.mlm_ratio, self.gradient_scale = 1.0, 1.0, scales.mlm
        else:
            self.temperature = scales.temperature
            self.mlm_ratio = scales.mlm / (scales.soft_target * self.temperature)
            self.gradient_scale = scales.soft_target * self.temperature

        # The temperature divides N × D hidden states and the bias instead of N × V logits.
        self.student = self._divide_by_temperature("student", student_ND, weight_VD, bias_V)
        self.teacher = None
        if teacher is not None:
            self.teacher = self._divide_by_temperature("teacher", *teacher)

        # The weight gradient is a sum over rows of h, so the scale is applied to h beforehand
        # instead of to V × D numbers afterwards. In float16 the scaled rows would underflow.
        self.is_scaled_early = dtype != torch.float16
        self.scaled_ND = self.student.hidden_ND
        if self.is_scaled_early:
            self.scaled_ND = (student_ND.detach() * self.gradient_scale).to(dtype)

        needs_weight, needs_bias = needs_weight_and_bias
        self.grad_ND = torch.empty(student_ND.shape, dtype=student_ND.dtype, device=self.device)
        self.grad_VD: Tensor | None = None
        if needs_weight:
            self.grad_VD = torch.empty(weight_VD.shape, dtype=self.wide, device=self.device)
        self.grad_V: Tensor | None = None
        if needs_bias:
            self.grad_V = torch.zeros(bias_V.shape, dtype=self.wide, device=self.device)

    def _divide_by_temperature(
        self, name: str, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor
    ) -> _Projection:
        inverse = 1 / self.temperature
        return _Projection(
            (hidden_ND.detach() * inverse).to(self.dtype),
            self.scratch.cast(name, weight_VD.detach(), self.dtype),
            bias_V.detach().to(self.wide) * inverse,
        )

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the weighted total and the two sums."""
        soft_sum = torch.zeros((), dtype=self.wide, device=self.device)
        mlm_sum = soft_sum.clone()
        for rows in _equal_chunks(len(self.student.hidden_ND), CHUNK_ROWS):
            chunk_soft_sum, chunk_mlm_sum = self._reduce_chunk(rows)
            soft_sum = soft_sum + chunk_soft_sum
            mlm_sum = mlm_sum + chunk_mlm_sum
        return soft_sum * self.soft_scale + mlm_sum * self.mlm_scale, soft_sum, mlm_sum

    # --- a chunk ---------------------------------------------------------------------------------

    def _reduce_chunk(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Returns both losses of a chunk of rows; collects its gradients."""
        # Project. The bias is added later, in float32: `addmm` takes a third longer than `mm`
        # (docs/log.md#addmm-with-the-bias).
        logits_CV = self._project("student logits", self.student, rows)
        teacher_CV = None
        if self.teacher is not None:
            teacher_CV = self._project("teacher logits", self.teacher, rows)
        labels = None
        if self.labels_K is not None:
            # Empty where the chunk is behind the labelled rows.
            labels = self.labels_K[rows]

        # Reduce block by block, in float32 buffers that stay in the processor's cache.
        soft_sum = torch.zeros((), dtype=self.wide, device=self.device)
        mlm_sum = soft_sum.clone()
        block_rows = BLOCK_ROWS if self.device.type == "cpu" else len(logits_CV)
        for start in range(0, len(logits_CV), block_rows):
            block = slice(start, start + block_rows)
            block_soft_sum, block_mlm_sum = self._reduce_block(
                logits_CV[block],
                None if teacher_CV is None else teacher_CV[block],
                None if labels is None else labels[block],
            )
            soft_sum += block_soft_sum
            mlm_sum += block_mlm_sum

        # The student's logits have been overwritten by their gradient.
        self._collect_gradients(logits_CV, rows)
        return soft_sum, mlm_sum

    def _project(self, name: str, side: _Projection, rows: slice) -> Tensor:
        hidden_CD = side.hidden_ND[rows]
        shape = (len(hidden_CD), len(side.weight_VD))
        logits_CV = self.scratch.take(name, shape, self.dtype)
        return torch.mm(hidden_CD, side.weight_VD.T, out=logits_CV)

    def _collect_gradients(self, gradient_CV: Tensor, rows: slice) -> None:
        """Computes gradients of hidden states and projection from that of the logits."""
        shape_CD = (len(gradient_CV), self.student.weight_VD.shape[1])
        hidden_CD = self.scratch.take("hidden", shape_CD, self.dtype)
        torch.mm(gradient_CV, self.student.weight_VD, out=hidden_CD)
        torch.mul(hidden_CD, self.gradient_scale, out=self.grad_ND[rows])
        if self.grad_VD is None:
            return

        scale = 1.0
        if not self.is_scaled_early:
            # h was divided by T.
            scale = self.gradient_scale * self.temperature
        # A slice of the vocabulary is multiplied, widened and added while it is in cache.
        target_slices = torch.split(self.grad_VD, SLICE_TOKENS)
        gradient_slices = torch.split(gradient_CV, SLICE_TOKENS, dim=1)
        for target, gradient in zip(target_slices, gradient_slices, strict=True):
            product = self.scratch.take("product", target.shape, self.dtype)
            torch.mm(gradient.T, self.scaled_ND[rows], out=product)
            # The first chunk writes instead of adding, so the gradient needs no zeros.
            if rows.start == 0:
                target.copy_(product)
                if scale != 1:
                    target.mul_(scale)
            else:
                widened = self.scratch.take("widened", product.shape, self.wide).copy_(product)
                target.add_(widened, alpha=scale)

    # --- a block ---------------------------------------------------------------------------------

    def _reduce_block(
        self, logits_RV: Tensor, teacher_RV: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns both losses of a block; overwrites the student's logits by their gradient."""
        shape = logits_RV.shape
        x_RV = self.scratch.take("x", shape, self.wide).copy_(logits_RV)
        x_RV.add_(self.student.bias_V)
        if teacher_RV is None:
            assert labels is not None
            g_RV = self.scratch.take("y", shape, self.wide).zero_()
            mlm_sum = self._add_mlm(x_RV, g_RV, labels)
            soft_sum = torch.zeros_like(mlm_sum)
        else:
            soft_sum, mlm_sum, g_RV = self._reduce_with_teacher(x_RV, teacher_RV, labels)

        # Summed here: a sum over the chunk with dtype float32 would copy it
        # (docs/log.md#bias-gradient-of-a-bfloat16-chunk).
        if self.grad_V is not None:
            self.grad_V.add_(g_RV.sum(0), alpha=self.gradient_scale)
        logits_RV.copy_(g_RV)
        return soft_sum, mlm_sum

    def _reduce_with_teacher(
        self, x_RV: Tensor, teacher_RV: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns soft-target sum, MLM sum, and G of the module's docstring.

        Overwrites `x_RV`. With the normalizers Z,
        KL_n = Σ_v p (log p − log q) = Σ_v p (y − x) − log Z_y + log Z_x.
        """
        assert self.teacher is not None
        shape = x_RV.shape
        # A label's column spares the search for the largest logit in `_softmax`. Whether each row
        # has a label, and what it is, can be read on a CPU at no cost.
        columns = None
        if labels is not None and len(labels) == len(x_RV) and x_RV.device.type == "cpu":
            columns = labels

        # Teacher: p, then y − x in place of y.
        y_RV = self.scratch.take("y", shape, self.wide).copy_(teacher_RV)
        y_RV.add_(self.teacher.bias_V)
        p_RV = self.scratch.take("p", shape, self.wide)
        teacher_normalizers_R = _softmax(y_RV, p_RV, columns)
        expected = torch.dot(y_RV.sub_(x_RV).view(-1), p_RV.view(-1))

        # Student: q in place of y − x, which is not needed any more.
        q_RV = y_RV
        normalizers_R = _softmax(x_RV, q_RV, columns)
        normalizer_sum = (-teacher_normalizers_R + normalizers_R).sum()
        soft_sum = (expected + normalizer_sum) * self.temperature**2

        # G in place of q. Both ways of adding the MLM loss overwrite x.
        if labels is None or len(labels) == 0:
            return soft_sum, torch.zeros_like(soft_sum), q_RV.sub_(p_RV)
        if self.temperature == 2:
            # Before q − p: it computes from q.
            mlm_sum = self._add_mlm_by_squares(x_RV, q_RV, normalizers_R, labels)
            return soft_sum, mlm_sum, q_RV.sub_(p_RV)
        g_RV = q_RV.sub_(p_RV)
        return soft_sum, self._add_mlm(x_RV, g_RV, labels), g_RV

    def _add_mlm(self, x_RV: Tensor, g_RV: Tensor, labels: Tensor) -> Tensor:
        """Returns the sum of the labelled rows' cross-entropies; adds their gradient.

        The gradient is added to `g_RV`, and `x_RV` is overwritten.
        """
        # Logits at temperature 1.
        z_KV = x_RV[: len(labels)].mul_(self.temperature)
        probabilities_KV = self.scratch.take("s", z_KV.shape, self.wide)
        labels_K1 = labels.unsqueeze(1)
        label_logits_sum = z_KV.gather(1, labels_K1).sum()
        columns = labels if z_KV.device.type == "cpu" else None
        mlm_sum = _softmax(z_KV, probabilities_KV, columns).sum() - label_logits_sum
        g_RV[: len(labels)].add_(probabilities_KV, alpha=self.mlm_ratio)
        self._subtract_onehot(g_RV, labels_K1)
        return mlm_sum

    def _add_mlm_by_squares(
        self, x_RV: Tensor, q_RV: Tensor, normalizers_R: Tensor, labels: Tensor
    ) -> Tensor:
        """Does the same as `_add_mlm`, at T = 2 and without another exponential.

        The gradient is added to q = softmax(x). softmax(2x) is q² over its sum
        (docs/log.md#blocks-of-the-projection), and the cross-entropy is
        2 (log Z_x − x_label) + log Σ q².
        """
        x_KV, q_KV = x_RV[: len(labels)], q_RV[: len(labels)]
        labels_K1 = labels.unsqueeze(1)
        square_sums_K = torch.linalg.vecdot(q_KV, q_KV)
        surprisals_K = normalizers_R[: len(labels)] - x_KV.gather(1, labels_K1).squeeze(1)
        mlm_sum: Tensor = (2 * surprisals_K + square_sums_K.log()).sum()
        # r · q² / Σ q² as q · (q · r / Σ q²), in the memory of x.
        torch.mul(q_KV, (self.mlm_ratio / square_sums_K).unsqueeze(1), out=x_KV)
        q_KV.addcmul_(q_KV, x_KV)
        self._subtract_onehot(q_RV, labels_K1)
        return mlm_sum

    def _subtract_onehot(self, g_RV: Tensor, labels_K1: Tensor) -> None:
        """Subtracts r at the label of each of the first rows."""
        minus_ratio_K1 = torch.full(labels_K1.shape, -self.mlm_ratio).to(g_RV)
        g_RV[: len(labels_K1)].scatter_add_(1, labels_K1, minus_ratio_K1)


def _equal_chunks(rows: int, maximum: int) -> Iterator[slice]:
    """Yields slices of about the same size: no MatMul runs over a small rest."""
    if rows == 0:
        return
    chunks = -(-rows // maximum)
    size = -(-rows // chunks)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _softmax(z_RV: Tensor, out_RV: Tensor, columns: Tensor | None) -> Tensor:
    """Writes the softmax of each row to `out_RV`; returns the log-normalizers (R).

    log Σ exp z = z_c − log softmax(z)_c for any column c. This needs one exponential per element,
    where log_softmax and exp need two (docs/log.md#softmax-with-one-exponential).

    Args:
        z_RV: Logits.
        out_RV: Receives the softmax.
        columns: Column c of each row; None: that of the largest logit, whose search is a pass over
            all elements.
    """
    torch.ops.aten._softmax.out(z_RV, -1, False, out=out_RV)
    if columns is not None:
        columns_R1 = columns.unsqueeze(1)
        probabilities_R1 = out_RV.gather(1, columns_R1)
        if float(probabilities_R1.min()) > _MIN_EXACT_PROBABILITY:
            return (z_RV.gather(1, columns_R1) - probabilities_R1.log_()).squeeze(1)
    largest_R: Tensor = z_RV.amax(-1)
    return largest_R - out_RV.amax(-1).log_()
