"""One name for each tensor of a model, also for those that several modules share."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn


def all_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    buffers = module.named_buffers(remove_duplicate=False)
    return dict(chain(parameters, buffers))


def tensor_names(model: nn.Module) -> dict[int, str]:
    """`id` of each tensor → its name.

    A tied projection's matrix has the name of the word embeddings, where the passes look for it:
    transformers registers some heads before the encoder.
    """
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    names: dict[int, str] = {}
    for name, tensor in all_tensors(model).items():
        earlier = names.get(id(tensor))
        is_of_encoder = name.startswith(encoder)
        if earlier is None or (is_of_encoder and not earlier.startswith(encoder)):
            names[id(tensor)] = name
    return names
