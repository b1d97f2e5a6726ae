"""Dropout that a CPU can afford, and attention with it.

PyTorch draws a Bernoulli number per element on one thread, and a dropout in attention switches its fast kernel off:
together they cost as much as the matrix products of a layer. Here one number drawn from PyTorch's generator seeds a
generator that fills whole arrays with random bits, 16 for each element; so the result is still a function of
PyTorch's random state. What is dropped is a bitwise "and" with 0, which costs a fifth of a multiplication of 16-bit
floats. On a GPU PyTorch's own dropout is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 1 << 16
_BITS_OF_SIZE = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def dropped(values: Tensor, probability: float) -> Tensor:
    """`values` with each element 0 with this probability, the others scaled up so that the mean stays."""
    if probability == 0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    out: Tensor = _Dropped.apply(values, probability)  # type: ignore[no-untyped-call]
    return out


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias_B11L: Tensor | None, *, dropout: float
) -> Tensor:
    """Attention of (B, H, L, D/H) tensors with an additive bias at the keys; (B, H, L, D/H)."""
    # PyTorch's fast attention on a CPU knows no dropout, and its backward pass takes longer than these products.
    if query.device.type != "cpu" or not (dropout or query.requires_grad):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias_B11L, dropout_p=dropout
        )
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    if bias_B11L is not None:
        scores = scores + bias_B11L
    return dropped(scores.softmax(-1), dropout) @ value


def draw_keep_bits(like: Tensor, probability: float) -> Tensor | None:
    """Integers as wide as the elements of `like`: 0 with this probability (to 1/65536), else all bits set.

    None where the probability is 0: nothing is drawn then.
    """
    if probability == 0:
        return None
    seed = int(torch.randint(1 << 62, ()))
    count = like.numel()
    raw = np.random.SFC64(seed).random_raw(-(-count // 4))
    bits = torch.from_numpy(raw.view(np.int16)[:count]).view(like.shape)
    bits.ge_(
        _dropped_levels(probability) - _LEVELS // 2
    ).neg_()  # in place it stays in 16 bits, and is vectorised
    return bits.to(_BITS_OF_SIZE[like.element_size()])


def factor(probability: float) -> float:
    """What the kept elements are multiplied by."""
    return _LEVELS / (_LEVELS - _dropped_levels(probability))


def masked(values: Tensor, bits: Tensor | None) -> Tensor:
    """`values` with 0 where `bits` are 0; without `bits` themselves. No gradient flows."""
    return values if bits is None else (values.view(bits.dtype) & bits).view(values.dtype)


def masked_(values: Tensor, bits: Tensor | None) -> Tensor:
    """The same in place."""
    if bits is not None:
        values.view(bits.dtype).bitwise_and_(bits)
    return values


def _dropped_levels(probability: float) -> int:
    return round(probability * _LEVELS)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        bits = draw_keep_bits(values, probability)
        ctx.save_for_backward(bits)
        ctx.factor = factor(probability)
        return masked(values, bits).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return masked(grad, bits).mul_(ctx.factor), None
