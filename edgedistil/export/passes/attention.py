"""Attention: the traced node → operators that a runtime has, without moving a byte for query, key and value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    insert,
    only_user,
    produced_by,
    replace,
)

MASKED = -10000.0  # exp() of it is 0, and float16 holds it


def fuse_attention(model: ir.Model, *, heads: int) -> int:
    """`edgedistil::Attention` and the reshapes and transposes around it → two products, a sum and a softmax.

    Requires: the graph of `trace`; sequence-first activations (`sequence_first` belongs to the same run).
    Ensures: query, key and value are read where their projections wrote them: (L, B, H, D) with the product's own
        strides (`transBatchA`, `transBatchB`). Only the context is transposed. Every reshape is constant. The mask is
        computed once for the whole graph.
    """
    mask: ir.Value | None = None
    found = [node for node in model.graph if node.domain == "edgedistil"]
    changed = 0
    for node in found:
        projections = [_projection(value) for value in node.inputs[:3]]
        merge = only_user(node.outputs[0])
        if None in projections or merge is None or merge.op_type != "Reshape":
            continue
        mask = mask or _mask(model)
        replace(merge.outputs[0], _lower(model.graph, node, projections, mask, heads))
        changed += 1
    model.graph.opset_imports.pop("edgedistil", None)
    return changed


def _lower(
    graph: ir.Graph, node: ir.Node, projections: list[ir.Value | None], mask: ir.Value, heads: int
) -> ir.Value:
    name = (node.name or "attention").rsplit("/", 1)[0]
    split = add_initializer(graph, f"constant/split/{heads}", np.array([0, 0, heads, -1], np.int64))
    merge = add_initializer(graph, "constant/merge", np.array([0, 0, -1], np.int64))
    q, k, v = (
        insert(node, "Reshape", [each, split], name=f"{name}/{which}_heads")[0]
        for which, each in zip(("query", "key", "value"), projections, strict=True)
    )
    (scores,) = insert(
        node,
        "FusedMatMul",
        [q, k],
        name=f"{name}/scores",
        domain=CONTRIB,
        attributes={
            "alpha": node.attributes["scale"].as_float(),
            "transBatchA": 1,
            "transBatchB": 1,
            "transB": 1,
        },
    )
    (masked,) = insert(node, "Add", [scores, mask], name=f"{name}/masked")
    (weights,) = insert(node, "Softmax", [masked], name=f"{name}/weights", attributes={"axis": -1})
    (context,) = insert(
        node,
        "FusedMatMul",
        [weights, v],
        name=f"{name}/context",
        domain=CONTRIB,
        attributes={"transBatchB": 1},
    )
    (turned,) = insert(
        node, "Transpose", [context], name=f"{name}/turned", attributes={"perm": [2, 0, 1, 3]}
    )
    return insert(node, "Reshape", [turned, merge], name=f"{name}/merged")[0]


def _projection(value: ir.Value | None) -> ir.Value | None:
    transpose = produced_by(value, "Transpose")
    reshape = produced_by(transpose.inputs[0], "Reshape") if transpose else None
    return reshape.inputs[0] if reshape else None


def _mask(model: ir.Model) -> ir.Value:
    """0 where a key is attended, a large negative number where not: (B, 1, 1, L)."""
    graph = model.graph
    given = next(value for value in graph.inputs if value.name == "attention_mask")
    first = next(iter(graph))
    one = add_initializer(graph, "constant/one", np.array(1, np.float32))
    large = add_initializer(graph, "constant/masked", np.array(MASKED, np.float32))
    axes = add_initializer(graph, "constant/mask_axes", np.array([1, 2], np.int64))
    (kept,) = insert(
        first, "Cast", [given], name="mask/kept", attributes={"to": int(ir.DataType.FLOAT)}
    )
    (left_out,) = insert(first, "Sub", [one, kept], name="mask/left_out")
    (bias_BL,) = insert(first, "Mul", [left_out, large], name="mask/bias")
    return insert(first, "Unsqueeze", [bias_BL, axes], name="mask/broadcast")[0]
