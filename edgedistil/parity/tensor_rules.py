"""Rules that compare one tensor of an artefact with its formula, value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.parity.formula import (
    Call,
    WeightSource,
    array_sha256,
    evaluate,
    powers,
    source_names,
)

Array = NDArray[Any]

# Relative error of a number that two programs computed in float32.
ROUNDING = 1e-6
# Half a step, and what float32 rounds in w / s and in s · q.
_HALF_STEP = 0.5 + 1e-4
# Numbers of 4 bits are 0 to 15 around 8; -8 is the largest value of a block.
_INT4_ZERO = 8
_INT4_LAST = 15
# Functions that move values without computing with them.
_EXACT = {"source", "literal", "transpose", "reshape", "concat", "slice", "take"}
# Functions that multiply a matrix by powers of two → these, to be broadcast.
_POWERS_OF: dict[str, Callable[[str], Array]] = {
    "scale_rows": lambda text: powers(text)[:, None],
    "scale_columns": lambda text: powers(text)[None, :],
}


def check_tensor(array: Array, formula: Call, source: WeightSource) -> str:
    """Returns what is wrong with a tensor; empty if it is what its formula says.

    Args:
        array: The values in the artefact.
        formula: What they are.
        source: The model.
    Raises:
        ModelError: The formula cannot be evaluated on the model.
    """
    if formula.function == "traced":
        expected_sha256 = formula.arguments[0]
        is_same = array_sha256(array) == expected_sha256
        return "" if is_same else "the table is not the one that the model computed"
    rule = _RULES.get(formula.function)
    if rule is None:
        return _check_equal(array, evaluate(formula, source), exact=formula.function in _EXACT)
    weight = evaluate(formula.arguments[0], source)
    # Every rule works element by element on the weight, so a fault shows where it is.
    return rule(array, weight, **formula.settings)


def _check_equal(array: Array, expected: Array, *, exact: bool) -> str:
    if array.shape != expected.shape:
        return _wrong_shape(array, expected)
    if exact:
        # Bit for bit, except that a signed zero is a zero.
        wrong = array != expected
        if array.dtype != expected.dtype:
            return f"it is of type {array.dtype}, expected {expected.dtype}"
    else:
        wrong = ~np.isclose(array, expected, rtol=ROUNDING, atol=0)
    return _describe(wrong, array, expected)


def _check_half(array: Array, weight: Array) -> str:
    if array.shape != weight.shape:
        return _wrong_shape(array, weight)
    if array.dtype != np.float16:
        return f"it is of type {array.dtype}, expected float16"
    wide = array.astype(np.float32)
    # The distance to the next float16, towards larger absolute values.
    unit = np.spacing(np.abs(array)).astype(np.float32)
    return _describe(~(np.abs(wide - weight) <= unit / 2), wide, weight)


def _check_int8(
    array: Array, weight: Array, *, axis: int | None, largest: int, zero: int = 0
) -> str:
    if array.shape != weight.shape:
        return _wrong_shape(array, weight)
    expected_type = np.uint8 if zero else np.int8
    if array.dtype != expected_type:
        return f"it is of type {array.dtype}, expected {np.dtype(expected_type)}"
    scale = int8_scale(weight, axis=axis, largest=largest)
    integers = array.astype(np.float32) - zero
    wrong = ~(np.abs(weight - scale * integers) <= _HALF_STEP * scale)
    return _describe(wrong | (np.abs(integers) > largest), scale * integers, weight)


def _check_int8_scale(array: Array, weight: Array, *, axis: int | None, largest: int) -> str:
    expected = int8_scale(weight, axis=axis, largest=largest).astype(np.float32)
    # Kernels take scales without the axis that was summed over.
    if array.size != expected.size:
        return _wrong_shape(array, expected)
    flat = expected.reshape(array.shape)
    return _check_equal(array, flat, exact=False)


def round_in_place(formula: Call, tensors: Mapping[str, Array]) -> None:
    """Rounds the part of a model's tensors that an artefact stores under a formula.

    Args:
        formula: Outermost, how the weight is rounded; `rounds_one_tensor`.
        tensors: Name → array of the model, contiguous; changed.
    """
    weight, factor = _without_powers(formula.arguments[0])
    (name,) = source_names(weight)
    array = tensors[name]
    # The formula moves the places of the values as it moves the values themselves.
    places = np.arange(array.size).reshape(array.shape)
    moved = evaluate(weight, WeightSource({name: places}, frozenset(), {}))
    values = array.reshape(-1)
    # A power of two changes no digit, so the rounding is the only difference.
    rounded = _ROUNDED[formula.function](values[moved] * factor, **formula.settings)
    values[moved] = rounded / factor


def _without_powers(weight: Call) -> tuple[Call, Array]:
    """A weight before it is multiplied by powers of two, and these, to be broadcast."""
    factor = np.ones((), np.float32)
    while weight.function in _POWERS_OF:
        inner, text = weight.arguments
        factor, weight = factor * _POWERS_OF[weight.function](text), inner
    return weight, factor


def rounds_one_tensor(formula: Call) -> bool:
    """Whether a rounded weight is a part of one tensor, in any order, times powers of two."""
    weight, _ = _without_powers(formula.arguments[0])
    return len(source_names(weight)) == 1 and _only_moves(weight)


def _only_moves(formula: Call) -> bool:
    nested = [argument for argument in formula.arguments if isinstance(argument, Call)]
    return formula.function in _EXACT and all(map(_only_moves, nested))


def _half_values(weight: Array) -> Array:
    return weight.astype(np.float16).astype(np.float32)


def _int8_values(weight: Array, *, axis: int | None, largest: int, zero: int = 0) -> Array:
    del zero  # it moves the stored integers, not the values
    scale = int8_scale(weight, axis=axis, largest=largest)
    return np.asarray(scale * np.clip(np.rint(weight / scale), -largest, largest), np.float32)


def _int4_values(weight: Array, *, block: int) -> Array:
    blocks_NBK = _blocks(weight, block)
    scale_NB1 = int4_scale(blocks_NBK)
    first, last = -_INT4_ZERO, _INT4_LAST - _INT4_ZERO
    steps_NBK = np.clip(np.rint(blocks_NBK / scale_NB1), first, last)
    values_NK = (steps_NBK * scale_NB1).reshape(len(weight), -1)[:, : weight.shape[1]]
    return np.asarray(values_NK, np.float32)


# Function of a rounded weight → its values in float32.
_ROUNDED: dict[str, Callable[..., Array]] = {
    "half": _half_values,
    "int8_values": _int8_values,
    "int4_values": _int4_values,
}
WEIGHT_FUNCTIONS = frozenset(_ROUNDED)


def int8_scale(weight: Array, *, axis: int | None, largest: int) -> NDArray[np.float32]:
    """max |w| / largest along an axis, which has size 1 in the result, or of all values.

    A weight of zeros has the smallest normal float32 as its scale.
    """
    top = np.abs(weight).max(axis=axis, keepdims=True)
    scale = np.maximum(top / np.float32(largest), np.finfo(np.float32).tiny)
    return np.asarray(scale, np.float32)


def _check_int4(array: Array, weight: Array, *, block: int) -> str:
    blocks_NBK = _blocks(weight, block)
    N, B, K = blocks_NBK.shape
    if array.shape != (N, B, K // 2):
        return f"it has the shape {array.shape}, expected {(N, B, K // 2)}"
    # The low half of a byte is the first of two numbers.
    numbers_NBK = np.stack([array & 15, array >> 4], axis=-1).reshape(N, B, K).astype(np.float32)
    scale_NB1 = int4_scale(blocks_NBK)
    values_NBK = scale_NB1 * (numbers_NBK - _INT4_ZERO)
    # A value opposite to the largest one may need step 8, and the last number is step 7.
    is_cut_off = (blocks_NBK / scale_NB1 > 7.5) & (numbers_NBK == _INT4_LAST)
    is_near = np.abs(blocks_NBK - values_NBK) <= _HALF_STEP * np.abs(scale_NB1)
    return _describe(~(is_near | is_cut_off), values_NBK, blocks_NBK)


def _check_int4_scale(array: Array, weight: Array, *, block: int) -> str:
    expected = int4_scale(_blocks(weight, block)).reshape(-1)
    if array.size != expected.size:
        return _wrong_shape(array, expected)
    return _check_equal(array.reshape(-1), expected, exact=False)


def int4_scale(blocks_NBK: Array) -> NDArray[np.float32]:
    """The value of largest absolute size in each block / -8, shape (N, B, 1); 1 for zeros."""
    at_NB1 = np.abs(blocks_NBK).argmax(axis=-1, keepdims=True)
    scale_NB1 = np.take_along_axis(blocks_NBK, at_NB1, axis=-1) / np.float32(-_INT4_ZERO)
    return np.where(scale_NB1 == 0, np.float32(1), scale_NB1).astype(np.float32)


def _blocks(matrix_NK: Array, block: int) -> Array:
    """A matrix in blocks of its rows, padded with zeros, shape (N, blocks, block)."""
    N, K = matrix_NK.shape
    padded = np.zeros((N, -(-K // block) * block), np.float32)
    padded[:, :K] = matrix_NK
    return padded.reshape(N, -1, block)


# Function of quantized values → its rule.
_RULES: dict[str, Callable[..., str]] = {
    "half": _check_half,
    "int8_values": _check_int8,
    "int8_scale": _check_int8_scale,
    "int4_values": _check_int4,
    "int4_scale": _check_int4_scale,
}


def _wrong_shape(array: Array, expected: Array) -> str:
    return f"it has the shape {array.shape}, expected {expected.shape}"


def _describe(wrong: Array, array: Array, expected: Array) -> str:
    """Counts wrong values and names the one that is furthest off; empty if all are right."""
    count = int(np.count_nonzero(wrong))
    if not count:
        return ""
    distance = np.where(wrong, np.abs(array.astype(np.float64) - expected), -1.0)
    # NaN compares as neither larger nor smaller, so it would hide.
    at = np.unravel_index(int(np.nan_to_num(distance, nan=np.inf).argmax()), wrong.shape)
    place = ", ".join(str(int(index)) for index in at) or "scalar"
    return (
        f"{count:,} of {wrong.size:,} values differ from the model's; at [{place}] it has"
        f" {array[at]:.6g}, expected {expected[at]:.6g}"
    )
