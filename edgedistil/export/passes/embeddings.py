"""Position embeddings as a slice of their matrix."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import add_initializer, graph_input, insert, replace_value

# Ending of the weight's name in every supported family.
POSITION_EMBEDDING = "embeddings.position_embeddings.weight"


def slice_positions(model: ir.Model, *, batch_axis: int = 1) -> int:
    """Replaces the gather of rows 0 … L-1 of the position matrix by a slice.

    Requires: positions are not an input, so row i always belongs to token i; sequence-first
        activations, unless `batch_axis` is 0.
    Ensures: no position ids are left in the graph.
    """
    changed = 0
    for node in _position_lookups(model):
        replace_value(node.outputs[0], _insert_slice(model.graph, node, batch_axis))
        changed += 1
    return changed


def turn_positions(model: ir.Model) -> int:
    """Makes the lookup of positions that are computed from the token ids read them as (L, B).

    Requires: position ids (B, L); sequence-first activations.
    Ensures: a token has the row that transformers gives it, wherever the padding is.
    """
    changed = 0
    for node in _position_lookups(model):
        (turned_LB,) = insert(
            node,
            "Transpose",
            [node.inputs[1]],
            name="embeddings/position_ids",
            attributes={"perm": [1, 0]},
        )
        node.replace_input_with(1, turned_LB)
        changed += 1
    return changed


def _position_lookups(model: ir.Model) -> list[ir.Node]:
    nodes = [node for node in model.graph if node.op_type == "Gather"]
    return [node for node in nodes if is_weight(node.inputs[0], POSITION_EMBEDDING)]


def _insert_slice(graph: ir.Graph, lookup: ir.Node, batch_axis: int) -> ir.Value:
    """Inserts the slice of the matrix; returns its rows, (L, 1, D) or (1, L, D)."""
    input_ids = graph_input(graph, "input_ids")
    start = add_initializer(graph, "constant/start", np.array([0], np.int64))
    row_axis = add_initializer(graph, "constant/axis", np.array([0], np.int64))
    axes = add_initializer(graph, "constant/batch_axis", np.array([batch_axis], np.int64))
    # input_ids is (B, L) in every layout: its second axis is the length.
    second = {"start": 1, "end": 2}
    (length,) = insert(lookup, "Shape", [input_ids], name="embeddings/length", attributes=second)
    (rows_LD,) = insert(
        lookup, "Slice", [lookup.inputs[0], start, length, row_axis], name="embeddings/positions"
    )
    # The batch axis is broadcast: every sequence gets the same rows.
    return insert(lookup, "Unsqueeze", [rows_LD, axes], name="embeddings/positions_of_all")[0]


def is_weight(value: ir.Value | None, *endings: str) -> bool:
    """Whether a value is an initializer whose name has one of these endings."""
    return value is not None and value.is_initializer() and (value.name or "").endswith(endings)
