"""Which layer of the model a node belongs to: by its name, by its weights' names, else by its place in the order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx

_LAYER = re.compile(r"(?:layers?|blocks?|h)[._/](\d+)(?:[._/]|$)")
_EMBEDDINGS = re.compile(r"embedding", re.IGNORECASE)
_HEAD = re.compile(r"vocab|cls|lm_head|predictions|classifier|pooler|qa_outputs", re.IGNORECASE)


def layer_of_nodes(path: Path, executed: Sequence[str]) -> list[str]:
    """A layer's name ("embeddings", "layer 0", "head") for every node in the order of execution.

    Args:
        path: The graph as exported: its nodes tell which weights they take.
        executed: Node names as the runtime ran them; a fused node has a new name, and the layer of the node before.
    """
    graph = onnx.load(str(path), load_external_data=False).graph
    known: dict[str, str] = {}
    for node in graph.node:
        layer = _layer_in([node.name, *node.input, *node.output])
        if layer is not None:
            known[node.name] = layer
    current, found = "embeddings", []
    for name in executed:
        current = _layer_in([name]) or known.get(name) or current
        found.append(current)
    return found


def _layer_in(names: Sequence[str]) -> str | None:
    for name in names:
        match = _LAYER.search(name)
        if match:
            return f"layer {int(match[1])}"
    for name in names:
        if _EMBEDDINGS.search(name):
            return "embeddings"
        if _HEAD.search(name):
            return "head"
    return None
