"""Weights read as PyTorch stores them, and constants as shared initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    constant_array,
    insert,
    only_consumer,
    replace_value,
)
from edgedistil.parity.formula import LITERAL_UP_TO_VALUES, array_sha256, literal


def read_weights_as_stored(model: ir.Model) -> int:
    """Removes the `Transpose` of a weight: the MatMul reads it as PyTorch stores it, (N, K).

    A session copies every weight into the blocks that its kernel reads. That copy took 123 ms from
    (N, K) and 149 ms from the transposed weight, at DistilBERT's shapes, and the MatMuls are as
    fast (docs/log.md#weights-stored-as-pytorch-stores-them).

    Requires: nothing; a transposed weight that another node than one `MatMul` reads is left.
    Ensures: every weight is stored once, in PyTorch's order; both readers of a tied weight read the
        same bytes.
    """
    changed = 0
    for transpose in [node for node in model.graph if transposes_a_weight(node)]:
        # The tracer writes a transpose for each MatMul, of a tied weight too.
        (use,) = transpose.outputs[0].uses()
        matmul = use.node
        (output,) = insert(
            matmul,
            "FusedMatMul",
            [matmul.inputs[0], transpose.inputs[0]],
            name=matmul.name or "",
            domain=CONTRIB,
            attributes={"transB": 1},
        )
        replace_value(matmul.outputs[0], output)
        changed += 1
    return changed


def name_constants(model: ir.Model) -> int:
    """Turns `Constant` nodes into initializers that are named after their values.

    Requires: nothing.
    Ensures: equal constants are stored once; no name depends on the tracer's counters, so the same
        model gives the same bytes.
    """
    changed = 0
    for node in [node for node in model.graph if node.op_type == "Constant"]:
        array = constant_array(node.outputs[0])
        if array is None:
            continue
        array = np.array(array)  # not ascontiguousarray: it makes a scalar one-dimensional
        # Equal constants have equal names, so they become one initializer.
        value = add_initializer(model.graph, _constant_name(array), array, literal(array))
        replace_value(node.outputs[0], value)
        changed += 1
    return changed


def transposes_a_weight(node: ir.Node) -> bool:
    """Whether a node is the `Transpose` of an initializer for one `MatMul`."""
    if node.op_type != "Transpose":
        return False
    weight = node.inputs[0]
    reader = only_consumer(node.outputs[0])
    is_weight = weight is not None and weight.is_initializer()
    return is_weight and reader is not None and reader.op_type == "MatMul"


def _constant_name(array: NDArray[np.generic]) -> str:
    """Name with dtype, shape and values, or their digest: `constant/int64/2/0_-1`."""
    shape = "x".join(str(size) for size in array.shape) or "scalar"
    if array.size > LITERAL_UP_TO_VALUES:
        return f"constant/{array.dtype}/{shape}/{array_sha256(array)[:16]}"
    values = "_".join(f"{value:g}" for value in array.ravel().tolist())
    return f"constant/{array.dtype}/{shape}/{values}"
