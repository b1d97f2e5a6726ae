"""Gelu: five nodes → one."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import CONTRIB, insert, only_user, produced_by, replace


def fuse_gelu(model: ir.Model) -> int:
    """x/√2 → erf → +1 → ·x → ·½ becomes `Gelu`.

    Requires: torch's exact gelu as traced.
    Ensures: the same function; the runtime would find it by itself, at every start.
    """
    changed = 0
    for erf in [node for node in model.graph if node.op_type == "Erf"]:
        scaled = produced_by(erf.inputs[0], "Div")
        chain: ir.Node | None = erf
        for _ in ("add one", "times x", "times half"):
            chain = only_user(chain.outputs[0]) if chain is not None else None
        if scaled is None or chain is None or chain.op_type != "Mul":
            continue
        (out,) = insert(
            chain,
            "Gelu",
            [scaled.inputs[0]],
            name=(erf.name or "").rsplit("/", 1)[0] + "/Gelu",
            domain=CONTRIB,
        )
        replace(chain.outputs[0], out)
        changed += 1
    return changed
