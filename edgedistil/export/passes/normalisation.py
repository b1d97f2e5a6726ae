"""Residual sum and LayerNorm: two nodes → one."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import CONTRIB, insert, only_user, produced_by, replace


def fuse_skip_layer_norm(model: ir.Model) -> int:
    """`Add` of two activations and `LayerNormalization` become `SkipLayerNormalization`.

    Requires: the sum is read by the LayerNorm only, and both its terms are (B, L, D) activations.
    Ensures: the same sums in the same order; one pass over memory less.
    """
    changed = 0
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        add = produced_by(norm.inputs[0], "Add")
        if add is None or only_user(add.outputs[0]) is not norm or "embeddings" in (norm.name or ""):
            continue
        name = norm.name or "norm"
        norm.name = f"{name}/replaced"
        (out,) = insert(
            norm,
            "SkipLayerNormalization",
            [add.inputs[0], add.inputs[1], *norm.inputs[1:3]],
            name=name,
            domain=CONTRIB,
            attributes={"epsilon": norm.attributes["epsilon"].as_float()},
        )
        replace(norm.outputs[0], out)
        changed += 1
    return changed
