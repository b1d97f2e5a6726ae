from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgedistil.core.errors import ModelError
from edgedistil.core.records import ExplainRecord, NodeError, NotMeasured
from edgedistil.export.quantize import Int8Plan, quantize_dynamic
from edgedistil.export.storage import save_graph
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.instrument import OUTPUT, open_graph
from edgedistil.parity.localize import INFINITELY_FAR, explain, relative_error
from edgedistil.parity.probes import Probes


@pytest.fixture
def break_weight(exported, tmp_path: Path) -> Callable[[str], Path]:
    """The artefact with one output of one weight made wrong."""

    def _break(name: str, factor: float = 1.5) -> Path:
        model = onnx.load(exported.graph)
        [weight] = [each for each in model.graph.initializer if each.name == name]
        values = numpy_helper.to_array(weight).copy()
        wrong = values[:, 3] if "embeddings" in name else values[3]
        wrong *= factor
        weight.CopyFrom(numpy_helper.from_array(values, name))
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return _break


def _explain(graph: Path, exported) -> ExplainRecord:
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
    weight: str, part: str, node: str, break_weight: Callable[..., Path], exported
) -> None:
    broken = break_weight(weight)

    record = check_artefact(
        broken, exported.probes, precision="fp32", model="student", task="fill-mask"
    )
    told = _explain(broken, exported)

    assert not record.passed
    assert told.worst_part == part
    assert isinstance(told.worst_node, NodeError)
    assert node in told.worst_node.node
    own = {each.part: each.own for each in told.parts}
    assert own.pop(part) > 1e-3
    assert max(own.values()) < 1e-5, "the other parts are as they were, given exact inputs"


def test_errors_travel_on_but_are_not_blamed_on_later_layers(
    break_weight: Callable[..., Path], exported
) -> None:
    told = _explain(break_weight("distilbert.transformer.layer.0.attention.v_lin.weight"), exported)
    later = [each for each in told.parts if each.part.startswith("layer 2")]
    assert len(later) == 2
    assert all(each.reached > 1e-3 and each.own < 1e-5 for each in later)


def test_a_good_artefact_has_no_part_above_rounding(exported) -> None:
    told = explain(exported.graph, exported.probes)
    assert [each.part for each in told.parts] == [*exported.probes.boundaries, OUTPUT]
    assert max(each.own for each in told.parts) < 1e-5
    assert told.worst_node == NotMeasured(not_measured="no good artefact given")
    assert told.gains == NotMeasured(not_measured="nothing was quantized again")


def test_a_weight_of_infinity_is_located_though_no_figures_can_be_had(
    break_weight: Callable[..., Path], exported
) -> None:
    told = _explain(
        break_weight("distilbert.transformer.layer.1.ffn.lin2.weight", float("inf")), exported
    )
    assert told.worst_part == "layer 1 feed-forward"
    assert {each.part: each.own for each in told.parts}[told.worst_part] == INFINITELY_FAR
    assert isinstance(told.figures, NotMeasured)
    assert "NaN or infinite" in told.figures.not_measured


def test_leaving_a_part_of_an_int8_artefact_in_float_is_measured(exported, tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def requantize(nodes: Sequence[str]) -> Path:
        asked.append(nodes)
        graph = ir.load(exported.graph)
        quantize_dynamic(
            graph, Int8Plan(keep=nodes, embeddings=not any("embeddings" in name for name in nodes))
        )
        return save_graph(graph, tmp_path / f"model_{len(asked)}.onnx", external=True)[0]

    int8 = requantize([])
    told = explain(int8, exported.probes, exported.graph, requantize=requantize, most_gains=2)

    order = sorted(told.parts, key=lambda each: each.own, reverse=True)
    assert not isinstance(told.gains, NotMeasured)
    assert [gain.part for gain in told.gains] == [each.part for each in order[:2]]
    assert told.worst_part == order[0].part
    assert isinstance(told.worst_node, NodeError)
    assert told.worst_node.operator in {
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "Gather",
    }, "what was quantized is named, not the sum that follows it"
    assert not isinstance(told.figures, NotMeasured)
    assert told.gains[0].figures.mean_abs < told.figures.mean_abs, "less error"
    assert told.gains[0].bytes > told.bytes, "for more bytes"


def test_a_graph_with_other_layers_is_refused(exported) -> None:
    probes = exported.probes
    other = Probes(
        probes.task, probes.source_sha256, probes.seed, probes.boundaries[:-2], probes.batches
    )
    with pytest.raises(
        ModelError, match=r"has 8 LayerNorms, its source 6: its layers cannot be told apart"
    ):
        explain(exported.graph, other)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="no ONNX graph that can be read"):
        open_graph(tmp_path / "model.onnx", ["embeddings"])


def test_every_node_belongs_to_one_part(exported) -> None:
    opened = open_graph(exported.graph, exported.probes.boundaries)
    named = [node.name for nodes in opened.parts.values() for node in nodes]
    assert sorted(named) == sorted(node.name for node in opened.model.graph.node)


def test_relative_error() -> None:
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert relative_error(np.array([3.0, 4.0]), np.array([6.0, 8.0])) == 1
    assert relative_error(np.array([0.0]), np.array([2.0])) == 1
    assert relative_error(np.array([1.0]), np.array([np.nan])) == INFINITELY_FAR
