"""What a model is, counted on the model itself."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel

from edgedistil.core.records import ModelFacts


def model_facts(model: PreTrainedModel, *, name: str) -> ModelFacts:
    """Type, size and digest of a model; tied weights count once, a pooler counts as a head."""
    config = model.config
    return ModelFacts(
        name=name,
        model_type=config.model_type,
        architecture=type(model).__name__,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        parameters=_count(model),
        encoder_parameters=_count(model.base_model, without="pooler."),
        weights_sha256=weights_sha256(model),
    )


def weights_sha256(model: nn.Module) -> str:
    """Digest of all parameters by name, type, shape and value; the same whatever file they lie in."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}\n".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _count(module: nn.Module, *, without: str | None = None) -> int:
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()  # names a tied parameter once
        if without is None or not name.startswith(without)
    )
