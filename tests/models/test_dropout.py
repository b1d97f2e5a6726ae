"""Dropout keeps the mean, drops the share that was asked for, and is a function of PyTorch's random state."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgedistil.models.dropout import added_after_dropout, attention, dropped, keep_mask


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_mask_has_the_share_and_the_mean(probability: float) -> None:
    torch.manual_seed(5)
    mask = keep_mask(torch.empty(499, 997), probability)
    assert abs((mask == 0).float().mean() - probability) < 0.003
    assert abs(mask.mean() - 1) < 0.005
    assert mask.unique().numel() == 2


def test_probability_zero_is_the_identity() -> None:
    values = torch.randn(3, 5)
    assert dropped(values, 0) is values
    assert torch.equal(added_after_dropout(values, values, 0), values + values)


def test_same_seed_same_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask(torch.empty(7, 11), 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_sum_after_dropout_is_the_sum_of_its_parts() -> None:
    residual, values = torch.randn(2, 7, 11)
    torch.manual_seed(3)
    expected = residual + dropped(values, 0.3)
    torch.manual_seed(3)
    assert torch.allclose(added_after_dropout(residual, values, 0.3), expected)


def test_attention_with_gradient_equals_pytorchs() -> None:
    query, key, value = (part.requires_grad_() for part in torch.randn(3, 2, 3, 5, 7))
    bias = torch.zeros(2, 1, 1, 5)
    bias[1, ..., -2:] = torch.finfo(torch.float32).min
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    assert torch.allclose(attention(query, key, value, bias, dropout=0.0), expected, atol=1e-6)


def test_attention_drops_weights_not_outputs() -> None:
    """With one key the weight is 1: an output row is either gone or scaled up as a whole."""
    torch.manual_seed(4)
    query, key, value = torch.randn(3, 1, 2, 101, 3)
    out = attention(query, key[..., :1, :], value[..., :1, :], None, dropout=0.25)
    ratio = out / value[..., :1, :]
    assert torch.allclose(ratio * 3, (ratio * 3).round(), atol=1e-4)
    assert set((ratio * 3).round().flatten().tolist()) == {0.0, 4.0}
