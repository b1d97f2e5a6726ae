"""One post-norm transformer layer for a CPU, with a hand-written backward pass.

In a small encoder, elementwise passes over memory matter as much as the MatMuls. This layer saves
several that autograd of the plain operations makes
(docs/log.md#a-layer-as-one-autograd-function,
docs/decisions.md#on-a-cpu-a-transformer-layer-is-one-autograd-function):

- query, key and value are one MatMul;
- the scale of the attention scores and of dropout is folded into the weights, while these are cast
  to the compute dtype anyway, so no activation is multiplied by a scalar;
- dropout is a bitwise "and" (`dropout`);
- biases are added inside the MatMul where oneDNN can do that;
- the activation is computed again in the backward pass instead of stored.

Shape suffixes: M = B · L tokens, D width, F feed-forward width, H heads of width d, A = H · d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgedistil.models.fast.dropout import (
    apply_mask,
    apply_mask_,
    draw_keep_mask,
    dropout_scale,
)

# A private operator: PyTorch has no public linear that adds the bias inside oneDNN's MatMul.
_has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _has_onednn else None


@dataclass(frozen=True)
class LayerSettings:
    """Settings of a layer that are not weights.

    Attributes:
        heads: Attention heads.
        attention_dropout: Dropout probability of the attention weights.
        attention_output_dropout: Of the output of the attention block.
        hidden_dropout: Of the output of the feed-forward block.
        epsilons: Of the attention's LayerNorm and of the output LayerNorm.
    """

    heads: int
    attention_dropout: float
    attention_output_dropout: float
    hidden_dropout: float
    epsilons: tuple[float, float]


class LayerWeights(NamedTuple):
    """Parameters of a layer; weights of MatMuls are (outputs, inputs), as in `nn.Linear`."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    value: Tensor
    value_bias: Tensor
    attention_output: Tensor
    attention_output_bias: Tensor
    attention_norm: Tensor
    attention_norm_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    output_norm: Tensor
    output_norm_bias: Tensor


def transformer_layer(
    hidden_BLD: Tensor, bias_B11L: Tensor | None, settings: LayerSettings, weights: LayerWeights
) -> Tensor:
    """Runs a post-norm layer with an exact GELU.

    Args:
        hidden_BLD: Input; its dtype is the compute dtype.
        bias_B11L: Added to the attention scores of the keys; None where nothing is padded.
        settings: Heads, dropout probabilities, epsilons.
        weights: Parameters, in any float dtype; their gradients have it too.
    Returns:
        Hidden states, (B, L, D), in the dtype of the input.
    """
    out: Tensor = _Layer.apply(  # type: ignore[no-untyped-call]
        hidden_BLD, bias_B11L, settings, *weights
    )
    return out


class _AttentionState(NamedTuple):
    """State of attention for its backward pass; all (B · H, L, d or L)."""

    query: Tensor
    key: Tensor
    value: Tensor
    probabilities: Tensor
    mask: Tensor | None


class _Saved(NamedTuple):
    """Tensors that the forward pass saves for the backward pass."""

    x_MD: Tensor
    attended_MA: Tensor
    attention_output_mask: Tensor | None
    first_sum_MD: Tensor
    first_mean: Tensor
    first_rstd: Tensor
    middle_MD: Tensor
    up_MF: Tensor
    down_mask: Tensor | None
    second_sum_MD: Tensor
    second_mean: Tensor
    second_rstd: Tensor
    attention_norm: Tensor
    attention_norm_bias: Tensor
    output_norm: Tensor
    output_norm_bias: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    probabilities: Tensor
    probabilities_mask: Tensor | None


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_BLD: Tensor,
        bias_B11L: Tensor | None,
        settings: LayerSettings,
        *weights: Tensor,
    ) -> Tensor:
        parameters = LayerWeights(*weights)
        cast = _CastWeights(parameters, hidden_BLD.dtype, settings)
        needs_gradient = any(ctx.needs_input_grad)
        batch, length, width = hidden_BLD.shape
        attention_norm = (parameters.attention_norm, parameters.attention_norm_bias)
        output_norm = (parameters.output_norm, parameters.output_norm_bias)

        # Query, key and value from one MatMul, then attention.
        x_MD = hidden_BLD.reshape(-1, width)
        qkv_M3A = _affine(x_MD, cast.qkv, cast.qkv_bias)
        qkv_3BHLd = qkv_M3A.view(batch, length, 3, settings.heads, -1).permute(2, 0, 3, 1, 4)
        attended_BHLd, state = _attention(qkv_3BHLd, bias_B11L, settings, needs_gradient)
        attended_MA = attended_BHLd.transpose(1, 2).reshape(len(x_MD), -1)

        # Output projection, dropout, residual and LayerNorm. The residual is added into the output
        # of the MatMul, which nothing else reads.
        output_MD = _affine(attended_MA, cast.attention_output, cast.attention_output_bias)
        output_mask = draw_keep_mask(output_MD, settings.attention_output_dropout)
        first_sum_MD = apply_mask_(output_MD, output_mask).add_(x_MD)
        middle_MD, *first_statistics = _norm(first_sum_MD, attention_norm, settings.epsilons[0])

        # Feed-forward block, in the same way.
        up_MF = _affine(middle_MD, cast.up, cast.up_bias)
        down_MD = _affine(F.gelu(up_MF), cast.down, cast.down_bias)
        down_mask = draw_keep_mask(down_MD, settings.hidden_dropout)
        second_sum_MD = apply_mask_(down_MD, down_mask).add_(middle_MD)
        last_MD, *second_statistics = _norm(second_sum_MD, output_norm, settings.epsilons[1])

        if needs_gradient:
            assert state is not None
            # In the order of _Saved.
            ctx.save_for_backward(
                x_MD, attended_MA, output_mask, first_sum_MD, *first_statistics, middle_MD, up_MF,
                down_mask, second_sum_MD, *second_statistics, *attention_norm, *output_norm, *state,
            )  # fmt: skip
            ctx.cast, ctx.heads, ctx.shape = cast, settings.heads, hidden_BLD.shape
        return last_MD.view(batch, length, width)

    @staticmethod
    def backward(ctx: Any, grad_BLD: Tensor) -> tuple[Tensor | None, ...]:
        saved = _Saved(*ctx.saved_tensors)
        cast, heads, (batch, length, width) = ctx.cast, ctx.heads, ctx.shape

        # Output LayerNorm; its input's gradient flows into the residual and the feed-forward block.
        residual_MD, *output_norm = _norm_backward(
            grad_BLD.reshape(-1, width),
            saved.second_sum_MD,
            (saved.second_mean, saved.second_rstd),
            (saved.output_norm, saved.output_norm_bias),
        )

        # Feed-forward block. The activation is computed again: stored, it would be the largest
        # tensor of the layer (docs/log.md#peak-memory-of-a-step).
        down_grad_MD = apply_mask(residual_MD, saved.down_mask)
        up_grad_MF = down_grad_MD @ cast.down
        down = cast.gradients("down", down_grad_MD, F.gelu(saved.up_MF))
        torch.ops.aten.gelu_backward.grad_input(up_grad_MF, saved.up_MF, grad_input=up_grad_MF)
        up = cast.gradients("up", up_grad_MF, saved.middle_MD)
        residual_MD = residual_MD.addmm_(up_grad_MF, cast.up)

        # The attention's LayerNorm and output projection.
        residual_MD, *attention_norm = _norm_backward(
            residual_MD,
            saved.first_sum_MD,
            (saved.first_mean, saved.first_rstd),
            (saved.attention_norm, saved.attention_norm_bias),
        )
        output_grad_MD = apply_mask(residual_MD, saved.attention_output_mask)
        output = cast.gradients("attention_output", output_grad_MD, saved.attended_MA)
        attended_grad_MA = output_grad_MD @ cast.attention_output

        # Attention writes the three gradients next to each other: one MatMul follows, not three.
        head_width = saved.query.shape[-1]
        qkv_grad = torch.empty(batch, length, 3, heads, head_width, dtype=saved.x_MD.dtype)
        _attention_backward(
            attended_grad_MA.view(batch, length, heads, -1).transpose(1, 2),
            qkv_grad.permute(2, 0, 3, 1, 4),
            _AttentionState(*saved[-5:]),
        )
        qkv_grad_M3A = qkv_grad.view(-1, 3 * heads * head_width)
        qkv = cast.qkv_gradients(qkv_grad_M3A, saved.x_MD)
        hidden_grad_BLD = None
        if ctx.needs_input_grad[0]:
            hidden_grad_BLD = residual_MD.addmm_(qkv_grad_M3A, cast.qkv).view(batch, length, width)
        # In the order of `forward`: no gradient for the bias and the settings.
        gradients = (*qkv, *output, *attention_norm, *up, *down, *output_norm)
        return hidden_grad_BLD, None, None, *gradients


class _CastWeights:
    """Weights in the compute dtype, with the scales of their outputs folded in.

    Scaling D² weights costs less than scaling B · L · D activations. The factors are 1 / √d for the
    scores (in the query weights) and 1 / (1 − p) for each dropout (in the weights whose output it
    acts on; for dropout of attention weights in the value weights, because that is linear in them).
    A gradient of a scaled weight times its factor is the gradient of the weight.
    """

    def __init__(self, weights: LayerWeights, dtype: torch.dtype, settings: LayerSettings) -> None:
        attention, width = weights.query.shape
        score_scale = 1 / math.sqrt(attention // settings.heads)
        self._qkv_scales = (score_scale, 1.0, dropout_scale(settings.attention_dropout))
        self._scales = {
            "attention_output": dropout_scale(settings.attention_output_dropout),
            "up": 1.0,
            "down": dropout_scale(settings.hidden_dropout),
        }
        self._parameter_dtype = weights.query.dtype

        self.qkv = torch.empty(3 * attention, width, dtype=dtype)
        self.qkv_bias = torch.empty(3 * attention, dtype=dtype)
        self._cast_qkv(weights)
        scale = self._scales["attention_output"]
        self.attention_output = _scaled(weights.attention_output, scale).to(dtype)
        self.attention_output_bias = _scaled(weights.attention_output_bias, scale).to(dtype)
        self.up, self.up_bias = weights.up.to(dtype), weights.up_bias.to(dtype)
        scale = self._scales["down"]
        self.down = _scaled(weights.down, scale).to(dtype)
        self.down_bias = _scaled(weights.down_bias, scale).to(dtype)

    def _cast_qkv(self, weights: LayerWeights) -> None:
        """Casts and scale query, key and value weights into one matrix."""
        parts = zip(self._qkv_scales, weights[0:6:2], weights[1:6:2], strict=True)
        for index, (scale, weight, bias) in enumerate(parts):
            rows = slice(index * len(weight), (index + 1) * len(weight))
            self.qkv[rows] = _scaled(weight, scale)
            self.qkv_bias[rows] = _scaled(bias, scale)

    def gradients(self, name: str, grad_MN: Tensor, input_MK: Tensor) -> tuple[Tensor, Tensor]:
        """Returns gradients of weight and bias from that of the MatMul's output."""
        weight_NK = (grad_MN.T @ input_MK).to(self._parameter_dtype)
        bias_N = grad_MN.sum(0).to(self._parameter_dtype)
        return _scaled_(weight_NK, self._scales[name]), _scaled_(bias_N, self._scales[name])

    def qkv_gradients(self, grad_M3A: Tensor, x_MD: Tensor) -> list[Tensor]:
        """Returns gradients of query, key and value: weight and bias of each."""
        weights = (grad_M3A.T @ x_MD).to(self._parameter_dtype).chunk(3)
        biases = grad_M3A.sum(0).to(self._parameter_dtype).chunk(3)
        gradients = []
        for scale, weight, bias in zip(self._qkv_scales, weights, biases, strict=True):
            gradients += [_scaled_(weight, scale), _scaled_(bias, scale)]
        return gradients


def _attention(
    qkv_3BHLd: Tensor, bias_B11L: Tensor | None, settings: LayerSettings, needs_gradient: bool
) -> tuple[Tensor, _AttentionState | None]:
    """Returns attended values (B, H, L, d) and the state for the backward pass."""
    # Where nothing is learnt and dropped PyTorch's fused kernel does as well
    # (docs/log.md#plain-attention-for-the-teacher).
    if not needs_gradient and not settings.attention_dropout:
        query, key, value = qkv_3BHLd
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_B11L, scale=1.0)
        return attended, None

    # With a gradient plain operations are faster than its backward pass
    # (docs/log.md#pytorchs-fused-attention-on-the-cpu).
    _, batch, heads, length, width = qkv_3BHLd.shape
    query, key, value = qkv_3BHLd.reshape(3, batch * heads, length, width)
    scores = query @ key.transpose(1, 2)  # overwritten in place
    if bias_B11L is not None:
        scores.view(batch, heads, length, length).add_(bias_B11L)
    probabilities = torch.ops.aten._softmax.out(scores, -1, False, out=scores)
    mask = draw_keep_mask(probabilities, settings.attention_dropout)
    attended = apply_mask(probabilities, mask) @ value
    state = _AttentionState(query, key, value, probabilities, mask)
    return attended.view(batch, heads, length, width), state


def _attention_backward(grad_BHLd: Tensor, qkv_grad_3BHLd: Tensor, state: _AttentionState) -> None:
    """Writes the gradients of scaled queries, keys and values to `qkv_grad_3BHLd`."""
    query, key, value, probabilities, mask = state
    grad = grad_BHLd.reshape(query.shape)
    value_grad = apply_mask(probabilities, mask).transpose(1, 2) @ grad
    # Through dropout and softmax in one buffer.
    scores_grad = apply_mask_(grad @ value.transpose(1, 2), mask)
    torch.ops.aten._softmax_backward_data.out(
        scores_grad, probabilities, -1, probabilities.dtype, grad_input=scores_grad
    )
    gradients = (scores_grad @ key, scores_grad.transpose(1, 2) @ query, value_grad)
    for target, gradient in zip(qkv_grad_3BHLd, gradients, strict=True):
        target.copy_(gradient.view(target.shape))


def _affine(input_MK: Tensor, weight_NK: Tensor, bias_N: Tensor) -> Tensor:
    """Linear layer: input · weightᵀ + bias."""
    # PyTorch's addmm fills its output with the bias first and reads it again; oneDNN adds the bias
    # inside: 4.7 → 2.5 ms at 384 → 1152 (docs/log.md#a-layer-as-one-autograd-function).
    if _onednn_linear is not None and input_MK.dtype == torch.bfloat16 and _onednn_has_bfloat16():
        out: Tensor = _onednn_linear(input_MK, weight_NK, bias_N, "none", [], "")
        return out
    return torch.addmm(bias_N, input_MK, weight_NK.T)


def _norm(
    input_MD: Tensor, norm: Sequence[Tensor], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized rows, their means and their reciprocal standard deviations."""
    gain, shift = norm
    return torch.native_layer_norm(input_MD, [input_MD.shape[1]], gain, shift, epsilon)


def _norm_backward(
    grad_MD: Tensor, input_MD: Tensor, statistics: Sequence[Tensor], norm: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the gain and the shift."""
    needs_all = [True, True, True]
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_layer_norm_backward(
        grad_MD, input_MD, [input_MD.shape[1]], *statistics, *norm, needs_all
    )
    return gradients


def _scaled(values: Tensor, scale: float) -> Tensor:
    """`values` times `scale`; themselves, not a copy, where the scale is 1."""
    return values if scale == 1 else values * scale


def _scaled_(values: Tensor, scale: float) -> Tensor:
    """Scales in place."""
    return values if scale == 1 else values.mul_(scale)


@cache
def _onednn_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
