"""Attention in operators of onnxruntime, without copies of query, key and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    graph_input,
    insert,
    only_consumer,
    produced_by,
    record_attribute,
    replace_value,
)
from edgedistil.export.settings import (
    ATTENTION_SCALE,
    HEADS,
    MASKED_SCORE,
    MASKED_SCORE_VALUE,
)
from edgedistil.parity.formula import Formula, call, literal, setting

DOMAIN = "edgedistil"  # of the attention node in a traced graph


@dataclass(frozen=True)
class _Projections:
    """Query, key and value of one layer as their linear layers computed them, (L, B, D)."""

    query: ir.Value
    key: ir.Value
    value: ir.Value


def fuse_attention(model: ir.Model, *, heads: int) -> int:
    """Lowers `edgedistil::Attention`, with the reshapes and transposes around it.

    The result is two MatMuls, a sum and a softmax a layer. onnxruntime's MultiHeadAttention
    measured slower (docs/log.md#multiheadattention).

    Requires: the graph of `trace_model`; `sequence_first` runs too, before or after.
    Ensures: query, key and value are read where their projections wrote them, as (L, B, H, D) with
        the MatMul's own strides (`transBatchA`, `transBatchB`). Only the context is transposed. The
        shapes of all reshapes are constant. The mask is computed once for the complete graph.
    """
    masks: dict[ir.Value | None, ir.Value] = {}
    changed = 0
    for node in [node for node in model.graph if node.op_type == "Attention"]:
        projections = _projections(node)
        # The traced node returns (B, L, H, D), which a reshape merges to (B, L, D).
        merge = only_consumer(node.outputs[0])
        if projections is None or merge is None or merge.op_type != "Reshape":
            continue
        # Layers with the same bias share its sum with the mask.
        bias_1HLL = node.inputs[4] if len(node.inputs) > 4 else None
        if bias_1HLL not in masks:
            masks[bias_1HLL] = _insert_mask(model.graph, bias_1HLL)
        context_LBD = _lower(model.graph, node, projections, masks[bias_1HLL], heads)
        replace_value(merge.outputs[0], context_LBD)
        changed += 1
    # No node of the domain is left, so the model does not import it any more.
    model.graph.opset_imports.pop(DOMAIN, None)
    return changed


def _projections(node: ir.Node) -> _Projections | None:
    """Inputs of an attention node in front of their head splits; None if one is not split."""
    values = []
    for head_major in node.inputs[:3]:
        transpose = produced_by(head_major, "Transpose")
        split = produced_by(transpose.inputs[0], "Reshape") if transpose else None
        projection = split.inputs[0] if split else None
        # A graph of another shape is left alone; `run_passes` reports the missing place.
        if projection is None:
            return None
        values.append(projection)
    return _Projections(*values)


def _lower(
    graph: ir.Graph, node: ir.Node, projections: _Projections, mask_B11L: ir.Value, heads: int
) -> ir.Value:
    """Inserts the operators of one attention; returns its context, (L, B, D)."""
    module = (node.name or "attention").rsplit("/", 1)[0]
    # 0 keeps a dimension, -1 is computed: one constant serves every batch and length.
    shape = call("concat", literal(_shape(0, 0)), _heads_formula(), literal(_shape(-1)), axis=0)
    split = add_initializer(graph, f"constant/split/{heads}", _shape(0, 0, heads, -1), shape)
    merge = add_initializer(graph, "constant/merge", _shape(0, 0, -1))
    query, key, value = (
        insert(node, "Reshape", [projection, split], name=f"{module}/{role}_heads")[0]
        for role, projection in vars(projections).items()
    )
    weights_BHLL = _insert_weights(node, query, key, mask_B11L, module)
    context_BHLD = _insert_matmul(
        node, weights_BHLL, value, f"{module}/context", attributes={"transBatchB": 1}
    )
    # (B, H, L, D) → (L, B, H, D) → (L, B, H · D): the one transpose of a layer.
    order = {"perm": [2, 0, 1, 3]}
    (context_LBHD,) = insert(
        node, "Transpose", [context_BHLD], name=f"{module}/turned", attributes=order
    )
    return insert(node, "Reshape", [context_LBHD, merge], name=f"{module}/merged")[0]


def _insert_weights(
    node: ir.Node, query: ir.Value, key: ir.Value, mask_B11L: ir.Value, module: str
) -> ir.Value:
    """Inserts softmax(q kᵀ · scale + mask); returns the attention weights, (B, H, L, L)."""
    # FusedMatMul reads the batch dimensions of (L, B, H, D) by stride, so nothing is transposed in
    # memory (docs/log.md#sequence-first-activations).
    attributes = {
        "alpha": node.attributes["scale"].as_float(),
        "transBatchA": 1,
        "transBatchB": 1,
        "transB": 1,
    }
    scores = _insert_matmul(node, query, key, f"{module}/scores", attributes=attributes)
    scores_node = scores.producer()
    assert scores_node is not None
    record_attribute(scores_node, "alpha", setting(ATTENTION_SCALE))
    (masked,) = insert(node, "Add", [scores, mask_B11L], name=f"{module}/masked")
    last = {"axis": -1}
    return insert(node, "Softmax", [masked], name=f"{module}/weights", attributes=last)[0]


def _insert_matmul(
    before: ir.Node, left: ir.Value, right: ir.Value, name: str, *, attributes: dict[str, Any]
) -> ir.Value:
    return insert(
        before, "FusedMatMul", [left, right], name=name, domain=CONTRIB, attributes=attributes
    )[0]


def _heads_formula() -> Formula | None:
    return call("reshape", setting(HEADS), literal(_shape(1)))


def _shape(*sizes: int) -> NDArray[np.int64]:
    return np.array(sizes, np.int64)


def _insert_mask(graph: ir.Graph, bias_1HLL: ir.Value | None) -> ir.Value:
    """Inserts what all layers add to their scores: the mask, and a bias of distances.

    Returns:
        0 at tokens and `MASKED_SCORE_VALUE` at padding, (B, 1, 1, L); with a bias (B, H, L, L).
    """
    attention_mask = graph_input(graph, "attention_mask")
    first = next(iter(graph))
    one = add_initializer(graph, "constant/one", np.array(1, np.float32))
    masked = np.array(MASKED_SCORE_VALUE, np.float32)
    score = add_initializer(graph, "constant/masked", masked, setting(MASKED_SCORE))
    axes = add_initializer(graph, "constant/mask_axes", np.array([1, 2], np.int64))
    # In front of the first node: every layer reads the mask.
    float32 = {"to": int(ir.DataType.FLOAT)}
    (is_token,) = insert(first, "Cast", [attention_mask], name="mask/kept", attributes=float32)
    (is_padding,) = insert(first, "Sub", [one, is_token], name="mask/left_out")
    (bias_BL,) = insert(first, "Mul", [is_padding, score], name="mask/bias")
    (mask_B11L,) = insert(first, "Unsqueeze", [bias_BL, axes], name="mask/broadcast")
    producer = bias_1HLL.producer() if bias_1HLL is not None else None
    if producer is None:
        return mask_B11L
    (sum_BHLL,) = insert(producer, "Add", [bias_1HLL, mask_B11L], name="mask/with_position_bias")
    return sum_BHLL
