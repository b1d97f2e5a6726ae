"""float32 weights → 8-bit integers and scales, and uint8 grids of activations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedistil.parity.formula import Formula, call

# Value of 0 in unsigned weights.
UINT8_ZERO = 128
# Smallest scale. A weight of zeros would otherwise be divided by 0.
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Int8Plan:
    """How weights become 8-bit integers.

    Attributes:
        signed: int8 around 0; otherwise uint8 around 128.
        per_channel: A scale for each output; otherwise one for the complete weight.
        reduced_range: 7 bits, for kernels that add two products in 16 bits (AVX2 and AVX-512
            without VNNI).
        narrow_weights: Names of the weights that get 7 bits in any case (`narrow_shared`).
        embeddings: Whether word and position embeddings are quantized too, row by row.
        keep_float: Linear layers that stay in float, by module or by node name.
    """

    signed: bool = True
    per_channel: bool = True
    reduced_range: bool = False
    narrow_weights: frozenset[str] = frozenset()
    embeddings: bool = True
    keep_float: Collection[str] = ()

    @property
    def largest(self) -> int:
        """Largest absolute value of a quantized weight."""
        return 63 if self.reduced_range else 127


@dataclass(frozen=True)
class Int8Formulas:
    """What the certificate compares an 8-bit weight and its scale with."""

    values: Formula | None
    scale: Formula | None


def int8_formulas(weight: Formula | None, plan: Int8Plan, *, axis: int) -> Int8Formulas:
    """Returns the formulas of what `quantize_weight` makes of a weight."""
    method = {"axis": axis if plan.per_channel else None, "largest": plan.largest}
    zero = {} if plan.signed else {"zero": UINT8_ZERO}
    return Int8Formulas(
        values=call("int8_values", weight, **method, **zero),
        scale=call("int8_scale", weight, **method),
    )


def quantize_weight(
    weight: NDArray[np.float32], plan: Int8Plan, *, axis: int
) -> tuple[NDArray[np.int8] | NDArray[np.uint8], NDArray[np.float32]]:
    """Rounds a matrix to 8-bit integers.

    Args:
        weight: A matrix, float32.
        plan: Sign, range, and number of scales.
        axis: The axis that the MatMul sums over.
    Returns:
        The integers, and the scale that they are multiplied with; `axis` has size 1 in the scale.
        A single scale has shape (1, 1).
    """
    # Symmetric, so that signed weights need no zero point.
    top = np.abs(weight).max(axis=axis if plan.per_channel else None, keepdims=True)
    scale = np.maximum(top / plan.largest, _TINY).astype(np.float32)
    integers = np.clip(np.rint(weight / scale), -plan.largest, plan.largest)
    if plan.signed:
        return integers.astype(np.int8), scale
    return (integers + UINT8_ZERO).astype(np.uint8), scale


def uint8_grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of uint8 values that cover a range and 0."""
    # Asymmetric: signed activations select a kernel that is 17 times as slow
    # (docs/log.md#symmetric-activations).
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, _TINY)
    return scale, int(np.clip(round(-low / scale), 0, 255))
