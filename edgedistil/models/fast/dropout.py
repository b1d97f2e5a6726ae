"""Dropout for a CPU, and attention that uses it.

PyTorch draws a Bernoulli number per element on one thread, and dropout in attention disables its
fast kernel: together they cost more than the MatMuls of a layer (docs/log.md#dropout-masks). Here
one number from PyTorch's generator seeds an SFC64 stream, which fills arrays with random bits, 16
per element. So the result is still a function of PyTorch's random state. Dropping is a bitwise
"and" with 0 instead of a multiplication (docs/log.md#dropout-as-a-bitwise-and). On a GPU PyTorch's
own dropout is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Values that 16 random bits distinguish: a probability is rounded to a multiple of 1/65536.
_LEVELS = 1 << 16
# A mask must be as wide as the floats that it is applied to.
_MASK_DTYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply_dropout(values: Tensor, probability: float) -> Tensor:
    """Returns `values` after dropout, scaled so that the mean stays.

    Args:
        values: Any shape and float dtype.
        probability: Of an element to become 0; 0 returns `values` themselves.
    """
    if probability == 0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    out: Tensor = _Dropout.apply(values, probability)  # type: ignore[no-untyped-call]
    return out


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias_B11L: Tensor | None, *, dropout: float
) -> Tensor:
    """Returns scaled dot-product attention with dropout on the attention weights.

    Args:
        query: (B, H, L, D/H), as are `key` and `value`.
        key: See `query`.
        value: See `query`.
        bias_B11L: Added to the scores of the keys; None where nothing is padded.
        dropout: Probability, of the attention weights.
    Returns:
        (B, H, L, D/H).
    """
    # On a CPU PyTorch's fast kernel has no dropout, and its backward pass is slower than these
    # plain operations (docs/log.md#pytorchs-fused-attention-on-the-cpu).
    if query.device.type != "cpu" or not (dropout or query.requires_grad):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias_B11L, dropout_p=dropout
        )
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    if bias_B11L is not None:
        scores = scores + bias_B11L
    return apply_dropout(scores.softmax(-1), dropout) @ value


def draw_keep_mask(like: Tensor, probability: float) -> Tensor | None:
    """Draws a bit mask: 0 with this probability, otherwise all bits set.

    Args:
        like: Tensor that the mask will be applied to; gives its shape and element width.
        probability: Of a 0, rounded to a multiple of 1/65536.
    Returns:
        Integers of the width of `like`; None, and nothing is drawn, where the probability is 0.
    """
    if probability == 0:
        return None
    seed = int(torch.randint(1 << 62, ()))
    count = like.numel()
    # A raw number has 64 bits, enough for four elements.
    raw = np.random.SFC64(seed).random_raw(-(-count // 4))
    mask = torch.from_numpy(raw.view(np.int16)[:count]).view(like.shape)
    # Comparing gives 1 where an element is kept, and −1 has all bits set. In place the numbers stay
    # 16 bits wide and both operations are vectorized (docs/log.md#dropout-as-a-bitwise-and).
    mask.ge_(_dropped_levels(probability) - _LEVELS // 2).neg_()
    return mask.to(_MASK_DTYPES[like.element_size()])


def dropout_scale(probability: float) -> float:
    """Returns the factor of the kept elements, 1 / (1 − rounded probability)."""
    return _LEVELS / (_LEVELS - _dropped_levels(probability))


def apply_mask(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns `values` with 0 where `mask` is 0, unscaled.

    Returns `values` themselves without a mask. No gradient flows.
    """
    if mask is None:
        return values
    return (values.view(mask.dtype) & mask).view(values.dtype)


def apply_mask_(values: Tensor, mask: Tensor | None) -> Tensor:
    """Applies a mask in place; returns `values`."""
    if mask is not None:
        values.view(mask.dtype).bitwise_and_(mask)
    return values


def _dropped_levels(probability: float) -> int:
    """Number of the 65,536 values of 16 bits that mean 0."""
    return round(probability * _LEVELS)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        mask = draw_keep_mask(values, probability)
        ctx.save_for_backward(mask)
        ctx.scale = dropout_scale(probability)
        return apply_mask(values, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(grad, mask).mul_(ctx.scale), None
