"""Small graphs in ONNX's text form, for tests of one pass at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft": 1, "edgedistil": 1]>\n'

Parse = Callable[[str], ir.Model]
Run = Callable[..., NDArray[np.float32]]
Nodes = Callable[[ir.Model], list[str]]


@pytest.fixture
def parse() -> Parse:
    """Reads a graph from ONNX's text form, without its header."""

    def parse_graph(text: str) -> ir.Model:
        return ir.from_proto(onnx.parser.parse_model(HEADER + text))

    return parse_graph


@pytest.fixture
def run() -> Run:
    """Runs a graph on inputs and returns its first output."""

    def run_graph(model: ir.Model, **inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        feeds: Mapping[str, NDArray[np.generic]] = inputs
        return session.run(None, dict(feeds))[0]

    return run_graph


@pytest.fixture
def nodes() -> Nodes:
    """Lists the nodes of a graph as `Operator(input, input)`."""

    def list_nodes(model: ir.Model) -> list[str]:
        lines = []
        for node in model.graph:
            inputs = ", ".join(str(value.name) for value in node.inputs if value is not None)
            lines.append(f"{node.op_type}({inputs})")
        return lines

    return list_nodes
