"""Embeddings: positions and segments that a constant can replace."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import add_initializer, constant, insert, produced_by, replace

POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"


def slice_positions(model: ir.Model) -> int:
    """A gather of the rows 0 … L−1 of the position table → a slice of it.

    Requires: positions are not an input, so row i always belongs to token i; sequence-first activations.
    Ensures: no position ids are left in the graph.
    """
    changed = 0
    for node in list(model.graph):
        if node.op_type != "Gather" or not _is_table(node.inputs[0], POSITIONS):
            continue
        graph = model.graph
        ids = next(value for value in graph.inputs if value.name == "input_ids")
        zero = add_initializer(graph, "constant/start", np.array([0], np.int64))
        axis = add_initializer(graph, "constant/axis", np.array([0], np.int64))
        (length,) = insert(
            node, "Shape", [ids], name="embeddings/length", attributes={"start": 1, "end": 2}
        )
        (rows_LD,) = insert(
            node, "Slice", [node.inputs[0], zero, length, axis], name="embeddings/positions"
        )
        one = add_initializer(graph, "constant/batch_axis", np.array([1], np.int64))
        (rows_L1D,) = insert(node, "Unsqueeze", [rows_LD, one], name="embeddings/positions_of_all")
        replace(node.outputs[0], rows_L1D)
        changed += 1
    return changed


def fold_segment_a(model: ir.Model) -> int:
    """Segment A's vector goes into the position table, and `token_type_ids` is no input any more.

    Requires: every token is of segment A, which is what all clients send for single texts.
    Ensures: one input, one gather and one table fewer.
    """
    graph = model.graph
    segments = next((v for n, v in graph.initializers.items() if n.endswith(SEGMENTS)), None)
    positions = next((v for n, v in graph.initializers.items() if n.endswith(POSITIONS)), None)
    given = next((v for v in graph.inputs if v.name == "token_type_ids"), None)
    if segments is None or positions is None or given is None:
        return 0
    (use,) = segments.uses()
    (add,) = use.node.outputs[0].uses()
    other = add.node.inputs[1 - add.idx]
    rows, table = constant(positions), constant(segments)
    assert rows is not None
    assert table is not None
    assert other is not None
    positions.const_value = ir.Tensor(rows + table[0], name=positions.name)
    replace(add.node.outputs[0], other)
    graph.remove([add.node, use.node], safe=False)
    graph.inputs.remove(given)
    return 1


def _is_table(value: ir.Value | None, suffix: str) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and (value.name or "").endswith(suffix)
        and produced_by(value, "") is None
    )
