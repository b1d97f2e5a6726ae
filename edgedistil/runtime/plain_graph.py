"""Rewrites what OpenVINO cannot compute, or computes slowly, into standard operators.

It reads most of onnxruntime's own operators, but a FusedMatMul takes hundreds of times as long as a
transposition and a product, and a quantization with a scale for each row fails
(docs/log.md#openvino).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgedistil.core.errors import ModelError

# Domain of onnxruntime's own operators.
_CONTRIB = "com.microsoft"


def write_plain_graph(path: Path, output: Path) -> dict[str, int]:
    """Writes a graph whose fused operators are standard operators.

    Requires: what `edgedistil export` writes. Operators that are not in the table remain.
    Ensures: the same outputs up to the rounding of float32.

    Args:
        path: The graph, with external data next to it.
        output: Where the new graph is written, with its weights in a file next to it.
    Returns:
        Name of an operator → how many were rewritten.
    Raises:
        ModelError: The number of dimensions of a product is unknown.
    """
    model = onnx.load_model(path, format="protobuf")
    try:
        changed = rewrite(model)
    except ModelError as error:
        hint = "onnxruntime needs no rewriting: leave out --runtime"
        raise ModelError(f"{path}: {error.message}", hint=hint) from error
    # A file of protobuf ends at 2 GB.
    location = f"{output.name}_data"
    onnx.save_model(model, output, save_as_external_data=True, location=location)
    return changed


def rewrite(model: onnx.ModelProto) -> dict[str, int]:
    """Rewrites a graph in place, as `write_plain_graph` does."""
    rewriter = _Rewriter(model.graph)
    nodes: list[onnx.NodeProto] = []
    changed: dict[str, int] = {}
    for node in model.graph.node:
        expand = _EXPANSIONS.get((node.domain, node.op_type))
        if expand is None or not rewriter.needs(node):
            nodes.append(node)
            continue
        nodes += expand(rewriter, node)
        changed[node.op_type] = changed.get(node.op_type, 0) + 1
    _drop_unused_weights(model.graph, nodes)
    # In place: a repeated field of protobuf cannot be assigned.
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def _drop_unused_weights(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Removes the constants that no node reads any more and that are no output."""
    read = _names_read(nodes) | {value.name for value in graph.output}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _names_read(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of the values that nodes read, bodies of If, Loop and Scan included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for body in _bodies(node):
            names |= _names_read(body.node)
            names.update(value.name for value in body.output)
    return names


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    graphs = [item.g for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
    for item in node.attribute:
        graphs.extend(item.graphs)
    return graphs


# --- building nodes ------------------------------------------------------------------------------


class _Rewriter:
    """The graph that is rewritten, and constants that are added to it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.node for name in node.output}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._inputs = {value.name: value for value in graph.input}

    def needs(self, node: onnx.NodeProto) -> bool:
        """Whether a node with an entry in the table has to be rewritten."""
        # Another exporter's node may be malformed: the runtime that reads it says so.
        if len(node.input) < _FEWEST_INPUTS[node.op_type] or not node.output:
            return False
        if node.domain == _CONTRIB:
            return True
        # With constant scales, the standard operators are computed well.
        computed = node.input[1] not in self._weights and "axis" in _attributes(node)
        return computed and self.fills(node.input[2])

    def fills(self, name: str) -> bool:
        """Whether a value repeats one constant."""
        node = self._producers.get(name)
        return node is not None and node.op_type == "ConstantOfShape"

    def fill_value(self, name: str) -> NDArray[Any]:
        """Returns the constant that a value repeats, as a scalar."""
        tensor = _attributes(self._producers[name])["value"]
        return numpy_helper.to_array(tensor).reshape(())

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Adds a constant, once for each name, and returns its name."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(array, name)
            self._graph.initializer.append(self._weights[name])
        return name

    def scalar(self, value: float) -> str:
        """Adds a float32 constant and returns its name."""
        return self.constant(f"plain/{value!r}", np.array(value, np.float32))

    def is_matrix(self, name: str) -> bool:
        """Whether a value is a constant of two dimensions."""
        return name in self._weights and len(self._weights[name].dims) == 2

    def transposed(self, name: str) -> str:
        """Adds the transpose of a constant matrix, once, and returns its name."""
        array = numpy_helper.to_array(self._weights[name])
        return self.constant(f"{name}/turned", np.ascontiguousarray(array.T))

    def rank(self, name: str) -> int:
        """Returns the number of dimensions of a value; raises ModelError if it is unknown."""
        # Values that keep the dimensions of their first input are followed to one that is known, in
        # a corrupt graph no further than it has nodes.
        for _ in range(len(self._producers) + 1):
            if name in self._weights:
                return len(self._weights[name].dims)
            if name in self._inputs:
                return len(self._inputs[name].type.tensor_type.shape.dim)
            node = self._producers.get(name)
            if node is None:
                raise ModelError(f"the number of dimensions of '{name}' is unknown")
            settings = _attributes(node)
            if node.op_type == "Reshape" and node.input[1] in self._weights:
                return int(self._weights[node.input[1]].dims[0])
            if node.op_type == "Transpose" and "perm" in settings:
                return len(settings["perm"])
            if node.op_type not in _KEEPS_RANK or not node.input:
                raise ModelError(
                    f"the number of dimensions of '{name}' is unknown: {node.op_type} computes it"
                )
            name = node.input[0]
        raise ModelError(f"the number of dimensions of '{name}' is unknown: it depends on itself")


# Fewest inputs of an operator that is rewritten.
_FEWEST_INPUTS = {
    "DynamicQuantizeMatMul": 3,
    "FusedMatMul": 2,
    "Gelu": 1,
    "MatMulIntegerToFloat": 4,
    "QuantizeLinear": 3,
    "QuickGelu": 1,
}
# Operators whose output has the dimensions of their first input.
_KEEPS_RANK = {
    "Cast",
    "Clip",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Gelu",
    "LayerNormalization",
    "QuantizeLinear",
    "QuickGelu",
    "RotaryEmbedding",
    "Softmax",
    "Tanh",
}


def _inputs(node: onnx.NodeProto, count: int) -> list[str]:
    """Names of a node's inputs; empty for those that it lacks."""
    names = [str(name) for name in node.input]
    return names + [""] * (count - len(names))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


class _Chain:
    """Nodes that take the place of one; the last one has its output."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node
        self.nodes: list[onnx.NodeProto] = []

    def add(
        self, op_type: str, inputs: Sequence[str], name: str, *, outputs: int = 1, **settings: Any
    ) -> list[str]:
        """Adds a node and returns the names of its outputs."""
        base = f"{self._node.output[0]}/plain/{name}"
        names = [base if number == 0 else f"{base}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=base, **settings))
        return names

    def end(self) -> list[onnx.NodeProto]:
        """Returns the nodes, the last of which computes the output of the one replaced."""
        self.nodes[-1].output[0] = self._node.output[0]
        self.nodes[-1].name = self._node.name or self.nodes[-1].name
        return self.nodes


# --- operators -----------------------------------------------------------------------------------


def _fused_matmul(graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """FusedMatMul → Transpose, MatMul, Mul."""
    settings = _attributes(node)
    chain = _Chain(node)
    left, right = (
        _turned(graph, chain, value, settings, side)
        for value, side in zip(node.input[:2], "AB", strict=True)
    )
    (product,) = chain.add("MatMul", [left, right], "product")
    alpha = float(settings.get("alpha", 1.0))
    # The factor comes last, as onnxruntime's kernel applies it.
    if alpha != 1.0:
        chain.add("Mul", [product, graph.scalar(alpha)], "scaled")
    return chain.end()


def _turned(
    graph: _Rewriter, chain: _Chain, value: str, settings: Mapping[str, Any], side: str
) -> str:
    """Adds the transposition that FusedMatMul's attributes ask for, if any."""
    rows = bool(settings.get(f"trans{side}"))
    batch = bool(settings.get(f"transBatch{side}"))
    if not (rows or batch):
        return value
    # NNCF quantizes a constant, and not what a Transpose makes of it.
    if rows and not batch and graph.is_matrix(value):
        return graph.transposed(value)
    order = list(range(graph.rank(value)))
    # The first dimension goes behind the batch dimensions.
    if batch:
        order = [*order[1:-1], order[0], order[-1]]
    # Then rows and columns change places.
    if rows:
        order[-2:] = order[:-3:-1]
    return chain.add("Transpose", [value], f"turned{side}", perm=order)[0]


def _gelu(graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Gelu → x · (1 + erf(x / √2)) · ½."""
    chain = _Chain(node)
    x = node.input[0]
    # The form that runtimes recognize and fuse again.
    (quotient,) = chain.add("Div", [x, graph.scalar(math.sqrt(2.0))], "quotient")
    (erf,) = chain.add("Erf", [quotient], "erf")
    (sum_,) = chain.add("Add", [erf, graph.scalar(1.0)], "sum")
    (product,) = chain.add("Mul", [x, sum_], "product")
    chain.add("Mul", [product, graph.scalar(0.5)], "half")
    return chain.end()


def _quick_gelu(graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """QuickGelu → x · sigmoid(α x)."""
    chain = _Chain(node)
    argument = node.input[0]
    alpha = float(_attributes(node).get("alpha", 1.702))
    if alpha != 1.0:
        (argument,) = chain.add("Mul", [argument, graph.scalar(alpha)], "argument")
    (share,) = chain.add("Sigmoid", [argument], "sigmoid")
    chain.add("Mul", [node.input[0], share], "product")
    return chain.end()


def _integer_matmul(_graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """MatMulIntegerToFloat → DequantizeLinear of both sides, MatMul, Add."""
    values, weight, scale, weight_scale, zero, weight_zero, bias = _inputs(node, 7)
    chain = _Chain(node)
    _integer_product(chain, [values, scale, zero], [weight, weight_scale, weight_zero], bias)
    return chain.end()


def _dynamic_matmul(_graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """DynamicQuantizeMatMul → DynamicQuantizeLinear, then as MatMulIntegerToFloat."""
    x, weight, weight_scale, weight_zero, bias = _inputs(node, 5)
    chain = _Chain(node)
    quantized = chain.add("DynamicQuantizeLinear", [x], "quantized", outputs=3)
    _integer_product(chain, quantized, [weight, weight_scale, weight_zero], bias)
    return chain.end()


def _integer_product(
    chain: _Chain, values: Sequence[str], weight: Sequence[str], bias: str
) -> None:
    """Adds the product of integers as one of dequantized values, which runtimes recognize."""
    (left,) = chain.add("DequantizeLinear", _present(values), "values")
    # Equal to the sum of integers times both scales, up to the rounding of float32.
    # Weights are (K, N) with a scale for each of the N outputs.
    (right,) = chain.add("DequantizeLinear", _present(weight), "weight", axis=1)
    (product,) = chain.add("MatMul", [left, right], "product")
    if bias:
        chain.add("Add", [product, bias], "sum")


def _quantize_rows(graph: _Rewriter, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """QuantizeLinear with computed scales along an axis → Div, QuantizeLinear with scale 1."""
    x, scale, zero_point = node.input
    chain = _Chain(node)
    axis = int(_attributes(node)["axis"])
    # Dimensions of the values behind the axis, in which the scales are repeated.
    behind = -axis - 1 if axis < 0 else graph.rank(x) - axis - 1
    if behind > 0:
        axes = graph.constant(f"plain/axes_{behind}", np.arange(1, behind + 1))
        (scale,) = chain.add("Unsqueeze", [scale, axes], "scale")
    # Not a product with 1 / scale, which rounds twice.
    (quotient,) = chain.add("Div", [x, scale], "quotient")
    # Constants are what OpenVINO computes in int8; a Cast is one of its slowest operators.
    zero = graph.constant(f"{zero_point}/plain", graph.fill_value(zero_point))
    chain.add("QuantizeLinear", [quotient, graph.scalar(1.0), zero], "values")
    return chain.end()


def _present(names: Sequence[str]) -> list[str]:
    """Leaves out absent inputs at the end."""
    return [name for name in names if name]


_Expansion = Callable[[_Rewriter, onnx.NodeProto], list[onnx.NodeProto]]
# Domain and name of an operator → what takes its place.
_EXPANSIONS: dict[tuple[str, str], _Expansion] = {
    (_CONTRIB, "DynamicQuantizeMatMul"): _dynamic_matmul,
    (_CONTRIB, "FusedMatMul"): _fused_matmul,
    (_CONTRIB, "Gelu"): _gelu,
    (_CONTRIB, "MatMulIntegerToFloat"): _integer_matmul,
    (_CONTRIB, "QuickGelu"): _quick_gelu,
    ("", "QuantizeLinear"): _quantize_rows,
}
