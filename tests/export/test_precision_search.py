from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.records import NotMeasured, ParityFigures
from edgedistil.export.linears import find_linears
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.precision_search import search, speed_of
from edgedistil.export.quantize import Int8Plan, wanted_linears
from edgedistil.export.trace import trace
from edgedistil.parity.onnx_file import check_onnx_file

SENSITIVE = {"transformer.layer.0.ffn.lin2": 0.03, "transformer.layer.1.attention.q_lin": 0.02}


@pytest.fixture
def graph(model):
    source = model("DistilBertModel")
    made = trace(source, task="feature-extraction", token_types=False)
    run_passes(
        made,
        standard_passes(Shape.of(made, source.config), token_types=False, drop_token_types=False),
    )
    return made


def figures_of(file: Path) -> ParityFigures:
    """Every sensitive product in 8 bits costs its share; the others a thousandth each."""
    check_onnx_file(file)
    import onnx

    names = {tensor.name for tensor in onnx.load(file, load_external_data=False).graph.initializer}
    quantized = {
        name.removesuffix(".weight.quantized")
        for name in names
        if name.endswith(".weight.quantized")
    }
    drop = sum(SENSITIVE.get(name, 0.0001) for name in quantized if "embeddings" not in name)
    missing = NotMeasured(not_measured="a stand-in")
    return ParityFigures(
        sequences=1,
        length=missing,
        max_abs=0,
        mean_abs=0,
        cosine_min=missing,
        cosine_mean=missing,
        kl_nats=missing,
        agreement=1 - drop,
    )


def test_everything_in_8_bits_is_taken_where_it_keeps_the_bound(graph, tmp_path: Path) -> None:
    found = search(graph, Int8Plan(), figures_of, folder=tmp_path, max_drop=0.2)
    assert found.plan.keep == ()
    assert found.holds
    assert len(found.frontier) == 1


def test_the_sensitive_products_and_no_others_go_back_to_float(graph, tmp_path: Path) -> None:
    found = search(graph, Int8Plan(), figures_of, folder=tmp_path, max_drop=0.01)
    assert set(found.plan.keep) == set(SENSITIVE)
    assert found.holds
    assert [len(step.keep) for step in found.frontier] == [0, 1, 2]
    speeds = [step.speed for step in found.frontier]
    assert speeds == sorted(speeds, reverse=True), "fastest first"
    assert "2 products in float32" in found.frontier[-1].tell()


def test_a_bound_that_nothing_keeps_ends_with_all_products_in_float(graph, tmp_path: Path) -> None:
    def never(file: Path) -> ParityFigures:
        return figures_of(file).model_copy(update={"agreement": 0.5})

    found = search(graph, Int8Plan(), never, folder=tmp_path, max_drop=0.01)
    assert not found.holds
    assert set(found.plan.keep) == {each.name for each in wanted_linears(graph, Int8Plan())}
    assert speed_of(graph, Int8Plan(), found.plan.keep) == 1.0


def test_speed_counts_products_by_their_work(graph) -> None:
    names = [each.name for each in find_linears(graph)]
    small, large = next(n for n in names if "q_lin" in n), next(n for n in names if "lin1" in n)
    assert (
        speed_of(graph, Int8Plan(), [large])
        < speed_of(graph, Int8Plan(), [small])
        < speed_of(graph, Int8Plan(), [])
    )
    assert speed_of(graph, Int8Plan(), []) == pytest.approx(5.0)
