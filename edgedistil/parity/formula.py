"""Formulas that say how a tensor of an artefact follows from the source model.

A pass that adds an initializer records its formula, such as

    transpose(source('encoder.layer.0.attention.self.query.weight'))

and `save_graph` stores all of them in the file's metadata. `parity.certificate` evaluates each one
on the source's own tensors, so it needs no knowledge of a family's names. A formula is a Python
expression of calls, names of tensors and numbers; it is parsed, never executed.

The functions of quantized values (`int8_values`, `half`, …) have a rule instead of one right
answer, so they occur only as the outermost call; `parity.certificate` holds the rules.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError

Array = NDArray[Any]
Formula = str

# Key in an ONNX file's metadata. The value is JSON, see `Provenance`.
METADATA_KEY = "edgedistil.provenance"
# Under this key passes attach a formula to a value, and formulas of attributes to a node.
META = "provenance"
# Larger arrays are too long to be written out.
LITERAL_UP_TO_VALUES = 64
# Largest exponent of a power of two, in both directions: one letter each.
LARGEST_POWER = 12
_LETTER_OF_ZERO = ord("m")


@dataclass(frozen=True)
class WeightSource:
    """The tensors and settings of a source model.

    Attributes:
        tensors: Name → array, as the model stores it, in float32 for floats.
        used: Names of the parameters that the task's outputs depend on.
        settings: Name → number from the config, such as `eps:encoder.layer.0.output.LayerNorm`.
        activation: The config's name of the activation function of the layers.
    """

    tensors: Mapping[str, Array]
    used: frozenset[str]
    settings: Mapping[str, float]
    activation: str = ""


@dataclass(frozen=True)
class Provenance:
    """Formulas of one file.

    Attributes:
        initializers: Name of the initializer → its formula.
        attributes: `node:attribute` → its formula.
    """

    initializers: Mapping[str, Formula]
    attributes: Mapping[str, Formula]

    def to_json(self) -> str:
        """The text that is stored in the file's metadata."""
        return json.dumps(vars(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def of_json(cls, text: str) -> Provenance:
        """Reads what `to_json` wrote; raises ValueError, KeyError or TypeError for other text."""
        content = json.loads(text)
        return cls(dict(content["initializers"]), dict(content["attributes"]))


# --- writing formulas ----------------------------------------------------------------------------


def source(name: str) -> Formula:
    """The source's tensor of that name."""
    return f"source({name!r})"


def setting(name: str) -> Formula:
    """The source's setting of that name, a number."""
    return f"setting({name!r})"


def literal(array: Array) -> Formula:
    """These very values: a shape, an axis, or a number that the traced model computes with."""
    if array.size > LITERAL_UP_TO_VALUES:
        return traced(array)
    return f"literal({array.tolist()!r}, {str(array.dtype)!r})"


def traced(array: Array) -> Formula:
    """A table that the traced model computed from its config, by its digest."""
    return f"traced({array_sha256(array)!r})"


def call(function: str, *arguments: Formula | None, **settings: float | None) -> Formula | None:
    """A function of other formulas, with named numbers; None if one of them is not known."""
    if None in arguments:
        return None
    texts = [*arguments, *(f"{name}={value!r}" for name, value in settings.items())]
    return f"{function}({', '.join(map(str, texts))})"


def array_sha256(array: Array) -> str:
    """Digest of an array's dtype, shape and bytes."""
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


# --- reading formulas ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """The outermost function of a formula.

    Attributes:
        function: Its name.
        arguments: Its arguments: nested calls, texts, numbers or lists of them.
        settings: Its named numbers.
    """

    function: str
    arguments: tuple[Any, ...]
    settings: Mapping[str, Any]


def parse(formula: Formula) -> Call:
    """Parses a formula.

    Raises:
        ModelError: It is not a call of functions, texts and numbers.
    """
    try:
        # A graph from elsewhere may hold any text: a syntax tree runs nothing.
        parsed = _value(ast.parse(formula, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ModelError(f"the formula {formula[:80]!r} cannot be read: {error}") from error
    if not isinstance(parsed, Call):
        raise ModelError(f"the formula {formula[:80]!r} is not a function call")
    return parsed


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        settings = {keyword.arg or "": _value(keyword.value) for keyword in node.keywords}
        return Call(node.func.id, tuple(map(_value, node.args)), settings)
    # Python writes infinities of a list as names.
    if isinstance(node, ast.Name) and node.id in {"inf", "nan"}:
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def source_names(formula: Call) -> set[str]:
    """Names of the source's tensors that a formula reads."""
    if formula.function == "source":
        return {str(formula.arguments[0])}
    nested = [argument for argument in formula.arguments if isinstance(argument, Call)]
    return set().union(*map(source_names, nested)) if nested else set()


def evaluate(formula: Call, model: WeightSource) -> Array:
    """Computes a formula on a model's tensors.

    Raises:
        ModelError: The model has no such tensor or setting, or the formula has an unknown function
            or arguments that do not fit.
    """
    if formula.function == "source":
        return np.asarray(_look_up(model.tensors, formula.arguments[0], "tensor"))
    if formula.function == "setting":
        return np.asarray(_look_up(model.settings, formula.arguments[0], "setting"))
    if formula.function == "literal":
        values, dtype = formula.arguments
        return np.array(values, dtype)
    if formula.function not in FUNCTIONS:
        raise ModelError(f"no formula has a function '{formula.function}'")
    arguments = [_evaluate_argument(argument, model) for argument in formula.arguments]
    try:
        return np.asarray(FUNCTIONS[formula.function](*arguments, **formula.settings))
    except (TypeError, ValueError, IndexError) as error:
        raise ModelError(f"'{formula.function}' does not fit its arguments: {error}") from error


def _look_up(table: Mapping[str, Any], name: object, kind: str) -> Any:
    if name not in table:
        raise ModelError(f"the source model has no {kind} '{name}'")
    return table[str(name)]


def _evaluate_argument(argument: Any, model: WeightSource) -> Any:
    return evaluate(argument, model) if isinstance(argument, Call) else argument


def _concat(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)


def _slice(array: Array, *, start: int, stop: int, axis: int = 0) -> Array:
    return np.take(array, np.arange(start, stop), axis)


def _reshape(array: Array, shape: Sequence[int]) -> Array:
    return array.reshape(shape)


def _largest(array: Array, *, axis: int | None) -> Array:
    return np.asarray(np.abs(array).max(axis=axis))


def powers_text(exponents: Iterable[int]) -> str:
    """A letter for each exponent of 2: `m` is 0, `n` is 1."""
    return "".join(chr(_LETTER_OF_ZERO + int(exponent)) for exponent in exponents)


def powers(text: str) -> Array:
    """The powers of two that `powers_text` wrote, which multiply a float without rounding."""
    exponents = np.frombuffer(text.encode(), np.uint8).astype(np.float32) - _LETTER_OF_ZERO
    if np.abs(exponents).max(initial=0) > LARGEST_POWER:
        raise ValueError(f"powers of two are from -{LARGEST_POWER} to {LARGEST_POWER}")
    return np.exp2(exponents)


def scale_rows(array: Array, text: str) -> Array:
    """A matrix whose rows are multiplied by powers of two."""
    return np.asarray(array * powers(text)[:, None])


def scale_columns(array: Array, text: str) -> Array:
    """A matrix or a vector whose last axis is multiplied by powers of two."""
    return np.asarray(array * powers(text))


# What a pass may do with a source's tensors. A new transformation is one line here.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "transpose": np.transpose,
    "reshape": _reshape,
    "concat": _concat,
    "slice": _slice,
    "take": np.take,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "sqrt": np.sqrt,
    "largest": _largest,
    "powers": powers,
    "scale_rows": scale_rows,
    "scale_columns": scale_columns,
}
