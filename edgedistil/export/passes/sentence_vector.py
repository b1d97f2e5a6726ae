"""Appends pooling and the layers after it to an encoder's graph, as a second output."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step
from edgedistil.core.task import SENTENCE_OUTPUT
from edgedistil.export.passes.edit import add_initializer, graph_input, record_attribute
from edgedistil.export.settings import epsilon_name
from edgedistil.parity.formula import setting, source

# Smallest norm that a vector is divided by, and a state below every real one, as in
# edgedistil/models/sentence_encoder.py.
_MIN_NORM = 1e-12
_PADDING_STATE = -1e9
# Epsilon of torch's LayerNorm, which sentence-transformers leaves as it is.
_EPSILON = 1e-5
# Names of the nodes and small constants start with it.
_PREFIX = "/sentence"
# Prefix of the names of the weights after the pooling.
HEAD = "sentence_head"


def append_sentence_vector(
    model: ir.Model, vector: SentenceVector, weights: Mapping[str, NDArray[Any]]
) -> None:
    """Adds the output `sentence_embedding`, shape (batch, dimension), to a graph.

    Args:
        model: Graph of an encoder with the input `attention_mask` and the output
            `last_hidden_state`; changed in place.
        vector: How the states become a vector.
        weights: Name in `SentenceEncoder.head` → array, for dense layers and normalizations.
    """
    graph = model.graph
    states = next(value for value in graph.outputs if value.name == "last_hidden_state")
    mask = graph_input(graph, "attention_mask")
    assert mask is not None
    append = _Appender(graph)
    parts = [_POOLERS[mode](append, states, mask) for mode in vector.pooling]
    pooled = parts[0]
    if len(parts) > 1:
        pooled = append("Concat", parts, "concat", axis=-1)
    result = _append_steps(append, pooled, vector.steps, weights)
    if vector.cut_from is not None:
        first = append.constant("first", np.array([0], np.int64))
        end = append.constant("dimension", np.array([vector.dimension], np.int64))
        axis = append.constant("last_axis", np.array([-1], np.int64))
        result = append("Slice", [result, first, end, axis], "cut")
        result = _normalized(append, result, "cut_norm")
    _set_output(append, result, vector.dimension)


class _Appender:
    """Appends nodes with readable names to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph

    def __call__(
        self, op_type: str, inputs: Sequence[ir.Value], name: str, **attributes: Any
    ) -> ir.Value:
        """Appends a node and returns its output."""
        node = ir.node(op_type, inputs, attributes=attributes, name=f"{_PREFIX}/{name}")
        (output,) = node.outputs
        output.name = f"{_PREFIX}/{name}/output"
        self._graph.append(node)
        return output

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Returns the constant of that name, added if the graph does not have it yet."""
        return add_initializer(self._graph, f"{_PREFIX}/{name}", array)

    def weight(self, name: str, weights: Mapping[str, NDArray[Any]]) -> ir.Value:
        """Returns a weight of the head as a constant, with its formula."""
        full_name = f"{HEAD}.{name}"
        return add_initializer(self._graph, full_name, weights[name], source(full_name))

    def number(self, name: str, value: float) -> ir.Value:
        """Returns a float32 scalar as a constant."""
        return self.constant(name, np.array(value, np.float32))

    def set_output(self, value: ir.Value) -> None:
        """Makes a value an output of the graph."""
        self._graph.outputs.append(value)


def _set_output(append: _Appender, result: ir.Value, dimension: int) -> None:
    # A copy: the value may also be read elsewhere, and outputs have their own names.
    output = append("Identity", [result], "output")
    output.name = SENTENCE_OUTPUT
    output.type = ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape(["batch", dimension])
    append.set_output(output)


# --- pooling -------------------------------------------------------------------------------------


def _float_mask(append: _Appender, mask: ir.Value, name: str) -> ir.Value:
    return append("Cast", [mask], f"{name}/mask", to=ir.DataType.FLOAT)


def _weighted_sum(append: _Appender, states: ir.Value, weights_BL: ir.Value, name: str) -> ir.Value:
    """Σ weight · state as a product (1, L) · (L, D), which needs no copy of the states."""
    axis = append.constant("axis_1", np.array([1], np.int64))
    row = append("Unsqueeze", [weights_BL, axis], f"{name}/row")
    product = append("MatMul", [row, states], f"{name}/sum")
    return append("Squeeze", [product, axis], f"{name}/vector")


def _mean_of(append: _Appender, states: ir.Value, weights_BL: ir.Value, name: str) -> ir.Value:
    axis = append.constant("axis_1", np.array([1], np.int64))
    total = append("ReduceSum", [weights_BL, axis], f"{name}/total", keepdims=1)
    # A text without tokens has the vector 0; all others have a total of at least 1.
    total = append("Max", [total, append.number("one", 1.0)], f"{name}/at_least_one")
    shares = append("Div", [weights_BL, total], f"{name}/shares")
    return _weighted_sum(append, states, shares, name)


def _mean(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    return _mean_of(append, states, _float_mask(append, mask, "mean"), "mean")


def _mean_sqrt_length(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    name = "mean_sqrt_len"
    weights = _float_mask(append, mask, name)
    axis = append.constant("axis_1", np.array([1], np.int64))
    total = append("ReduceSum", [weights, axis], f"{name}/total", keepdims=1)
    total = append("Max", [total, append.number("one", 1.0)], f"{name}/at_least_one")
    root = append("Sqrt", [total], f"{name}/root")
    return _weighted_sum(append, states, append("Div", [weights, root], f"{name}/shares"), name)


def _weighted_mean(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    name = "weightedmean"
    weights = _float_mask(append, mask, name)
    axis = append.constant("axis_1_scalar", np.array(1, np.int64))
    # Positions from 1, as a running sum of ones over the length.
    ones = append("Sub", [weights, weights], f"{name}/zeros")
    ones = append("Add", [ones, append.number("one", 1.0)], f"{name}/ones")
    positions = append("CumSum", [ones, axis], f"{name}/positions")
    return _mean_of(append, states, append("Mul", [weights, positions], f"{name}/weights"), name)


def _first(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    del mask  # the first token is never padding
    zero = append.constant("index_0", np.array(0, np.int64))
    return append("Gather", [states, zero], "cls/vector", axis=1)


def _last(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    # The last index at which the mask is largest, so on whichever side the padding is.
    index = append("ArgMax", [mask], "lasttoken/index", axis=1, keepdims=1, select_last_index=1)
    return append("GatherND", [states, index], "lasttoken/vector", batch_dims=1)


def _maximum(append: _Appender, states: ir.Value, mask: ir.Value) -> ir.Value:
    axis = append.constant("axis_2", np.array([2], np.int64))
    attended = append("Cast", [mask], "max/attended", to=ir.DataType.BOOL)
    attended = append("Unsqueeze", [attended, axis], "max/column")
    low = append.number("padding", _PADDING_STATE)
    values = append("Where", [attended, states, low], "max/values")
    return append("ReduceMax", [values], "max/vector", axes=[1], keepdims=0)


_POOLERS: dict[Pooling, Callable[[_Appender, ir.Value, ir.Value], ir.Value]] = {
    "cls": _first,
    "max": _maximum,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


# --- layers after the pooling --------------------------------------------------------------------


def _append_steps(
    append: _Appender,
    pooled: ir.Value,
    steps: Sequence[Step],
    weights: Mapping[str, NDArray[Any]],
) -> ir.Value:
    """Appends the layers; returns the result."""
    result = pooled
    # Numbers of the modules in `SentenceEncoder.head`: a dense layer is two of them.
    module = 0
    for number, step in enumerate(steps):
        name = f"{number}_{step.kind}"
        if step.kind == "normalize":
            result = _normalized(append, result, name)
        elif step.kind == "layer_norm":
            result = _layer_norm(append, result, weights, name, module)
        else:
            result = _dense(append, result, step, weights, name, module)
            module += 1
        module += 1
    return result


def _layer_norm(
    append: _Appender,
    value: ir.Value,
    weights: Mapping[str, NDArray[Any]],
    name: str,
    module: int,
) -> ir.Value:
    scale, bias = (append.weight(f"{module}.{part}", weights) for part in ("weight", "bias"))
    result = append("LayerNormalization", [value, scale, bias], name, axis=-1, epsilon=_EPSILON)
    node = result.producer()
    assert node is not None
    record_attribute(node, "epsilon", setting(epsilon_name(f"{HEAD}.{module}")))
    return result


def _dense(
    append: _Appender,
    value: ir.Value,
    step: Step,
    weights: Mapping[str, NDArray[Any]],
    name: str,
    module: int,
) -> ir.Value:
    # Stored as PyTorch has it, (outputs, inputs); Gemm reads it transposed.
    inputs = [value, append.weight(f"{module}.weight", weights)]
    if step.has_bias:
        inputs.append(append.weight(f"{module}.bias", weights))
    result = append("Gemm", inputs, f"{name}/product", transB=1)
    return _FUNCTIONS[step.activation](append, result, f"{name}/{step.activation}")


def _normalized(append: _Appender, value: ir.Value, name: str) -> ir.Value:
    norm = append("ReduceL2", [value], f"{name}/norm", axes=[-1], keepdims=1)
    norm = append("Max", [norm, append.number("min_norm", _MIN_NORM)], f"{name}/at_least")
    return append("Div", [value, norm], f"{name}/vector")


def _identity(append: _Appender, value: ir.Value, name: str) -> ir.Value:
    del append, name  # nothing to compute
    return value


def _tanh(append: _Appender, value: ir.Value, name: str) -> ir.Value:
    return append("Tanh", [value], name)


def _relu(append: _Appender, value: ir.Value, name: str) -> ir.Value:
    return append("Relu", [value], name)


def _gelu(append: _Appender, value: ir.Value, name: str) -> ir.Value:
    """x/2 · (1 + erf(x/√2))."""
    scaled = append("Mul", [value, append.number("root_half", math.sqrt(0.5))], f"{name}/scaled")
    erf = append("Erf", [scaled], f"{name}/erf")
    factor = append("Add", [erf, append.number("one", 1.0)], f"{name}/factor")
    half = append("Mul", [value, append.number("half", 0.5)], f"{name}/half")
    return append("Mul", [half, factor], name)


_FUNCTIONS: dict[str, Callable[[_Appender, ir.Value, str], ir.Value]] = {
    "identity": _identity,
    "tanh": _tanh,
    "relu": _relu,
    "gelu": _gelu,
}
