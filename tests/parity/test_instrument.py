"""Reading and replacing tensors inside a graph of two parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.parity.instrument import (
    OUTPUT_PART,
    InstrumentedGraph,
    boundary_tensor,
    instrument_graph,
    run_session,
)

# x → double → LayerNorm → triple → LayerNorm → plus one. `unused` is read by no node.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 5] x) => (float[N, 5] y)
<float[1] two = {2}, float[1] three = {3}, float[1] one = {1},
 float[5] scale = {1, 1, 1, 1, 1}, float[5] bias = {0, 0, 0, 0, 0}>
{
    doubled = Mul (x, two)
    "hidden/first" = LayerNormalization <axis = -1> (doubled, scale, bias)
    unused = Mul ("hidden/first", two)
    tripled = Mul ("hidden/first", three)
    "hidden/second" = LayerNormalization <axis = -1> (tripled, scale, bias)
    y = Add ("hidden/second", one)
}
"""
FIRST, SECOND = boundary_tensor("first"), boundary_tensor("second")
X_N5 = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.fixture
def graph(tmp_path: Path) -> InstrumentedGraph:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH), path)
    return instrument_graph(path, ["first", "second"])


def test_parts_end_at_the_named_tensors(graph: InstrumentedGraph) -> None:
    outputs = {part: [node.output[0] for node in nodes] for part, nodes in graph.parts.items()}
    assert outputs == {
        "first": ["doubled", FIRST],
        "second": ["tripled", SECOND],
        OUTPUT_PART: ["y"],
    }
    assert graph.boundaries == {"first": FIRST, "second": SECOND}


def test_inner_tensors_are_read(graph: InstrumentedGraph) -> None:
    values = graph.run(["doubled", "y"], {"x": X_N5})
    assert list(values) == ["doubled", "y"]
    np.testing.assert_array_equal(values["doubled"], 2 * X_N5)


def test_consumers_of_a_replaced_tensor_read_the_new_values(graph: InstrumentedGraph) -> None:
    zeros = np.zeros_like(X_N5)
    values = graph.run([FIRST, "tripled"], {"x": X_N5}, {FIRST: zeros})
    np.testing.assert_array_equal(values["tripled"], zeros)
    assert np.abs(values[FIRST]).max() > 1, "the replaced tensor itself is still computed"


def test_a_tensor_that_no_node_reads_may_be_replaced(graph: InstrumentedGraph) -> None:
    assert graph.has_consumer(FIRST)
    assert not graph.has_consumer("unused")
    values = graph.run(["y"], {"x": X_N5}, {"unused": X_N5})
    np.testing.assert_array_equal(values["y"], graph.run(["y"], {"x": X_N5})["y"])


def test_the_graph_itself_does_not_change(graph: InstrumentedGraph) -> None:
    before = graph.model.SerializeToString()
    graph.run([FIRST], {"x": X_N5}, {FIRST: X_N5})
    assert graph.model.SerializeToString() == before


def test_float_outputs_by_inferred_type(graph: InstrumentedGraph) -> None:
    assert graph.float_outputs(graph.parts["first"]) == ["doubled", FIRST]


def test_an_unknown_tensor_is_an_error(graph: InstrumentedGraph) -> None:
    with pytest.raises(ModelError, match="cannot load the instrumented graph"):
        graph.session(["nowhere"])


def test_a_missing_feed_is_an_error(graph: InstrumentedGraph) -> None:
    with pytest.raises(ModelError, match="the instrumented graph does not run"):
        run_session(graph.session(["y"]), {})


def test_a_part_whose_tensor_is_not_there_is_an_error(graph: InstrumentedGraph) -> None:
    path = graph.folder / "model.onnx"
    with pytest.raises(ModelError, match=r"no tensor 'hidden/third'.*\(1 of 3 are not there\)"):
        instrument_graph(path, ["first", "second", "third"])
