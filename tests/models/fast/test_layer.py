"""The hand-written layer equals the same layer of plain operations under autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgedistil.models.fast import dropout
from edgedistil.models.fast.layer import LayerSettings, LayerWeights, transformer_layer

B, L, H, D, FF = 3, 7, 2, 22, 31


def _weights(dtype: torch.dtype = torch.float64) -> LayerWeights:
    generator = torch.Generator().manual_seed(2)
    shapes = [(D, D), (D,)] * 4 + [(D,), (D,), (FF, D), (FF,), (D, FF), (D,), (D,), (D,)]
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.4 for shape in shapes)
    return LayerWeights(*(weight.to(dtype).requires_grad_() for weight in drawn))


def _plain(
    hidden: Tensor, bias: Tensor | None, settings: LayerSettings, weights: LayerWeights
) -> Tensor:
    query, key, value = (
        F.linear(hidden, *weights[2 * i : 2 * i + 2]).view(B, L, H, -1).transpose(1, 2)
        for i in range(3)
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(D // H)
    probabilities = (scores if bias is None else scores + bias).softmax(-1)
    attended = dropout.apply_dropout(probabilities, settings.attention_dropout) @ value
    out = F.linear(attended.transpose(1, 2).flatten(2), *weights[6:8])
    out = dropout.apply_dropout(out, settings.attention_output_dropout)
    middle = F.layer_norm(hidden + out, (D,), *weights[8:10], settings.epsilons[0])
    down = F.linear(F.gelu(F.linear(middle, *weights[10:12])), *weights[12:14])
    return F.layer_norm(
        middle + dropout.apply_dropout(down, settings.hidden_dropout),
        (D,),
        *weights[14:16],
        settings.epsilons[1],
    )


def _bias(padded: bool) -> Tensor | None:
    if not padded:
        return None
    bias = torch.zeros(B, 1, 1, L, dtype=torch.float64)
    bias[1, ..., -3:] = -1e30
    return bias


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("probabilities", [(0.0, 0.0, 0.0), (0.1, 0.0, 0.3), (0.2, 0.25, 0.3)])
def test_value_and_gradients_equal_autograds(
    padded: bool, probabilities: tuple[float, float, float]
) -> None:
    settings = LayerSettings(H, *probabilities, (1e-12, 1e-5))
    hidden = torch.randn(
        B, L, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    towards = torch.randn(B, L, D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    results = []
    for layer in (_plain, transformer_layer):
        weights = _weights()
        torch.manual_seed(3)
        out = layer(hidden, _bias(padded), settings, weights)
        results.append((out, *torch.autograd.grad(out, [hidden, *weights], towards)))
    assert len(results[0]) == 18
    for expected, got in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-10)


def test_without_gradient_the_same_values() -> None:
    settings = LayerSettings(H, 0.0, 0.0, 0.0, (1e-12, 1e-12))
    hidden, weights = torch.randn(B, L, D, dtype=torch.float64), _weights()
    with torch.no_grad():
        frozen = transformer_layer(hidden, _bias(True), settings, weights)
    assert not frozen.requires_grad
    assert torch.allclose(
        frozen, transformer_layer(hidden, _bias(True), settings, weights), rtol=1e-9
    )


def test_frozen_weights_let_the_gradient_through() -> None:
    settings = LayerSettings(H, 0.1, 0.0, 0.1, (1e-12, 1e-12))
    hidden = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    frozen = LayerWeights(*(weight.detach() for weight in _weights()))
    transformer_layer(hidden, None, settings, frozen).sum().backward()
    assert hidden.grad is not None and all(weight.grad is None for weight in frozen)


def test_bfloat16_stays_near_float64() -> None:
    settings = LayerSettings(H, 0.1, 0.0, 0.1, (1e-12, 1e-12))
    hidden = torch.randn(B, L, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        weights = _weights(torch.float32 if dtype == torch.bfloat16 else dtype)
        torch.manual_seed(3)
        out = transformer_layer(hidden.to(dtype), None, settings, weights)
        out.double().square().sum().backward()
        assert all(w.grad is not None and w.grad.dtype == w.dtype for w in weights)
        results.append(
            (out.detach().double(), *(w.grad.double() for w in weights if w.grad is not None))
        )
    key_bias = 4  # it shifts all scores of a query alike: its gradient is 0 but for rounding
    for index, (expected, got) in enumerate(zip(*results, strict=True)):
        assert index == key_bias or (got - expected).norm() < 0.05 * expected.norm(), index
