"""One transformer layer for a CPU: forward and backward written out, without the passes that autograd adds.

Beside the matrix products of a small encoder, elementwise passes over memory decide the speed. Here q, k and v are one
product; the scale of the attention scores and the factors of dropout go into the weights while these are cast to the
dtype of the computation; dropout is a bitwise "and"; and biases are added inside the products where oneDNN does that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedistil.models.fast.dropout import draw_keep_bits, factor, masked, masked_

_has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_fused = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _has_onednn else None


@dataclass(frozen=True)
class LayerSettings:
    """What a layer is besides its weights.

    Attributes:
        attention_dropout, attention_output_dropout, hidden_dropout: Of the attention's weights, of its output, and of
            the feed-forward part's output.
        epsilons: Of the two norms.
    """

    heads: int
    attention_dropout: float
    attention_output_dropout: float
    hidden_dropout: float
    epsilons: tuple[float, float]


def transformer_layer(
    hidden_BLD: Tensor, bias_B11L: Tensor | None, shape: LayerSettings, weights: Sequence[Tensor]
) -> Tensor:
    """A post-norm layer with an exact GELU.

    Args:
        bias_B11L: Added to the attention scores at the keys; None where nothing is padded.
        weights: Weight and bias of query, key, value, attention output, its norm, up, down, and the last norm.
    """
    out: Tensor = _Layer.apply(hidden_BLD, bias_B11L, shape, *weights)  # type: ignore[no-untyped-call]
    return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_BLD: Tensor,
        bias_B11L: Tensor | None,
        shape: LayerSettings,
        *weights: Tensor,
    ) -> Tensor:
        learns = any(ctx.needs_input_grad)
        cast = _Cast(weights, hidden_BLD.dtype, shape)
        batch, length, width = hidden_BLD.shape
        x_MD = hidden_BLD.reshape(-1, width)
        qkv_MD3 = _affine(x_MD, cast.qkv, cast.qkv_bias)
        heads_5 = qkv_MD3.view(batch, length, 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
        kept: tuple[Tensor | None, ...] = ()
        if not learns and not shape.attention_dropout:
            query, key, value = heads_5
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=bias_B11L, scale=1.0
            )
        else:
            attended, kept = _attention(heads_5, bias_B11L, shape)
        mixed_MD = attended.view(batch, shape.heads, length, -1).transpose(1, 2).reshape(-1, width)
        out_MD = _affine(mixed_MD, cast.out, cast.out_bias)
        out_bits = draw_keep_bits(out_MD, shape.attention_output_dropout)
        first_MD = masked_(out_MD, out_bits).add_(x_MD)
        middle_MD, *first_stats = _norm(first_MD, weights[8:10], shape.epsilons[0])
        up_MF = _affine(middle_MD, cast.up, cast.up_bias)
        down_MD = _affine(F.gelu(up_MF), cast.down, cast.down_bias)
        down_bits = draw_keep_bits(down_MD, shape.hidden_dropout)
        second_MD = masked_(down_MD, down_bits).add_(middle_MD)
        last_MD, *second_stats = _norm(second_MD, weights[14:16], shape.epsilons[1])
        if learns:
            ctx.save_for_backward(
                x_MD, mixed_MD, out_bits, first_MD, *first_stats, middle_MD, up_MF, down_bits, second_MD,
                *second_stats, *weights[8:10], *weights[14:16], *kept,
            )  # fmt: skip
            ctx.cast, ctx.shape, ctx.sizes = cast, shape, (batch, length, width)
        return last_MD.view(batch, length, width)

    @staticmethod
    def backward(ctx: Any, grad_BLD: Tensor) -> tuple[Tensor | None, ...]:
        (
            x_MD, mixed_MD, out_bits, first_MD, first_mean, first_rstd, middle_MD, up_MF, down_bits,
            second_MD, second_mean, second_rstd, *norms_and_kept,
        ) = ctx.saved_tensors  # fmt: skip
        cast, shape, (batch, length, width) = ctx.cast, ctx.shape, ctx.sizes
        first_norm, second_norm, kept = norms_and_kept[:2], norms_and_kept[2:4], norms_and_kept[4:]
        grad_MD = grad_BLD.reshape(-1, width)
        residual_MD, *last_norm = _norm_backward(
            grad_MD, second_MD, second_mean, second_rstd, second_norm
        )
        fed_MD = masked(residual_MD, down_bits)
        active_grad_MF = fed_MD @ cast.down
        down = cast.gradients(
            "down", fed_MD, F.gelu(up_MF)
        )  # done again: kept, it would be the largest of all
        up_grad_MF = torch.ops.aten.gelu_backward.grad_input(
            active_grad_MF, up_MF, grad_input=active_grad_MF
        )
        up = cast.gradients("up", up_grad_MF, middle_MD)
        residual_MD = residual_MD.addmm_(up_grad_MF, cast.up)
        residual_MD, *middle_norm = _norm_backward(
            residual_MD, first_MD, first_mean, first_rstd, first_norm
        )
        mixed_grad_MD = masked(residual_MD, out_bits)
        out = cast.gradients("out", mixed_grad_MD, mixed_MD)
        mixed_grad_MD = mixed_grad_MD @ cast.out
        qkv_MD3 = torch.empty(batch, length, 3, shape.heads, width // shape.heads, dtype=x_MD.dtype)
        _attention_backward(
            mixed_grad_MD.view(batch, length, shape.heads, -1).transpose(1, 2),
            qkv_MD3.permute(2, 0, 3, 1, 4),
            kept,
        )
        qkv_MD3 = qkv_MD3.view(-1, 3 * width)
        qkv = cast.qkv_gradients(qkv_MD3, x_MD)
        given_BLD = None
        if ctx.needs_input_grad[0]:
            given_BLD = residual_MD.addmm_(qkv_MD3, cast.qkv).view(batch, length, width)
        return given_BLD, None, None, *qkv, *out, *middle_norm, *up, *down, *last_norm


class _Cast:
    """A layer's weights in the dtype of the computation, scaled by what their products would be scaled by."""

    def __init__(self, weights: Sequence[Tensor], dtype: torch.dtype, shape: LayerSettings) -> None:
        width = weights[0].shape[1]
        scale = 1 / math.sqrt(width // shape.heads)
        self._qkv_scales = (scale, 1.0, factor(shape.attention_dropout))
        self._scales = {
            "out": factor(shape.attention_output_dropout),
            "up": 1.0,
            "down": factor(shape.hidden_dropout),
        }
        self._wide = weights[0].dtype
        self.qkv = torch.empty(3 * width, width, dtype=dtype)
        self.qkv_bias = torch.empty(3 * width, dtype=dtype)
        for index, (factor_, weight, bias) in enumerate(
            zip(self._qkv_scales, weights[0:6:2], weights[1:6:2], strict=True)
        ):
            rows = slice(index * width, (index + 1) * width)
            self.qkv[rows], self.qkv_bias[rows] = _scaled(weight, factor_), _scaled(bias, factor_)
        self.out, self.out_bias = (
            _scaled(part, self._scales["out"]).to(dtype) for part in weights[6:8]
        )
        self.up, self.up_bias = (part.to(dtype) for part in weights[10:12])
        self.down, self.down_bias = (
            _scaled(part, self._scales["down"]).to(dtype) for part in weights[12:14]
        )

    def gradients(self, name: str, grad_MN: Tensor, input_MK: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from the gradient of what the product gave."""
        weight, bias = (part.to(self._wide) for part in (grad_MN.T @ input_MK, grad_MN.sum(0)))
        return _scaled_(weight, self._scales[name]), _scaled_(bias, self._scales[name])

    def qkv_gradients(self, grad_MN: Tensor, input_MK: Tensor) -> list[Tensor]:
        weights = (grad_MN.T @ input_MK).to(self._wide).chunk(3)
        biases = grad_MN.sum(0).to(self._wide).chunk(3)
        return [
            _scaled_(part, scale)
            for scale, *parts in zip(self._qkv_scales, weights, biases, strict=True)
            for part in parts
        ]


def _attention(
    heads_5: Tensor, bias_B11L: Tensor | None, shape: LayerSettings
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Attended values (B·H, L, D/H), and what the backward pass needs; queries are scaled already."""
    _, batch, heads, length, width = heads_5.shape
    query, key, value = heads_5.reshape(3, batch * heads, length, width)
    weights = query @ key.transpose(1, 2)
    if bias_B11L is not None:
        weights.view(batch, heads, length, length).add_(bias_B11L)
    torch.ops.aten._softmax.out(weights, -1, False, out=weights)
    bits = draw_keep_bits(weights, shape.attention_dropout)
    attended = masked(weights, bits) @ value
    return attended, (query, key, value, weights, bits)


def _attention_backward(grad_BHLd: Tensor, into_5: Tensor, kept: Sequence[Tensor]) -> None:
    """Gradients of the scaled queries, of the keys and of the values, written to `into_5`."""
    query, key, value, weights, bits = kept
    grad = grad_BHLd.reshape(query.shape)
    of_value = masked(weights, bits).transpose(1, 2) @ grad
    of_weights = grad @ value.transpose(1, 2)
    masked_(of_weights, bits)
    torch.ops.aten._softmax_backward_data.out(
        of_weights, weights, -1, weights.dtype, grad_input=of_weights
    )
    for into, grad in zip(
        into_5, (of_weights @ key, of_weights.transpose(1, 2) @ query, of_value), strict=True
    ):
        into.copy_(grad.view(into.shape))


def _affine(values_MK: Tensor, weight_NK: Tensor, bias_N: Tensor) -> Tensor:
    """values · weightᵀ + bias. PyTorch's addmm first fills its output with the bias, and reads it again."""
    if _fused is not None and values_MK.dtype == torch.bfloat16 and _narrow_products():
        out: Tensor = _fused(values_MK, weight_NK, bias_N, "none", [], "")
        return out
    return torch.addmm(bias_N, values_MK, weight_NK.T)


def _norm(
    input_MD: Tensor, norm: Sequence[Tensor], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized rows, their means and their reciprocal standard deviations."""
    gain, shift = norm
    return torch.native_layer_norm(input_MD, [input_MD.shape[1]], gain, shift, epsilon)


def _norm_backward(
    grad_MD: Tensor, input_MD: Tensor, mean: Tensor, rstd: Tensor, norm: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    parts: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad_MD, input_MD, [input_MD.shape[1]], mean, rstd, *norm, [True, True, True]
    )
    return parts


def _scaled(part: Tensor, scale: float) -> Tensor:
    return part if scale == 1 else part * scale


def _scaled_(part: Tensor, scale: float) -> Tensor:
    return part if scale == 1 else part.mul_(scale)


@cache
def _narrow_products() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
