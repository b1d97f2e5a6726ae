"""The work of every node of a graph as onnxruntime really runs it: fused, in order, with concrete shapes.

The graph is run once a length on this host under ORT's own profiler, which tells each executed node's operator and
shapes. Only counts are taken from it (multiply-adds, bytes), never a time: the times belong to this host.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from edgedistil.core.errors import ModelError

Arithmetic = Literal["fp32", "int8", "none"]

_BYTES = {
    "float": 4,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "int64": 8,
    "int32": 4,
    "bool": 1,
    "double": 8,
}
_FLOAT_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "FusedGemm"}
_INTEGER_PRODUCTS = {
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "QLinearMatMul",
    "QGemm",
}
_FLOAT_ATTENTION = {"Attention", "MultiHeadAttention"}
_INTEGER_ATTENTION = {"QAttention"}
_HEAVY = {"Softmax", "Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf", "Tanh", "Exp", "Sigmoid"}
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
_FREE = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Shape"}


@dataclass(frozen=True)
class Work:
    """What one node does in one call."""

    name: str
    op: str
    arithmetic: Arithmetic
    macs: int
    weight_bytes: int
    rows: int
    moved_bytes: int
    elements: int
    heavy: bool


def trace(path: Path, inputs: Sequence[str], lengths: Sequence[int]) -> dict[int, list[Work]]:
    """Per length the nodes that were executed at batch 1, in order.

    Raises:
        ModelError: onnxruntime cannot run the graph here.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistil-trace-") as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            for length in lengths:
                session.run(None, {name: _plain(name, length) for name in inputs})
        except (
            Exception
        ) as error:  # onnxruntime has no exception of its own that covers load and run
            raise ModelError(
                f"onnxruntime {onnxruntime.__version__} cannot run {path}: {error}"
            ) from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return dict(zip(lengths, _by_run(events), strict=True))


def _plain(name: str, length: int) -> Any:
    """Counts do not depend on which tokens they are."""
    return (
        np.zeros((1, length), np.int64)
        if name == "token_type_ids"
        else np.ones((1, length), np.int64)
    )


def _by_run(events: Sequence[dict[str, Any]]) -> list[list[Work]]:
    starts = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == "model_run")
    nodes = [
        e for e in events if e.get("cat") == "Node" and e.get("name", "").endswith("_kernel_time")
    ]
    return [[work_of(e) for e in nodes if begin <= e["ts"] <= end] for begin, end in starts]


def work_of(event: dict[str, Any]) -> Work:
    """Counts of one kernel event of ORT's profiler."""
    arguments = event["args"]
    op = arguments["op_name"]
    takes, gives = _shapes(arguments["input_type_shape"]), _shapes(arguments["output_type_shape"])
    name = event["name"][: -len("_kernel_time")]
    elements = sum(prod(shape) for _, shape in gives)
    moved = sum(_BYTES.get(kind, 4) * prod(shape) for kind, shape in [*takes, *gives])
    if op in _FLOAT_PRODUCTS | _INTEGER_PRODUCTS | _FLOAT_ATTENTION | _INTEGER_ATTENTION:
        integer = op in _INTEGER_PRODUCTS | _INTEGER_ATTENTION
        attention = op in _FLOAT_ATTENTION | _INTEGER_ATTENTION
        macs, weights = _attention(op, takes, gives) if attention else _product(takes, gives)
        bytes_each = 1 if integer else 0.5 if op == "MatMulNBits" else 4
        rows = prod(gives[0][1][:-1]) if gives and gives[0][1] else 1
        arithmetic: Arithmetic = "int8" if integer else "fp32"
        return Work(
            name, op, arithmetic, macs, int(weights * bytes_each), rows, moved, elements, False
        )
    if op == "Gather" and takes and gives:
        moved = 2 * sum(
            _BYTES.get(kind, 4) * prod(shape) for kind, shape in gives
        )  # the rows it takes, not the table
    return Work(
        name,
        op,
        "none",
        0,
        0,
        0,
        0 if op in _FREE else moved,
        0 if op in _COPIES | _FREE else elements,
        op in _HEAVY,
    )


def _shapes(told: Sequence[dict[str, list[int]]]) -> list[tuple[str, list[int]]]:
    return [(kind, shape) for each in told for kind, shape in each.items()]


def _product(
    takes: list[tuple[str, list[int]]], gives: list[tuple[str, list[int]]]
) -> tuple[int, int]:
    """Multiply-adds, and elements of the weights: 0 when both operands are activations.

    A weight that was packed when the session was made is missing from the event's inputs.
    """
    inner = takes[0][1][-1]
    columns = gives[0][1][-1]
    activations = [shape for kind, shape in takes[1:] if len(shape) > 2 and kind != "int64"]
    return prod(gives[0][1]) * inner, 0 if activations else inner * columns


def _attention(
    op: str, takes: list[tuple[str, list[int]]], gives: list[tuple[str, list[int]]]
) -> tuple[int, int]:
    """Packed attention projects Q, K and V itself; MultiHeadAttention gets them projected."""
    batch, length, width = takes[0][1][:3]
    hidden = gives[0][1][-1]
    products = 2 * batch * length * length * hidden
    if op == "MultiHeadAttention":
        return products, 0
    return products + batch * length * width * 3 * hidden, 3 * width * hidden
