"""Attention: the traced node → operators that a runtime has."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import CONTRIB, insert, only_user, produced_by, replace


def fuse_attention(model: ir.Model, *, heads: int, hidden: int) -> int:
    """`edgedistil::Attention` and the reshapes and transposes around it → `MultiHeadAttention`.

    Requires: the graph of `trace`, query, key and value each a projection reshaped to (B, L, H, D) and transposed.
    Ensures: no shape arithmetic is left around attention; the mask is cast once for the whole graph.
    """
    mask: ir.Value | None = None
    found = [node for node in model.graph if node.domain == "edgedistil"]
    for node in found:
        projections = [_projection(value) for value in node.inputs[:3]]
        merge = only_user(node.outputs[0])
        if None in projections or merge is None or merge.op_type != "Reshape":
            continue
        if mask is None:
            mask = _mask(model)
        q, k, v = projections
        (out,) = insert(
            node,
            "MultiHeadAttention",
            [q, k, v, None, mask],
            name=node.name or "attention",
            domain=CONTRIB,
            attributes={"num_heads": heads, "scale": node.attributes["scale"].as_float()},
        )
        out.shape, out.type = ir.Shape(["batch", "sequence", hidden]), ir.TensorType(ir.DataType.FLOAT)
        replace(merge.outputs[0], out)
    model.graph.opset_imports.pop("edgedistil", None)
    model.opset_imports.pop("edgedistil", None)
    return sum(1 for node in found if not node.outputs[0].uses() or _dead(node))


def _dead(node: ir.Node) -> bool:
    return all(
        not use.node.outputs[0].uses() and not use.node.outputs[0].is_graph_output() for use in node.outputs[0].uses()
    )


def _projection(value: ir.Value | None) -> ir.Value | None:
    transpose = produced_by(value, "Transpose")
    reshape = produced_by(transpose.inputs[0], "Reshape") if transpose else None
    return reshape.inputs[0] if reshape else None


def _mask(model: ir.Model) -> ir.Value:
    given = next(value for value in model.graph.inputs if value.name == "attention_mask")
    first = next(iter(model.graph))
    (mask,) = insert(first, "Cast", [given], name="mask/Cast", attributes={"to": int(ir.DataType.INT32)})
    mask.shape, mask.type = given.shape, ir.TensorType(ir.DataType.INT32)
    return mask
