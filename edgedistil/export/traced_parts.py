"""Parts that several traced forms share: other forward passes, and layers of existing weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgedistil.parity.formula import Formula, source

# Attribute of a parameter that a traced form adds: how it follows from the model's own.
FORMULA = "formula"


@contextmanager
def with_forward(module: Any, forward: Callable[..., Any], **added: nn.Module) -> Iterator[None]:
    """Gives one module another forward pass, and modules that it reads, until the end."""
    for name, child in added.items():
        module.add_module(name, child)
    # An attribute of the instance precedes the method of its class.
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        for name in added:
            delattr(module, name)


@dataclass(frozen=True)
class Part:
    """A tensor that is taken from a model's own, and how, for the certificate."""

    tensor: Tensor
    formula: Formula | None


def linear_of(weight_NK: Part, bias_N: Part | None) -> nn.Linear:
    """Returns a linear layer that reads these tensors, without a copy."""
    N, K = weight_NK.tensor.shape
    # On no device: its own parameters are replaced.
    linear = nn.Linear(K, N, bias=bias_N is not None, device="meta")
    linear.weight = _parameter(weight_NK)
    if bias_N is not None:
        linear.bias = _parameter(bias_N)
    return linear


def _parameter(part: Part) -> nn.Parameter:
    parameter = nn.Parameter(part.tensor.detach(), requires_grad=False)
    setattr(parameter, FORMULA, part.formula)
    return parameter


def sources_of(model: nn.Module) -> dict[int, Formula]:
    """Identity of each of a model's parameters → its formula."""
    return {id(tensor): source(name) for name, tensor in model.named_parameters()}
