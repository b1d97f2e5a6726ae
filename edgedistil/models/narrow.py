"""Narrower students: feed-forward units removed by their importance."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo

# A model's weights by name.
_Weights = dict[str, Tensor]


def narrow_feed_forward(student: PreTrainedModel, width: int) -> PreTrainedModel:
    """Returns the student with the most important units of each feed-forward.

    A unit's importance is the product of the norms of its weights: what it reads, what gates it,
    and what it writes. Which weights have a row or column per unit is found by building the model
    with the smaller width and comparing shapes, so that no family needs code of its own.

    Args:
        student: The student, with the teacher's width.
        width: Units that stay in each layer.
    Raises:
        ModelError: The width is not below the present one.
    Source: Magnitude pruning of structures, as in Li et al. 2017 (arXiv 1608.08710), §3.
    """
    family = FAMILIES[student.config.model_type]
    present = check_width(student, width)
    config = copy.deepcopy(student.config)
    setattr(config, family.keys.intermediate, width)
    # Its weights are replaced, and drawing them must not shift the caller's random state.
    with torch.random.fork_rng(devices=[]):
        narrow: PreTrainedModel = type(student)(config)
    weights, shapes = student.state_dict(), narrow.state_dict()
    axes = {
        name: axis for name in weights if (axis := _unit_axis(weights[name], shapes[name])) >= 0
    }
    for layer_axes in _by_layer(axes, family):
        importance_I = _importance(weights, layer_axes, present)
        # In their order, so that a model of equal units stays as it was.
        units = importance_I.topk(width).indices.sort().values
        for name, axis in layer_axes.items():
            weights[name] = _select(weights[name], axis, units, present)
    narrow.load_state_dict(weights)
    return narrow


def check_width(model: PreTrainedModel, width: int) -> int:
    """Returns the present width of the feed-forward; raises ModelError unless `width` is below."""
    present = int(getattr(model.config, FAMILIES[model.config.model_type].keys.intermediate))
    if not 0 < width < present:
        raise ModelError(
            f"student.intermediate is {width}; expected 1 to {present - 1}: the teacher's "
            f"feed-forward has {present} units",
            hint="leave the key out for the teacher's width",
        )
    return present


def _unit_axis(weight: Tensor, narrow: Tensor) -> int:
    """Axis of a weight that has a row per unit; -1 without one."""
    changed = [axis for axis, size in enumerate(weight.shape) if narrow.shape[axis] != size]
    return changed[0] if changed else -1


def _by_layer(axes: Mapping[str, int], family: FamilyInfo) -> list[dict[str, int]]:
    """Names and axes of weights, divided by layer."""
    layer = re.compile(rf"(.*{re.escape(family.names.layers)}\.\d+)\.")
    groups: dict[str, dict[str, int]] = {}
    for name, axis in axes.items():
        match = layer.match(name)
        groups.setdefault(match[1] if match is not None else "", {})[name] = axis
    return list(groups.values())


def _importance(weights: _Weights, axes: Mapping[str, int], units: int) -> Tensor:
    """Product of the norms of each unit's weights, (I,)."""
    importance_I = torch.ones(units, dtype=torch.float64)
    for name, axis in axes.items():
        importance_I *= _norms(weights[name], axis, units)
    return importance_I


def _norms(weight: Tensor, axis: int, units: int) -> Tensor:
    """Norm of each unit's weights; 1 for a vector such as a bias."""
    if weight.ndim < 2:
        return torch.ones(units, dtype=torch.float64)
    others = [other for other in range(weight.ndim) if other != axis]
    norms = torch.linalg.vector_norm(weight.double(), dim=others)
    product_I: Tensor = norms.view(-1, units).prod(dim=0)
    return product_I


def _select(weight: Tensor, axis: int, units: Tensor, present: int) -> Tensor:
    """The rows or columns of the units that stay."""
    # A gate may be stored in one matrix with what it gates.
    parts = weight.shape[axis] // present
    index = torch.cat([units + part * present for part in range(parts)])
    return weight.index_select(axis, index)
