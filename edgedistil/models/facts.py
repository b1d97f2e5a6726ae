"""Type, size and digest of a model, counted on the model itself."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel

from edgedistil.core.distill_records import ModelFacts


def model_facts(model: PreTrainedModel, *, name: str) -> ModelFacts:
    """Returns type, size and digest of a model.

    Args:
        model: Tied weights count once, a pooler counts as part of the head.
        name: Name in records.
    """
    config = model.config
    return ModelFacts(
        name=name,
        model_type=config.model_type,
        architecture=type(model).__name__,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        parameters=_count_parameters(model),
        # DistilBERT has no pooler: without this exception the two could not be compared.
        encoder_parameters=_count_parameters(model.base_model, without="pooler."),
        weights_sha256=weights_sha256(model),
    )


def weights_sha256(model: nn.Module) -> str:
    """Returns the digest of all parameters by name, dtype, shape and value.

    It does not depend on the file or the device that holds them.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}\n".encode())
        # Viewed as bytes, because numpy has no bfloat16.
        raw = parameter.detach().cpu().contiguous().view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def _count_parameters(module: nn.Module, *, without: str | None = None) -> int:
    """Number of parameters, except those whose name starts with `without`."""
    count = 0
    # `named_parameters` lists a tied parameter once.
    for name, parameter in module.named_parameters():
        if without is None or not name.startswith(without):
            count += parameter.numel()
    return count
