"""Dropout that a CPU can afford, and attention with it.

PyTorch draws a Bernoulli number per element on one thread, and a dropout in attention switches its fast kernel off:
together they cost as much as the matrix products of a layer. Here one number drawn from PyTorch's generator seeds a
generator that fills whole arrays with random bits, 16 for each element; so the result is still a function of
PyTorch's random state. On a GPU PyTorch's own dropout is used.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 1 << 16


def dropped(values: Tensor, probability: float) -> Tensor:
    """`values` with each element 0 with this probability, the others scaled up so that the mean stays."""
    if probability == 0:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, probability)
    return values * keep_mask(values, probability)


def added_after_dropout(residual: Tensor, values: Tensor, probability: float) -> Tensor:
    """residual + dropped(values), in one pass."""
    if probability == 0:
        return residual + values
    if values.device.type != "cpu":
        return residual + F.dropout(values, probability)
    return torch.addcmul(residual, values, keep_mask(values, probability))


def attention(query: Tensor, key: Tensor, value: Tensor, bias_B11L: Tensor | None, *, dropout: float) -> Tensor:
    """Attention of (B, H, L, D/H) tensors with an additive bias at the keys; (B, H, L, D/H)."""
    # PyTorch's fast attention on a CPU knows no dropout, and its backward pass takes longer than these products.
    if query.device.type != "cpu" or not (dropout or query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias_B11L, dropout_p=dropout)
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-1, -2)
    if bias_B11L is not None:
        scores = scores + bias_B11L
    return dropped(scores.softmax(-1), dropout) @ value


def keep_mask(like: Tensor, probability: float) -> Tensor:
    """0 with this probability (to 1/65536), else 1 / (1 − probability); shape and dtype of `like`."""
    dropped_levels = round(probability * _LEVELS)
    seed = int(torch.randint(1 << 62, ()))
    count = like.numel()
    raw = np.random.SFC64(seed).random_raw(-(-count // 4))
    levels = torch.from_numpy(raw.view(np.int16)[:count]).view(like.shape)
    kept = levels >= dropped_levels - _LEVELS // 2
    return kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - dropped_levels))
