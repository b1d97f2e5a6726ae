"""Residual sums that onnxruntime must not fuse with the LayerNorm behind them."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import insert, only_user, replace


def keep_residual_sums(model: ir.Model) -> int:
    """The `Add` in front of a LayerNorm becomes a `Sum`.

    A session fuses Add and LayerNormalization into SkipLayerNormalization, whose kernel handles one number at a time:
    126 and 465 µs for 32 and 128 rows of 768, where LayerNormalization takes 16 and 50 (onnxruntime 1.32, one core,
    docs/log.md). `Sum` computes the same and is not recognised.

    Requires: the sum is read by the LayerNorm only, and both its terms are activations.
    Ensures: the same sums in the same order.
    """
    changed = 0
    for norm in [node for node in model.graph if node.op_type == "LayerNormalization"]:
        add = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if add is None or add.op_type != "Add" or only_user(add.outputs[0]) is not norm or _embeddings(norm):
            continue
        name = add.name or "residual"
        add.name = f"{name}/replaced"
        (out,) = insert(add, "Sum", list(add.inputs), name=name)
        replace(add.outputs[0], out)
        changed += 1
    return changed


def _embeddings(norm: ir.Node) -> bool:
    return "embeddings" in (norm.name or "")
