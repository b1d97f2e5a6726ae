"""Weights as the products want them, each once; constants as initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import CONTRIB, add_initializer, constant, insert, replace


def read_weights_as_stored(model: ir.Model) -> int:
    """`Transpose` of a weight goes: the product reads the weight as PyTorch stores it, a row for each output.

    A session copies every weight into the blocks that its kernel wants. From rows of outputs that copy took 123 ms
    where it takes 149 from the transposed weight (DistilBERT's shapes, docs/log.md), and products are as fast.

    Requires: each transposed weight is read by a `MatMul`.
    Ensures: every weight is stored once, in PyTorch's order; where it is tied, both its readers read the same bytes.
    """
    changed = 0
    for node in [each for each in model.graph if _transposes_a_weight(each)]:
        (use,) = node.outputs[0].uses()
        product = use.node
        (out,) = insert(
            product,
            "FusedMatMul",
            [product.inputs[0], node.inputs[0]],
            name=product.name or "",
            domain=CONTRIB,
            attributes={"transB": 1},
        )
        replace(product.outputs[0], out)
        changed += 1
    return changed


def name_constants(model: ir.Model) -> int:
    """`Constant` nodes become initializers that are named and shared.

    Ensures: equal constants are one; names do not depend on the tracer's counters.
    """
    changed = 0
    for node in [each for each in model.graph if each.op_type == "Constant"]:
        array = constant(node.outputs[0])
        if array is None or array.size > 64:
            continue
        array = np.array(array)  # not ascontiguousarray: it makes a scalar one-dimensional
        label = "x".join(map(str, array.shape)) or "scalar"
        name = (
            f"constant/{array.dtype}/{label}/{'_'.join(f'{v:g}' for v in array.ravel().tolist())}"
        )
        replace(node.outputs[0], add_initializer(model.graph, name, array))
        changed += 1
    return changed


def _transposes_a_weight(node: ir.Node) -> bool:
    if node.op_type != "Transpose":
        return False
    transposed = node.inputs[0]
    return transposed is not None and transposed.is_initializer()
