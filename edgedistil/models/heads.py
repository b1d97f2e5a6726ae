"""Students with fewer attention heads, removed by their importance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import PRUNED_HEADS
from edgedistil.models.reduced import attentions, class_for


def prune_heads(
    student: PreTrainedModel, heads: int, *, rows: Sequence[Sequence[int]] = ()
) -> PreTrainedModel:
    """Returns the student with the most important heads of each layer.

    Args:
        student: The student, with the teacher's heads.
        heads: Heads that stay in each layer.
        rows: Token ids of texts on which the importance is measured (`text_importance`); without
            any it is a norm of weights (`head_importance`).
    Raises:
        ModelError: The number is not below the present one, or the family's heads cannot be
            removed.
    Source: Michel et al. 2019 (arXiv 1905.10650), §2.
    Differs from: The importance is what a head writes, not a gradient; every layer loses the same
        number.
    """
    present = check_heads(student, heads)
    if rows:
        importances = text_importance(student, rows, present)
    else:
        linears = attentions(student)
        importances = [head_importance(value, output, present) for *_, value, output in linears]
    most_important = [values_H.topk(heads).indices.sort().values for values_H in importances]
    config = copy.deepcopy(student.config)
    set_pruned_heads(config, _removed_heads(student.config, most_important))
    # Its weights are replaced, and drawing them must not shift the caller's random state.
    with torch.random.fork_rng(devices=[]):
        pruned: PreTrainedModel = class_for(type(student), config)(config)
    pruned.load_state_dict(_cut_weights(student, most_important, present))
    return pruned


def _cut_weights(
    student: PreTrainedModel, heads: Sequence[Tensor], present: int
) -> dict[str, Tensor]:
    """The student's weights with the rows and columns of some heads of each layer."""
    weights: dict[str, Tensor] = student.state_dict()
    names = {id(module): name for name, module in student.named_modules()}
    # Rows of query, key and value and columns of the output belong to one head.
    for linears, heads_K in zip(attentions(student), heads, strict=True):
        rows = _rows_of(heads_K, linears[0].out_features // present)
        for linear in linears[:3]:
            for kind in ("weight", "bias"):
                name = f"{names[id(linear)]}.{kind}"
                weights[name] = weights[name][rows]
        name = f"{names[id(linears[3])]}.weight"
        weights[name] = weights[name][:, rows]
    return weights


def head_importance(value: nn.Linear, output: nn.Linear, heads: int) -> Tensor:
    """Returns the Frobenius norm of what each head does to the states that it attends to.

        I_h = ‖ O_h V_h ‖,   O_h (D, d) columns of the output, V_h (d, D) rows of the value

    Unlike the product of both norms it does not depend on the basis inside a head.

    Args:
        value, output: The layer's projections, (A, D) and (D, A).
        heads: Heads of the layer.
    Returns:
        Shape (heads,), float64.
    """
    # Double precision: squares of small weights are summed.
    values_HdD = value.weight.detach().double().view(heads, -1, value.in_features)
    outputs_HdD = output.weight.detach().double().T.reshape(heads, -1, output.out_features)
    # ‖O V‖² = tr(OᵀO VVᵀ): products inside a head only.
    inner_Hdd = outputs_HdD @ outputs_HdD.transpose(1, 2)
    outer_Hdd = values_HdD @ values_HdD.transpose(1, 2)
    squares_H = (inner_Hdd * outer_Hdd).sum((1, 2))
    return squares_H.clamp(min=0).sqrt()


def text_importance(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], heads: int
) -> list[Tensor]:
    """Returns the mean norm of what each head adds to a token's state, on texts.

        I_h = mean over tokens of ‖ O_h c_h ‖,   c_h what the head attends to, (d,)

    Six of MiniLM's twelve heads chosen in this way leave a cosine of 0.82 to the vectors of all
    heads; chosen by weights alone 0.71, about as much as a random choice
    (docs/log.md#importance-of-attention-heads).

    Args:
        model: The model; its state is left as it is.
        rows: Token ids of each text.
        heads: Heads of a layer.
    Returns:
        One tensor for each layer, shape (heads,), float64.
    """
    outputs = [output for *_, output in attentions(model)]
    sums = [torch.zeros(heads, dtype=torch.float64) for _ in outputs]
    handles = [
        output.register_forward_pre_hook(_adder(total_H, output))
        for output, total_H in zip(outputs, sums, strict=True)
    ]
    was_training = model.training
    try:
        # One text at a time has no padding.
        with torch.no_grad():
            for row in rows:
                model.eval().base_model(input_ids=torch.tensor([list(row)]))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    tokens = sum(map(len, rows))
    return [total_H / tokens for total_H in sums]


def _adder(total_H: Tensor, output: nn.Linear) -> Callable[..., None]:
    """A hook that adds the norms of a call's tokens to the sums of the heads."""
    heads = len(total_H)
    outputs_HdD = output.weight.detach().T.reshape(heads, -1, output.out_features)

    def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        context_LHd = inputs[0][0].view(inputs[0].shape[1], heads, -1)
        for head in range(heads):
            written_LD = context_LHd[:, head] @ outputs_HdD[head]
            total_H[head] += written_LD.norm(dim=-1).sum().double()

    return add


def layers_of_map(config: PreTrainedConfig, layer_map: Sequence[int]) -> dict[str, list[int]]:
    """Returns `pruned_heads` of a model that has these layers of another one."""
    removed = getattr(config, PRUNED_HEADS, None) or {}
    if not removed:
        return {}
    return {str(place): removed[str(layer)] for place, layer in enumerate(layer_map)}


def set_pruned_heads(config: PreTrainedConfig, removed: dict[str, list[int]]) -> None:
    """Writes `pruned_heads`; a config of complete layers gets no such key."""
    if removed:
        config.pruned_heads = removed


def check_heads(model: PreTrainedModel, heads: int) -> int:
    """Returns the present number of heads; raises ModelError unless `heads` can stay."""
    family = FAMILIES[model.config.model_type]
    if family.names.attention is None:
        raise ModelError(
            f"student.heads is {heads}, and heads of a {family.model_type} cannot be removed",
            hint="leave the key out; student.intermediate makes its layers narrower",
        )
    present = family.heads(model.config.to_dict())
    if not 0 < heads < present:
        raise ModelError(
            f"student.heads is {heads}; expected 1 to {present - 1}: the teacher's layers have "
            f"{present} heads",
            hint="leave the key out for the teacher's heads",
        )
    return present


def _removed_heads(config: PreTrainedConfig, stay: Sequence[Tensor]) -> dict[str, list[int]]:
    """Heads that are missing if `stay` of the present ones do, as numbers of the full layer."""
    family = FAMILIES[config.model_type]
    count, before = getattr(config, family.keys.heads), getattr(config, PRUNED_HEADS, None) or {}
    removed = {}
    for layer, heads_K in enumerate(stay):
        missing = set(before.get(str(layer), ()))
        present = [head for head in range(count) if head not in missing]
        numbers = {present[index] for index in heads_K.tolist()}
        removed[str(layer)] = [head for head in range(count) if head not in numbers]
    return removed


def _rows_of(heads_K: Tensor, width: int) -> Tensor:
    """Rows of a projection that belong to heads."""
    return (heads_K[:, None] * width + torch.arange(width)).flatten()
