"""Work of every node of a graph, counted as onnxruntime executes it.

The graph runs once per sequence length on this host under onnxruntime's profiler
(`profiling/counting.py`), which reports the operator and the shapes of each executed node: fused,
in order, with concrete shapes. Only counts (multiply-adds, bytes, elements) are taken from that run
and never a time, because times belong to this host. Why a run and not shape inference:
docs/decisions.md#counts-come-from-a-run-not-from-shape-inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

Arithmetic = Literal["fp32", "int8", "none"]
# (element type, shape) of each input or output of a node.
TypedShapes = list[tuple[str, list[int]]]

_ELEMENT_BYTES = {
    "float": 4,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "int64": 8,
    "int32": 4,
    "bool": 1,
    "double": 8,
}
_FLOAT_MATMULS = {"MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "FusedGemm"}
_INTEGER_MATMULS = {
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "QGemm",
}
_FLOAT_ATTENTION = {"Attention", "MultiHeadAttention"}
_INTEGER_ATTENTION = {"QAttention"}
_ATTENTION = _FLOAT_ATTENTION | _INTEGER_ATTENTION
_INTEGER = _INTEGER_MATMULS | _INTEGER_ATTENTION
_WITH_MACS = _FLOAT_MATMULS | _INTEGER_MATMULS | _ATTENTION
# Transcendental functions: several times the cycles per element of an addition.
_HEAVY = {"Softmax", "Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Tanh", "Exp", "Sigmoid"}
# Operators that move bytes and compute nothing.
_COPIES = {
    "Gather",
    "Transpose",
    "Concat",
    "Slice",
    "Split",
    "Expand",
    "GatherElements",
    "Where",
    "Cast",
}
# Operators that only change a shape, for which onnxruntime reuses the buffer, and containers whose
# inner nodes are counted themselves.
_FREE = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Shape", "Scan"}


@dataclass(frozen=True)
class NodeWork:
    """Work of one node in one call.

    Attributes:
        name: Name of the node in the optimized graph.
        op: Operator type.
        arithmetic: Precision of its multiply-adds; "none" for other operators.
        macs: Multiply-adds.
        weight_bytes: Bytes of weights it reads; 0 when both operands are activations.
        rows: Rows of its output, over all leading axes; 0 without multiply-adds.
        moved_bytes: Bytes of activations read and written.
        elements: Output elements it computes.
        heavy: Whether it evaluates a transcendental function per element.
    """

    name: str
    op: str
    arithmetic: Arithmetic
    macs: int
    weight_bytes: int
    rows: int
    moved_bytes: int
    elements: int
    heavy: bool


def node_work(node: Mapping[str, Any]) -> NodeWork:
    """Counts the work of one executed node.

    Args:
        node: `node`, `op`, and the types and shapes of its `inputs` and `outputs`, as the profiler
            of onnxruntime reports them: `[{"float": [1, 7, 64]}, ...]`.
    """
    name, op = node["node"], node["op"]
    inputs, outputs = _typed_shapes(node["inputs"]), _typed_shapes(node["outputs"])
    if op in _WITH_MACS:
        return _matmul_work(name, op, inputs, outputs)
    elements = 0
    if op not in _COPIES | _FREE:
        elements = _total_elements(outputs)
    return NodeWork(
        name=name,
        op=op,
        arithmetic="none",
        macs=0,
        weight_bytes=0,
        rows=0,
        moved_bytes=_moved_bytes(op, inputs, outputs),
        elements=elements,
        heavy=op in _HEAVY,
    )


def at_batch(one: Sequence[NodeWork], two: Sequence[NodeWork], batch: int) -> list[NodeWork]:
    """Returns the nodes of a call with any number of texts, from calls with one and with two.

    Every count is a constant (weights, shapes) and a part for each text, so that two calls have
    all of it.

    Args:
        one, two: Nodes of calls with one text and with two of the same length.
        batch: Texts of the call.
    Raises:
        ValueError: The two calls have other nodes.
    """
    if [node.op for node in one] != [node.op for node in two]:
        raise ValueError("the graph runs other nodes with two texts than with one")
    nodes = []
    for first, second in zip(one, two, strict=True):
        counts = {}
        for name in ("macs", "rows", "moved_bytes", "elements"):
            single, double = getattr(first, name), getattr(second, name)
            counts[name] = single + (batch - 1) * (double - single)
        nodes.append(replace(first, **counts))
    return nodes


def _moved_bytes(op: str, inputs: TypedShapes, outputs: TypedShapes) -> int:
    """Bytes that a node without multiply-adds reads and writes."""
    if op in _FREE:
        return 0
    if op == "Gather" and inputs and outputs:
        # Reads and writes the rows it gathers, not the complete embedding matrix.
        return 2 * _total_bytes(outputs)
    return _total_bytes([*inputs, *outputs])


def _matmul_work(name: str, op: str, inputs: TypedShapes, outputs: TypedShapes) -> NodeWork:
    """Counts the work of a node with multiply-adds."""
    if op in _ATTENTION:
        macs, weights = _attention_counts(op, inputs, outputs)
    else:
        macs, weights = _matmul_counts(inputs, outputs)
    output_shape = outputs[0][1] if outputs else []
    return NodeWork(
        name=name,
        op=op,
        arithmetic="int8" if op in _INTEGER else "fp32",
        macs=macs,
        weight_bytes=int(weights * _bytes_per_weight(op)),
        rows=prod(output_shape[:-1]),
        moved_bytes=_total_bytes([*inputs, *outputs]),
        elements=_total_elements(outputs),
        heavy=False,
    )


def _bytes_per_weight(op: str) -> float:
    """Bytes of one stored weight."""
    if op in _INTEGER:
        return 1
    if op == "MatMulNBits":
        return 0.5  # this project writes 4 bits per weight
    return 4


def _typed_shapes(entries: Sequence[Mapping[str, list[int]]]) -> TypedShapes:
    """Flattens the profiler's list of one-entry {element type: shape} objects."""
    return [(kind, shape) for entry in entries for kind, shape in entry.items()]


def _total_bytes(tensors: TypedShapes) -> int:
    return sum(_ELEMENT_BYTES.get(kind, 4) * prod(shape) for kind, shape in tensors)


def _total_elements(tensors: TypedShapes) -> int:
    return sum(prod(shape) for _, shape in tensors)


def _matmul_counts(inputs: TypedShapes, outputs: TypedShapes) -> tuple[int, int]:
    """Multiply-adds, and elements of the weights: 0 when both operands are activations.

    A weight that was packed when the session was created is missing from the event's inputs.
    """
    inner = inputs[0][1][-1]
    output_shape = outputs[0][1]
    activations = [shape for kind, shape in inputs[1:] if len(shape) > 2 and kind != "int64"]
    weights = 0 if activations else inner * output_shape[-1]
    return prod(output_shape) * inner, weights


def _attention_counts(op: str, inputs: TypedShapes, outputs: TypedShapes) -> tuple[int, int]:
    """Multiply-adds, and elements of the weights.

    Attention and QAttention project Q, K and V themselves; MultiHeadAttention takes them projected.
    """
    batch, length, width = inputs[0][1][:3]
    hidden = outputs[0][1][-1]
    attention_macs = 2 * batch * length * length * hidden
    if op == "MultiHeadAttention":
        return attention_macs, 0
    projection_macs = batch * length * width * 3 * hidden
    return attention_macs + projection_macs, 3 * width * hidden
