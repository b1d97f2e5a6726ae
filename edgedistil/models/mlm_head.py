"""The masked-LM head of any family in two parts: a transform, and a projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import MlmHead as HeadNames


@dataclass(frozen=True)
class MlmHead:
    """An MLM head in two parts: `transform`, then a projection onto the vocabulary.

    Attributes:
        transform: Dense layer, activation and norm; the identity in a head that only projects.
        weight_VD: Projection, often tied to the word-embedding matrix.
        bias_V: Bias of the projection; zeros in a head without one.
    """

    transform: nn.Module
    weight_VD: Tensor
    bias_V: Tensor


class _Transform(nn.Module):
    """Dense layer, activation and norm of a head; the modules are the model's own."""

    def __init__(
        self, dense: nn.Module, activation: Callable[[Tensor], Tensor], norm: nn.Module
    ) -> None:
        super().__init__()
        self.dense, self.norm = dense, norm
        self._activation = activation

    def forward(self, hidden_ND: Tensor) -> Tensor:
        out: Tensor = self.norm(self._activation(self.dense(hidden_ND)))
        return out


def head_names(model: PreTrainedModel) -> HeadNames:
    """Returns the names of the modules of a model's head."""
    names = FAMILIES[model.config.model_type].mlm_head
    assert names is not None
    # DeBERTa's other head is of modules with other names, and has no projection of its own.
    if not getattr(model.config, "legacy", True):
        prefix = "lm_predictions.lm_head"
        return HeadNames(f"{prefix}.dense", f"{prefix}.LayerNorm", projection=prefix)
    return names


def mlm_head(model: PreTrainedModel) -> MlmHead:
    """Returns the model's MLM head; its tensors are the model's parameters, not copies.

    Only the two matrices of MobileBERT's projection are joined, in a tensor with a gradient.
    """
    names = head_names(model)
    projection: Any = model.get_submodule(names.projection)
    weight_VD = getattr(projection, "weight", None)
    if weight_VD is None:
        weight_VD = model.get_input_embeddings().weight
    if names.wide is not None:
        wide: Any = model.get_submodule(names.wide)
        weight_VD = torch.cat([weight_VD, wide.weight.t()], dim=1)
    bias_V = projection.bias
    if bias_V is None:
        bias_V = torch.zeros(len(weight_VD), dtype=weight_VD.dtype, device=weight_VD.device)
    return MlmHead(_transform(model, names), weight_VD, bias_V)


def _transform(model: PreTrainedModel, names: HeadNames) -> nn.Module:
    if names.dense is None or names.norm is None:
        return nn.Identity()
    keys = FAMILIES[model.config.model_type].keys
    function = names.activation
    if function is None:
        function = getattr(model.config, names.activation_key or keys.activation)
    dense, norm = model.get_submodule(names.dense), model.get_submodule(names.norm)
    return _Transform(dense, ACT2FN[function], norm)
