"""Assigns the nodes of a graph to the layers of the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx

# Names of BERT, DistilBERT, MPNet and other encoders: `encoder.layer.3.`, `h.3.`, `blocks/3/`.
_LAYER = re.compile(r"(?:layers?|blocks?|h)[._/](\d+)(?:[._/]|$)")
_EMBEDDINGS = re.compile(r"embedding", re.IGNORECASE)
# Names of the heads of transformers' model classes.
_HEAD = re.compile(r"vocab|cls|lm_head|predictions|classifier|pooler|qa_outputs", re.IGNORECASE)


def layer_of_nodes(path: Path, executed: Sequence[str]) -> list[str]:
    """Returns the layer of each executed node: "embeddings", "layer 0" or "head".

    It comes from the node's name, from its weights, or else from the node executed before.

    Args:
        path: The graph as exported.
        executed: Node names, in the order in which the runtime ran them.
    """
    # The layer of each node of the exported graph.
    graph = onnx.load(str(path), load_external_data=False).graph
    layer_by_node: dict[str, str] = {}
    for node in graph.node:
        layer = _find_layer([node.name, *node.input, *node.output])
        if layer is not None:
            layer_by_node[node.name] = layer

    # The layer of each executed node; fused nodes have new names. The embeddings come first.
    layers = []
    current = "embeddings"
    for name in executed:
        current = _find_layer([name]) or layer_by_node.get(name) or current
        layers.append(current)
    return layers


def _find_layer(names: Sequence[str]) -> str | None:
    """Layer that the first matching name belongs to; None if no name matches."""
    # A layer number comes first: a head's node may also read a value named after a layer.
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
