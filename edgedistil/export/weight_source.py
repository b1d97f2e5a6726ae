"""The tensors and settings of a PyTorch model that the certificate of its artefacts reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import ModernBertAttention

from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.export.passes.sentence_vector import HEAD
from edgedistil.export.settings import (
    ATTENTION_SCALE,
    HEADS,
    MASKED_SCORE,
    MASKED_SCORE_VALUE,
    epsilon_name,
)
from edgedistil.export.tensor_names import all_tensors, tensor_names
from edgedistil.export.trace import example_shape
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.parity.formula import WeightSource


def read_weight_source(
    model: PreTrainedModel, task: Task, sentence: SentenceEncoder | None = None
) -> WeightSource:
    """Returns a model's tensors, without copies, and what its config fixes.

    Args:
        model: The model with the task's head, in float32.
        task: Selects the outputs, and with them the parameters that are used.
        sentence: Makes sentence vectors, if the graph has them as an output.
    """
    tensors = all_tensors(model)
    used, settings = used_parameters(model, task), _settings(model)
    if sentence is not None:
        head = {f"{HEAD}.{name}": weight for name, weight in sentence.head.named_parameters()}
        tensors, used = tensors | head, used | head.keys()
        for name, module in sentence.head.named_modules(prefix=HEAD):
            if isinstance(module, nn.LayerNorm):
                settings[epsilon_name(name)] = module.eps
    family = FAMILIES[model.config.model_type]
    return WeightSource(
        tensors={name: tensor.detach().numpy() for name, tensor in tensors.items()},
        used=used,
        settings=settings,
        activation=str(getattr(model.config, family.keys.activation)),
    )


def head_weights(sentence: SentenceEncoder) -> dict[str, NDArray[np.float32]]:
    """Returns the weights of the layers after the pooling, without copies."""
    return {name: weight.detach().numpy() for name, weight in sentence.head.named_parameters()}


def _settings(model: PreTrainedModel) -> dict[str, float]:
    settings = {
        HEADS: FAMILIES[model.config.model_type].heads(model.config.to_dict()),
        MASKED_SCORE: MASKED_SCORE_VALUE,
    }
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            settings[epsilon_name(name)] = module.eps
        # The norms that transformers has code of its own for.
        elif hasattr(module, "variance_epsilon"):
            settings[epsilon_name(name)] = float(module.variance_epsilon)
    scales = {scale for scale in map(_attention_scale, model.modules()) if scale is not None}
    if len(scales) == 1:
        settings[ATTENTION_SCALE] = scales.pop()
    return settings


def _attention_scale(module: Any) -> float | None:
    """The factor of a module's attention scores; None for a module without attention."""
    # transformers computes it from the config; families with code of their own by its definition.
    if hasattr(module, "scaling"):
        return float(module.scaling)
    if hasattr(module, "attention_head_size"):
        # DeBERTa's scores are a sum of up to three products.
        kinds = getattr(module, "pos_att_type", ())
        products = 1 + sum(kind in kinds for kind in ("c2p", "p2c"))
        return 1.0 / math.sqrt(module.attention_head_size * products)
    if isinstance(module, ModernBertAttention):
        return 1.0 / math.sqrt(module.head_dim)
    return None


def used_parameters(model: PreTrainedModel, task: Task) -> frozenset[str]:
    """Names of the parameters that the task's outputs depend on, from PyTorch's own graph.

    A pooler that no output reads, for example, is not among them.
    """
    names = tensor_names(model)
    with _gradients(model), torch.enable_grad():
        ids = torch.zeros(example_shape(task, 2), dtype=torch.int64)
        outputs = model(input_ids=ids, return_dict=True)
        leaves = _leaves([outputs[name] for name in TASKS[task].outputs])
    return frozenset(names[id(leaf)] for leaf in leaves if id(leaf) in names)


@contextmanager
def _gradients(model: nn.Module) -> Iterator[None]:
    """Lets PyTorch record which parameters it computes with."""
    required = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, before in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(before)


def _leaves(outputs: list[Tensor]) -> list[Tensor]:
    """Parameters at the ends of the recorded graph; nothing is differentiated."""
    pending: list[Any] = [output.grad_fn for output in outputs]
    seen: set[Any] = set()
    leaves = []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        pending += [function for function, _ in node.next_functions]
    return leaves
