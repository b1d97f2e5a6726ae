"""Heads that a model's layers lack: config.json's `pruned_heads`, as transformers 4 writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedistil.core.echo import echo
from edgedistil.core.family_info import PRUNED_HEADS, FamilyInfo


def pruned_heads_problems(config: Mapping[str, Any], family: FamilyInfo) -> list[str]:
    """Returns what is wrong with a config's `pruned_heads`, one sentence each.

    Args:
        config: Parsed config.json with every size.
        family: Family of the model.
    """
    removed = config.get(PRUNED_HEADS)
    # transformers 4 writes an empty table for a complete model.
    if not removed:
        return []
    if family.names.attention is None:
        return [f"{PRUNED_HEADS} is set; heads of a {family.model_type} cannot be removed"]
    layers, heads = config[family.keys.layers], config[family.keys.heads]
    expected = f"a list of different heads, 0 to {heads - 1}, for each of the {layers} layers"
    if not isinstance(removed, dict) or set(map(str, removed)) != set(map(str, range(layers))):
        return [f"{PRUNED_HEADS} = {echo(removed)}; expected {expected}"]
    # The first wrong layer is enough for a message.
    wrong = [layer for layer, pruned in removed.items() if not _is_heads(pruned, heads)]
    if wrong:
        return [f"{PRUNED_HEADS} of layer {echo(wrong[0])} is wrong; expected {expected}"]
    counts = {heads - len(pruned) for pruned in removed.values()}
    if len(counts) > 1 or 0 in counts:
        listed = ", ".join(map(str, sorted(counts)))
        return [f"{PRUNED_HEADS} leaves {listed} heads; expected one number above 0 in all layers"]
    return []


def _is_heads(pruned: Any, heads: int) -> bool:
    """Whether a value is a list of different heads."""
    if not isinstance(pruned, list) or not all(type(head) is int for head in pruned):
        return False
    return len(set(pruned)) == len(pruned) and all(0 <= head < heads for head in pruned)
