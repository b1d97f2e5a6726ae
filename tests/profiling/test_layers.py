"""Nodes are assigned to layers by their names, their weights, or the node before."""

from __future__ import annotations

from edgedistil.core.rundir import RunDir
from edgedistil.profiling.layers import layer_of_nodes


def test_layers_come_from_names_weights_and_order(exported: RunDir) -> None:
    graph = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    layers = layer_of_nodes(
        graph,
        [
            "fused_0",  # before any known node
            "/embedded/Gather",  # by its weights
            "/q1/MatMul",  # by its weights
            "fused_1",  # a new name: as the node before
            "/bert/encoder/layer.0/Add",  # by its own name
            "/pooler/Gemm",
        ],
    )
    assert layers == ["embeddings", "embeddings", "layer 1", "layer 1", "layer 0", "head"]
