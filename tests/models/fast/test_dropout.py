"""Dropout keeps the mean, drops the given share, and is a function of PyTorch's random state."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from edgedistil.models.fast.dropout import (
    apply_dropout,
    apply_mask,
    apply_mask_,
    attention,
    draw_keep_mask,
    dropout_scale,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_what_stays_has_the_share_and_the_mean(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    dropped = apply_dropout(torch.ones(499, 997, dtype=dtype), probability)
    assert abs((dropped == 0).double().mean() - probability) < 0.003
    assert abs(dropped.double().mean() - 1) < 0.005
    expected = torch.tensor([0, dropout_scale(probability)], dtype=dtype)
    assert torch.equal(dropped.unique(), expected)


def test_probability_zero_is_the_identity_and_draws_nothing() -> None:
    values = torch.randn(3, 5)
    before = torch.get_rng_state()
    assert apply_dropout(values, 0) is values
    assert draw_keep_mask(values, 0) is None
    assert apply_mask(values, None) is values
    assert dropout_scale(0) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_same_seed_same_bits_whatever_the_dtype() -> None:
    bits = []
    for seed, dtype in ((1, torch.float32), (1, torch.bfloat16), (2, torch.float32)):
        torch.manual_seed(seed)
        drawn = draw_keep_mask(torch.empty(7, 11, dtype=dtype), 0.5)
        assert drawn is not None
        bits.append(drawn != 0)
    assert torch.equal(bits[0], bits[1])
    assert not torch.equal(bits[0], bits[2])


def test_a_mask_keeps_values_bit_for_bit() -> None:
    values = torch.randn(7, 11)
    bits = draw_keep_mask(values, 0.5)
    assert bits is not None
    dropped = apply_mask(values, bits)
    assert torch.equal(dropped, torch.where(bits != 0, values, 0.0))
    assert apply_mask_(values, bits) is values
    assert torch.equal(values, dropped)


def test_gradient_flows_where_an_element_stayed() -> None:
    values = torch.ones(13, 17, requires_grad=True)
    torch.manual_seed(3)
    dropped = apply_dropout(values, 0.3)
    dropped.backward(torch.full_like(values, 2.0))
    assert values.grad is not None
    assert torch.equal(values.grad, 2 * dropped.detach())


def test_attention_with_gradient_equals_pytorchs() -> None:
    query, key, value = (part.requires_grad_() for part in torch.randn(3, 2, 3, 5, 7))
    bias = torch.zeros(2, 1, 1, 5)
    bias[1, ..., -2:] = torch.finfo(torch.float32).min
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    assert torch.allclose(attention(query, key, value, bias, dropout=0.0), expected, atol=1e-6)


def test_attention_drops_weights_not_outputs() -> None:
    """With one key the weight is 1: an output row is either gone or scaled up as one."""
    torch.manual_seed(4)
    query, key, value = torch.randn(3, 1, 2, 101, 3)
    out = attention(query, key[..., :1, :], value[..., :1, :], None, dropout=0.25)
    ratio = out / value[..., :1, :]
    assert torch.allclose(ratio * 3, (ratio * 3).round(), atol=1e-4)
    assert set((ratio * 3).round().flatten().tolist()) == {0.0, 4.0}
