"""What a graph holds: bytes by part of the model, and what stayed in float."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from edgedistil.export.linears import part_of

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_LISTED_FROM_BYTES = 1024
PARTS = ("embeddings", "attention", "feed-forward", "head", "other")


def bytes_by_part(model: ir.Model) -> dict[str, int]:
    """Bytes of the stored weights by part; every part is named."""
    counted: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            counted[part_of(name)] += value.const_value.nbytes
    return dict(counted)


def kept_float(model: ir.Model) -> list[str]:
    """Names of the float weights over 1 KiB, without quantization's own scales."""
    return sorted(
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in _FLOATS
        and value.const_value.nbytes > _LISTED_FROM_BYTES
        and ".scale" not in name
    )
