"""Sums that onnxruntime must not fuse with what stands behind them."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import insert, only_user, produced_by, replace


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
        if (
            add is None
            or add.op_type != "Add"
            or only_user(add.outputs[0]) is not norm
            or _embeddings(norm)
        ):
            continue
        name = add.name or "residual"
        add.name = f"{name}/replaced"
        (out,) = insert(add, "Sum", list(add.inputs), name=name)
        replace(add.outputs[0], out)
        changed += 1
    return changed


def keep_bias_sums(model: ir.Model) -> int:
    """The `Add` of a bias in front of a Gelu becomes a `Sum`.

    A session fuses the two into BiasGelu, which takes 1033 µs for 256 rows of 3072 where Gelu takes 496 and the sum
    170 (onnxruntime 1.32, one core, docs/log.md). In 8 bits the product takes the bias in, and nothing is left to fuse.

    Requires: the sum is read by the Gelu only.
    Ensures: the same sums in the same order.
    """
    changed = 0
    for gelu in [node for node in model.graph if node.op_type == "Gelu"]:
        add = produced_by(gelu.inputs[0], "Add")
        if add is None or only_user(add.outputs[0]) is not gelu:
            continue
        name = add.name or "bias"
        add.name = f"{name}/replaced"
        (out,) = insert(add, "Sum", list(add.inputs), name=name)
        replace(add.outputs[0], out)
        changed += 1
    return changed


def _embeddings(norm: ir.Node) -> bool:
    return "embeddings" in (norm.name or "")
