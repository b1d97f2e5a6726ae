"""Work of small encoders for the tests of the cost model."""

from __future__ import annotations

from edgedistil.costmodel.workload import Arithmetic, NodeWork


def encoder(layers: int, *, arithmetic: Arithmetic = "fp32", macs: int = 10**8) -> list[NodeWork]:
    """Nodes of an encoder: in each layer a MatMul, a LayerNormalization and a Gelu."""
    size = 4 if arithmetic == "fp32" else 1
    elements = macs // 1000
    weights = size * macs // 100
    matmul = NodeWork("p", "MatMul", arithmetic, macs, weights, 64, 10 * elements, elements, False)
    norm = NodeWork("n", "LayerNormalization", "none", 0, 0, 0, 10 * elements, elements, False)
    gelu = NodeWork("g", "Gelu", "none", 0, 0, 0, 10 * elements, elements, True)
    return [matmul, norm, gelu] * layers
