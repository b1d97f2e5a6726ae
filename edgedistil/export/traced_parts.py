"""Parts that several traced forms share: other forward passes, and layers of existing weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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


def linear_of(weight_NK: Tensor, bias_N: Tensor | None) -> nn.Linear:
    """Returns a linear layer that reads these tensors, without a copy."""
    N, K = weight_NK.shape
    # On no device: its own parameters are replaced.
    linear = nn.Linear(K, N, bias=bias_N is not None, device="meta")
    linear.weight = nn.Parameter(weight_NK, requires_grad=False)
    if bias_N is not None:
        linear.bias = nn.Parameter(bias_N, requires_grad=False)
    return linear
