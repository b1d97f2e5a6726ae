"""The part and the node that add an error are named, whatever comes after them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgedistil.core.errors import ModelError
from edgedistil.core.export_records import ExplainRecord, NodeError
from edgedistil.core.records import NotMeasured
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.instrument import OUTPUT_PART, instrument_graph
from edgedistil.parity.localize import NON_FINITE_ERROR, explain, relative_error

if TYPE_CHECKING:
    from tests.parity.conftest import Exported


@pytest.fixture
def break_weight(exported: Exported, tmp_path: Path) -> Callable[[str], Path]:
    """The artefact with one output of one weight made wrong."""

    def _break(name: str, factor: float = 1.5) -> Path:
        model = onnx.load(exported.graph)
        [weight] = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = numpy_helper.to_array(weight).copy()
        wrong = values[:, 3] if "embeddings" in name else values[3]
        wrong *= factor
        weight.CopyFrom(numpy_helper.from_array(values, name))
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return _break


def _explain(graph: Path, exported: Exported) -> ExplainRecord:
    return explain(graph, exported.probes, exported.graph)


@pytest.mark.parametrize(
    ("weight", "part", "node"),
    [
        (
            "distilbert.transformer.layer.1.attention.k_lin.weight",
            "layer 1 attention",
            "layer.1/attention/k_lin",
        ),
        (
            "distilbert.transformer.layer.2.ffn.lin1.weight",
            "layer 2 feed-forward",
            "layer.2/ffn/lin1",
        ),
        ("distilbert.embeddings.position_embeddings.weight", "embeddings", "embeddings/positions"),
        ("vocab_transform.weight", "head", "vocab_transform"),
    ],
)
def test_a_broken_weight_fails_the_gate_and_its_layer_and_node_are_named(
    weight: str, part: str, node: str, break_weight: Callable[..., Path], exported: Exported
) -> None:
    broken = break_weight(weight)

    record = check_artefact(
        broken, exported.probes, precision="fp32", model="student", task="fill-mask"
    )
    explained = _explain(broken, exported)

    assert not record.passed
    assert explained.worst_part == part
    assert isinstance(explained.worst_node, NodeError)
    assert node in explained.worst_node.node
    own = {part.part: part.own for part in explained.parts}
    assert own.pop(part) > 1e-3
    assert max(own.values()) < 1e-5, "the other parts are as they were, given exact inputs"


def test_errors_travel_on_but_are_not_blamed_on_later_layers(
    break_weight: Callable[..., Path], exported: Exported
) -> None:
    explained = _explain(
        break_weight("distilbert.transformer.layer.0.attention.v_lin.weight"), exported
    )
    later = [part for part in explained.parts if part.part.startswith("layer 2")]
    assert len(later) == 2
    assert all(part.reached > 1e-3 and part.own < 1e-5 for part in later)


def test_a_good_artefact_has_no_part_above_rounding(exported: Exported) -> None:
    explained = explain(exported.graph, exported.probes)
    assert [part.part for part in explained.parts] == [*exported.probes.boundaries, OUTPUT_PART]
    assert max(part.own for part in explained.parts) < 1e-5
    assert explained.worst_node == NotMeasured(not_measured="no fp32 artefact to compare with")
    assert explained.gains == NotMeasured(not_measured="no part was quantized again")


def test_a_weight_of_infinity_is_located_without_any_figures(
    break_weight: Callable[..., Path], exported: Exported
) -> None:
    explained = _explain(
        break_weight("distilbert.transformer.layer.1.ffn.lin2.weight", float("inf")), exported
    )
    assert explained.worst_part == "layer 1 feed-forward"
    assert {part.part: part.own for part in explained.parts}[
        explained.worst_part
    ] == NON_FINITE_ERROR
    assert isinstance(explained.figures, NotMeasured)
    assert "NaN or infinite" in explained.figures.not_measured


def test_leaving_a_part_of_an_int8_artefact_in_float_is_measured(
    exported: Exported, tmp_path: Path
) -> None:
    requests: list[Sequence[str]] = []

    def requantize(nodes: Sequence[str]) -> Path:
        requests.append(nodes)
        graph = ir.load(exported.graph)
        quantize_dynamic(
            graph,
            Int8Plan(keep_float=nodes, embeddings=not any("embeddings" in name for name in nodes)),
        )
        return save_graph(graph, tmp_path / f"model_{len(requests)}.onnx", external=True)[0]

    int8 = requantize([])
    explained = explain(int8, exported.probes, exported.graph, requantize=requantize, max_gains=2)

    order = sorted(explained.parts, key=lambda part: part.own, reverse=True)
    assert not isinstance(explained.gains, NotMeasured)
    assert [gain.part for gain in explained.gains] == [part.part for part in order[:2]]
    assert explained.worst_part == order[0].part
    assert isinstance(explained.worst_node, NodeError)
    assert explained.worst_node.operator in {
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "Gather",
    }, "what was quantized is named, not the sum that follows it"
    assert not isinstance(explained.figures, NotMeasured)
    assert explained.gains[0].figures.mean_abs < explained.figures.mean_abs, "less error"
    assert explained.gains[0].bytes > explained.bytes, "for more bytes"


def test_a_graph_with_other_layers_is_refused(exported: Exported) -> None:
    other = replace(exported.probes, boundaries=(*exported.probes.boundaries, "layer 3 attention"))
    with pytest.raises(ModelError, match="no tensor 'hidden/layer 3 attention'"):
        explain(exported.graph, other)


def test_a_file_that_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="is not a readable ONNX graph"):
        instrument_graph(tmp_path / "model.onnx", ["embeddings"])


def test_every_node_belongs_to_one_part(exported: Exported) -> None:
    graph = instrument_graph(exported.graph, exported.probes.boundaries)
    named = [node.name for nodes in graph.parts.values() for node in nodes]
    assert sorted(named) == sorted(node.name for node in graph.model.graph.node)


def test_relative_error() -> None:
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert relative_error(np.array([3.0, 4.0]), np.array([6.0, 8.0])) == 1
    assert relative_error(np.array([0.0]), np.array([2.0])) == 1
    assert relative_error(np.array([1.0]), np.array([np.nan])) == NON_FINITE_ERROR
