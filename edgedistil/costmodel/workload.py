"""Work of every node of a graph, counted as onnxruntime executes it.

The graph runs once per sequence length on this host under onnxruntime's profiler, which reports the
operator and the shapes of each executed node: fused, in order, with concrete shapes. Only counts
(multiply-adds, bytes, elements) are taken from that run and never a time, because times belong to
this host. Why a run and not shape inference:
docs/decisions.md#counts-come-from-a-run-not-from-shape-inference.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.core.session import PROVIDERS, SessionOptions

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
# Operators that only change a shape: onnxruntime reuses the buffer.
_FREE = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Shape"}
_EVENT_SUFFIX = "_kernel_time"


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


def count_work(
    path: Path, inputs: Sequence[str], lengths: Sequence[int]
) -> dict[int, list[NodeWork]]:
    """Counts the work of every executed node at batch 1, for each sequence length.

    Args:
        path: The ONNX graph.
        inputs: Names of the graph's inputs, all of shape (1, L) and type int64.
        lengths: Sequence lengths, in tokens.
    Returns:
        Length → nodes in the order of execution.
    Raises:
        ModelError: onnxruntime cannot run the graph on this host.
    """
    events = _profiler_events(path, inputs, lengths)
    return dict(zip(lengths, _work_by_run(events), strict=True))


def _profiler_events(
    path: Path, inputs: Sequence[str], lengths: Sequence[int]
) -> list[dict[str, Any]]:
    """Runs a graph once per length and returns the events of onnxruntime's profiler."""
    # One thread: the events of a node must not be split among workers.
    options = SessionOptions(threads=1).to_onnxruntime()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="edgedistil-trace-") as folder:
        options.profile_file_prefix = str(Path(folder) / "trace")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
            for length in lengths:
                session.run(None, {name: _constant_input(name, length) for name in inputs})
        # onnxruntime has no exception class of its own that covers both loading and running.
        except Exception as error:
            raise ModelError(
                f"onnxruntime {onnxruntime.__version__} cannot run {path}: {error}"
            ) from error
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return events


def _constant_input(name: str, length: int) -> NDArray[np.int64]:
    """Any valid token ids: counts do not depend on the values."""
    if name == "token_type_ids":
        return np.zeros((1, length), np.int64)
    return np.ones((1, length), np.int64)


def _work_by_run(events: Sequence[dict[str, Any]]) -> list[list[NodeWork]]:
    """Groups the kernel events of a profile by the run that they happened in."""
    runs = []
    kernels = []
    for event in events:
        if event.get("name") == "model_run":
            runs.append((event["ts"], event["ts"] + event["dur"]))
        elif event.get("cat") == "Node" and event.get("name", "").endswith(_EVENT_SUFFIX):
            kernels.append(event)
    work = []
    for begin, end in sorted(runs):
        in_run = [event for event in kernels if begin <= event["ts"] <= end]
        work.append([node_work(event) for event in in_run])
    return work


def node_work(event: Mapping[str, Any]) -> NodeWork:
    """Counts the work of one kernel event of onnxruntime's profiler."""
    arguments = event["args"]
    name = event["name"].removesuffix(_EVENT_SUFFIX)
    op = arguments["op_name"]
    inputs = _typed_shapes(arguments["input_type_shape"])
    outputs = _typed_shapes(arguments["output_type_shape"])
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
