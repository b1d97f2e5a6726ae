"""GELU and SiLU as one node each."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import (
    CONTRIB,
    insert,
    only_consumer,
    produced_by,
    replace_value,
)


def fuse_gelu(model: ir.Model) -> int:
    """Fuses x/√2 → erf → +1 → ·x → ·½ into one `Gelu`.

    Requires: torch's exact gelu as traced.
    Ensures: the same function. onnxruntime would fuse it too, but again in every session.
    """
    changed = 0
    for erf in [node for node in model.graph if node.op_type == "Erf"]:
        divide = produced_by(erf.inputs[0], "Div")
        product = _only_reader(_only_reader(erf, "Add"), "Mul")
        last = _only_reader(product, "Mul")
        # Another activation may have an Erf too, of another quotient.
        if divide is None or product is None or divide.inputs[0] not in product.inputs:
            continue
        if last is None:
            continue

        # The tracer names nodes after their module: `layer.0/ffn/activation/Erf`.
        module = (erf.name or "").rsplit("/", 1)[0]
        (gelu,) = insert(last, "Gelu", [divide.inputs[0]], name=f"{module}/Gelu", domain=CONTRIB)
        replace_value(last.outputs[0], gelu)
        changed += 1
    return changed


def fuse_silu(model: ir.Model) -> int:
    """Fuses sigmoid(x) · x into one `QuickGelu`, whose factor inside the sigmoid is 1.

    Requires: torch's silu as traced.
    Ensures: the same function; a session would fuse it too, as it does the exact GELU.
    """
    changed = 0
    for sigmoid in [node for node in model.graph if node.op_type == "Sigmoid"]:
        product = _only_reader(sigmoid, "Mul")
        if product is None or sigmoid.inputs[0] not in product.inputs:
            continue
        module = (sigmoid.name or "").rsplit("/", 1)[0]
        (silu,) = insert(
            product,
            "QuickGelu",
            [sigmoid.inputs[0]],
            name=f"{module}/QuickGelu",
            domain=CONTRIB,
            attributes={"alpha": 1.0},
        )
        replace_value(product.outputs[0], silu)
        changed += 1
    return changed


def _only_reader(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """The only node that reads a node's output, if it is of that operator."""
    reader = only_consumer(node.outputs[0]) if node is not None else None
    return reader if reader is not None and reader.op_type == op_type else None
