"""Scales of 8-bit inputs that do not depend on other tokens: fixed, or one for each row.

One scale for a complete call, as dynamic quantization has it, changes every output when a neighbour
or padding changes, and is the largest part of int8's error. A fixed scale costs nothing in a call.
A few channels of LayerNorm's outputs are large, which would make it coarse; powers of two move them
into the weights exactly (SmoothQuant's algebra). A GELU's outputs have no bound: each row gets a
scale of its own, as wherever no fixed scale is close (docs/log.md#int8-without-neighbours).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.export.calibrate import RowSample
from edgedistil.export.int8_arithmetic import Int8Plan, quantize_weight, uint8_grid
from edgedistil.export.linears import Linear
from edgedistil.export.passes.edit import produced_by
from edgedistil.export.quantize import group_by_input
from edgedistil.parity.formula import LARGEST_POWER

Array = NDArray[np.float32]

# Share of a channel's range that moves into the weights; the best one is selected for each input.
_MIGRATIONS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Values of other text go beyond those of the calibration's by a few percent.
_HEADROOM = 1.1
# Moving a range costs a pass over the inputs, so it has to be this much closer.
_MIGRATION_GAIN = 1.1
# A row's own scale costs two passes over the outputs, so it has to be this much closer.
_ROW_GAIN = 2.5
# The same passes over all tokens of a vocabulary take half as long as the product itself.
_VOCABULARY_ROW_GAIN = 4.0
# Rows that candidates are compared on; a vocabulary's product is 30 times as large.
_COMPARED_ROWS = 256
_COMPARED_ROWS_OF_VOCABULARY = 32
# Smallest value of the exact GELU, rounded down.
GELU_MINIMUM = -0.17
# Steps below zero for a GELU's output: its negative values are small, but not nothing.
_GELU_ZERO = 16
_MIDDLE = 128
_LAST_LEVEL = 255
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class FixedScale:
    """The same scale for all rows of all calls.

    Attributes:
        low: Smallest value that is represented, after the division by the powers.
        high: Largest value.
        powers: Exponent of the power of two that each channel is divided by, and its row of the
            weight multiplied by; None if nothing moves.
    """

    low: float
    high: float
    powers: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class RowScale:
    """A scale for each row, from the row's own extremes.

    Attributes:
        zero: The integer of the value 0.
        smallest: Smallest scale; with a bound below it also serves the negative values.
        bounded_below: Whether the values' lower bound is known, so that nothing searches for it.
    """

    zero: int = _MIDDLE
    smallest: float = _TINY
    bounded_below: bool = False

    @property
    def above(self) -> float:
        """Factor from a row's largest value to its scale."""
        return 1 / (_LAST_LEVEL - self.zero)

    @property
    def below(self) -> float:
        """Factor from a row's smallest value to its scale."""
        return -1 / self.zero


InputScale = FixedScale | RowScale


def row_scale_of(x: ir.Value) -> RowScale:
    """Returns how the rows of a value are scaled: with more steps above zero behind a GELU."""
    if produced_by(x, "Gelu") is not None:
        return RowScale(_GELU_ZERO, GELU_MINIMUM / -_GELU_ZERO, bounded_below=True)
    return RowScale()


def select_scales(
    linears: Sequence[Linear], samples: Mapping[str, RowSample], plan: Int8Plan
) -> dict[str, InputScale]:
    """Selects the scale of every input of linear layers, by the error of their products.

    Args:
        linears: The linear layers that are quantized.
        samples: Name of an input → its values on calibration text.
        plan: How the weights are quantized.
    Returns:
        Name of an input → its scale.
    """
    counts: dict[ir.Value, int] = {}
    for linear in linears:
        counts[linear.weight] = counts.get(linear.weight, 0) + 1
    scales: dict[str, InputScale] = {}
    for x, readers in group_by_input(linears).items():
        # A weight with several readers is stored once, so no single input can change it.
        movable = all(counts[linear.weight] == 1 and not linear.tied for linear in readers)
        choice = _Choice(x, readers, samples[x.name or ""], plan)
        scales[x.name or ""] = choice.best(movable=movable)
    return scales


class _Choice:
    """Candidates for the scale of one input."""

    def __init__(
        self, x: ir.Value, readers: Sequence[Linear], sample: RowSample, plan: Int8Plan
    ) -> None:
        self._x, self._sample, self._plan = x, sample, plan
        self._of_vocabulary = any(linear.tied for linear in readers)
        count = _COMPARED_ROWS_OF_VOCABULARY if self._of_vocabulary else _COMPARED_ROWS
        self._rows_RK = sample.rows_RK[:count]
        self._weight_KN = np.concatenate([linear.matrix() for linear in readers], axis=1)
        self._exact_RN = self._rows_RK @ self._weight_KN

    def best(self, *, movable: bool) -> InputScale:
        """Returns the fixed scale of smallest error, or a scale for each row if that is closer."""
        by_row = row_scale_of(self._x)
        # Values without an upper bound: other text may go far beyond the calibration's.
        if by_row.bounded_below:
            return by_row
        plain = self._fixed(None)
        error, nearest = self._error(plain), plain
        if movable:
            moved = [self._fixed(self._powers(share)) for share in _MIGRATIONS]
            errors = [self._error(scale) for scale in moved]
            best = int(np.argmin(errors))
            if errors[best] * _MIGRATION_GAIN < error:
                error, nearest = errors[best], moved[best]
        gain = _VOCABULARY_ROW_GAIN if self._of_vocabulary else _ROW_GAIN
        return nearest if error <= gain * self._error(by_row) else by_row

    def _powers(self, share: float) -> NDArray[np.int64]:
        top_K = np.maximum(self._sample.high_K, -self._sample.low_K)
        weight_K = np.abs(self._weight_KN).max(axis=1)
        ratio_K = share * _log2(top_K) - (1 - share) * _log2(weight_K)
        powers_K = np.rint(ratio_K - np.median(ratio_K)).astype(np.int64)
        return np.asarray(np.clip(powers_K, -LARGEST_POWER, LARGEST_POWER))

    def _fixed(self, powers: NDArray[np.int64] | None) -> FixedScale:
        divisor_K = np.float32(1) if powers is None else np.exp2(powers)
        low = _HEADROOM * float((self._sample.low_K / divisor_K).min())
        high = _HEADROOM * float((self._sample.high_K / divisor_K).max())
        return FixedScale(low, high, powers)

    def _error(self, scale: InputScale) -> float:
        """Size of the error of the product in 8 bits."""
        powers = scale.powers if isinstance(scale, FixedScale) else None
        factor_K = np.ones(self._weight_KN.shape[0], np.float32)
        if powers is not None:
            factor_K = np.exp2(powers).astype(np.float32)
        integers_KN, scale_1N = quantize_weight(
            self._weight_KN * factor_K[:, None], self._signed_plan(), axis=0
        )
        rounded_RK = _ROUNDINGS[type(scale)](self._rows_RK / factor_K, scale)
        product_RN = (rounded_RK @ integers_KN.astype(np.float32)) * scale_1N
        return float(np.linalg.norm(product_RN - self._exact_RN))

    def _signed_plan(self) -> Int8Plan:
        # Unsigned weights are the same integers around another zero.
        return Int8Plan(per_channel=self._plan.per_channel, reduced_range=self._plan.reduced_range)


def _log2(values: Array) -> Array:
    """log2 of absolute values, finite for a channel of zeros."""
    return np.log2(np.maximum(values, np.float32(1e-6)))


def round_fixed(x: Array, scale: FixedScale) -> Array:
    """Rounds values to the levels of a fixed scale."""
    step, zero = uint8_grid(scale.low, scale.high)
    return _on_grid(x, np.float32(step), zero)


def round_rows(x: Array, scale: RowScale) -> Array:
    """Rounds each row to the levels of its own scale."""
    step = np.maximum(x.max(axis=-1, keepdims=True) * np.float32(scale.above), scale.smallest)
    if not scale.bounded_below:
        step = np.maximum(step, x.min(axis=-1, keepdims=True) * np.float32(scale.below))
    return _on_grid(x, step.astype(np.float32), scale.zero)


def _on_grid(x: Array, step: Array | np.float32, zero: int) -> Array:
    levels = np.clip(np.rint(x / step) + zero, 0, _LAST_LEVEL)
    return np.asarray((levels - zero) * step, np.float32)


_ROUNDINGS: dict[type, Callable[..., Array]] = {FixedScale: round_fixed, RowScale: round_rows}
