"""Weights as the products want them, each once; constants as initializers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedistil.export.passes.edit import CONTRIB, add_initializer, constant, insert, replace


def lay_weights_out(model: ir.Model) -> int:
    """`Transpose` of a weight goes: the weight is stored transposed, or, where it is tied, read transposed.

    Requires: the transposed weight is read by one `MatMul`.
    Ensures: every weight is stored once; the vocabulary projection reads the word embeddings as they are.
    """
    changed = 0
    graph = model.graph
    for node in [each for each in graph if each.op_type == "Transpose" and each.inputs[0].is_initializer()]:  # type: ignore[union-attr]
        weight = node.inputs[0]
        assert weight is not None
        (use,) = node.outputs[0].uses()
        if len(weight.uses()) > 1:
            product = use.node
            (out,) = insert(
                product,
                "FusedMatMul",
                [product.inputs[0], weight],
                name=product.name or "",
                domain=CONTRIB,
                attributes={"transB": 1},
            )
            replace(product.outputs[0], out)
        else:
            array = constant(weight)
            assert array is not None
            # A view: the copy is made when the file is written, one weight at a time.
            laid_out = add_initializer(graph, f"{weight.name}.T", array.T)
            replace(node.outputs[0], laid_out)
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
        name = f"constant/{array.dtype}/{label}/{'_'.join(f'{v:g}' for v in array.ravel().tolist())}"
        replace(node.outputs[0], add_initializer(model.graph, name, array))
        changed += 1
    return changed
