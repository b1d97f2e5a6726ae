from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import pytest

from edgedistil.core.export_records import ParityFigures
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import find_linears
from edgedistil.export.precision_search import (
    Measure,
    SearchResult,
    estimated_speed,
    output_drop,
    search,
)
from edgedistil.export.quantize import quantizable_linears, quantize_dynamic
from edgedistil.parity.onnx_file import check_onnx_file

if TYPE_CHECKING:
    from tests.export.conftest import MakeGraph

ABSENT = NotMeasured(not_measured="not part of this test")
SENSITIVE = {"transformer.layer.0.ffn.lin2": 0.03, "transformer.layer.1.attention.q_lin": 0.02}


@pytest.fixture
def graph(make_graph: MakeGraph) -> ir.Model:
    return make_graph("DistilBertModel", "feature-extraction")


def figures(
    *, agreement: Figure = ABSENT, cosine_min: Figure = ABSENT, concordance: Figure = ABSENT
) -> ParityFigures:
    return ParityFigures(
        sequences=1,
        length=ABSENT,
        max_abs=0,
        mean_abs=0,
        cosine_min=cosine_min,
        cosine_mean=ABSENT,
        kl_nats=ABSENT,
        agreement=agreement,
        concordance=concordance,
    )


def measure(file: Path) -> ParityFigures:
    """A sensitive layer in 8 bits loses its share; any other loses 0.01%."""
    check_onnx_file(file)
    initializers = onnx.load(file, load_external_data=False).graph.initializer
    ending = ".weight.quantized"
    names = [tensor.name for tensor in initializers if tensor.name.endswith(ending)]
    layers = {name.removesuffix(ending) for name in names if "embeddings" not in name}
    return figures(agreement=1 - sum(SENSITIVE.get(layer, 0.0001) for layer in layers))


def run_search(graph: ir.Model, measure: Measure, folder: Path, *, max_drop: float) -> SearchResult:
    return search(
        graph, Int8Plan(), measure, quantize=quantize_dynamic, folder=folder, max_drop=max_drop
    )


def test_everything_in_8_bits_is_selected_if_it_holds_the_bound(
    graph: ir.Model, tmp_path: Path
) -> None:
    result = search(
        graph, Int8Plan(), measure, quantize=quantize_dynamic, folder=tmp_path, max_drop=0.2
    )
    assert result.plan.keep_float == ()
    assert result.within_bound
    assert len(result.frontier) == 1
    assert "all linear layers in 8 bits" in result.frontier[0].describe()


def test_the_sensitive_layers_and_no_others_go_back_to_float(
    graph: ir.Model, tmp_path: Path
) -> None:
    result = search(
        graph, Int8Plan(), measure, quantize=quantize_dynamic, folder=tmp_path, max_drop=0.01
    )
    assert set(result.plan.keep_float) == set(SENSITIVE)
    assert result.within_bound
    assert [len(step.keep_float) for step in result.frontier] == [0, 1, 2]
    speeds = [step.speed for step in result.frontier]
    assert speeds == sorted(speeds, reverse=True), "fastest first"
    assert "2 linear layers in float32" in result.frontier[-1].describe()


def test_a_bound_that_no_plan_holds_ends_with_all_layers_in_float(
    graph: ir.Model, tmp_path: Path
) -> None:
    def always_half(_file: Path) -> ParityFigures:
        return figures(agreement=0.5)

    result = search(
        graph, Int8Plan(), always_half, quantize=quantize_dynamic, folder=tmp_path, max_drop=0.01
    )
    assert not result.within_bound
    names = {linear.name for linear in quantizable_linears(graph, Int8Plan())}
    assert set(result.plan.keep_float) == names
    assert estimated_speed(graph, Int8Plan(), result.plan.keep_float) == 1.0


def test_speed_counts_layers_by_their_work(graph: ir.Model) -> None:
    names = [linear.name for linear in find_linears(graph)]
    small = next(name for name in names if "q_lin" in name)
    large = next(name for name in names if "lin1" in name)
    plan = Int8Plan()
    speeds = [estimated_speed(graph, plan, names) for names in ([large], [small], [])]
    assert speeds == sorted(speeds)
    assert speeds[0] < speeds[1] < speeds[2] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("parity", "drop"),
    [
        (figures(agreement=0.9, cosine_min=0.5), 0.1),
        (figures(cosine_min=0.7, concordance=0.5), 0.5),
        (figures(cosine_min=0.7), 0.3),
        (figures(concordance=0.5), 0.5),
        (figures(agreement=1.0), 0.0),
        (figures(), 1.0),
    ],
)
def test_the_drop_is_that_of_the_first_figure_of_a_task(parity: ParityFigures, drop: float) -> None:
    assert output_drop(parity) == pytest.approx(drop)
