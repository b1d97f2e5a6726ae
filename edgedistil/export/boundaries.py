"""Modules whose outputs divide an encoder into parts, and the names of the parts.

A part ends at the output of one module: the embeddings, the blocks of each layer, and the transform
of a masked-LM head. The reference records these outputs in PyTorch, and the tracer marks them, so
that a graph has them under known names (`parity/instrument.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo

# Called with the name of a part and its tensor; a returned tensor replaces it.
AtBoundary = Callable[[str, Tensor], Tensor | None]


@contextmanager
def at_boundaries(model: PreTrainedModel, action: AtBoundary) -> Iterator[None]:
    """Calls `action` with the output of every part of a forward pass, in order.

    Only outputs as wide as the hidden states: those of factorised embeddings and of their head are
    inside the next part.
    """
    counts: Counter[str] = Counter()
    hooks = []

    def hook_for(kind: str, numbered: bool) -> Callable[[Any, Any, Any], Any]:
        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            # Shared modules run once for each layer, so the layer is the number of the call.
            name = f"layer {counts[kind]} {kind}" if numbered else kind
            counts[kind] += 1
            if isinstance(output, Tensor):
                # The head of a sequence's vector does not belong to the encoder.
                return action(name, output) if output.ndim == 3 else None
            changed = action(name, output[0])
            return None if changed is None else (changed, *output[1:])

        return hook

    for kind, numbered, module in _boundaries(model):
        hooks.append(module.register_forward_hook(hook_for(kind, numbered)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _boundaries(model: PreTrainedModel) -> Iterator[tuple[str, bool, nn.Module]]:
    """Kind of part, whether every layer has one, and the module that ends it."""
    family = FAMILIES[model.config.model_type]
    encoder = model.base_model
    yield "embeddings", False, _end_of_embeddings(encoder, family)
    for name, module in encoder.named_modules():
        for kind, suffix in family.names.blocks:
            # A layer, which has a number, or a module directly in it.
            within = rf"\.{re.escape(suffix)}" if suffix else ""
            if re.search(rf"\.\d+{within}$", name):
                yield kind, True, module
    head = family.mlm_head
    modules = dict(model.named_modules())
    if head is not None and head.norm in modules and not family.factorises(model.config.to_dict()):
        yield "head", False, modules[head.norm]


def _end_of_embeddings(encoder: nn.Module, family: FamilyInfo) -> nn.Module:
    """The module behind which the embeddings are as wide as the hidden states."""
    projection = family.names.embedding_projection
    # ELECTRA has one only where the widths differ.
    if projection is not None and projection in dict(encoder.named_modules()):
        return encoder.get_submodule(projection)
    return encoder.get_submodule(family.names.embeddings)
