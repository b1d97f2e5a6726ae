"""On a real encoder the gate passes int8 as it is made and refuses one scale a tensor, by the figure that tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.assets import cache_root
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.quantize import Int8Plan, quantize_dynamic
from edgedistil.export.reference import make_probes
from edgedistil.export.source import load_source
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace
from edgedistil.models.teacher import load_teacher
from edgedistil.parity.gate import check_artefact

ENGLISH = Path(__file__).resolve().parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def minilm():
    """MiniLM's encoder as a graph, and its probes on real English."""
    folder = load_teacher("asset:minilm", revision=None, cache=cache_root()).folder
    source = load_source(folder, name="minilm", role="other", task="feature-extraction")
    text = [
        " ".join(paragraph.split())
        for paragraph in ENGLISH.read_text(encoding="utf-8").split("\n\n")
    ]
    probes = make_probes(source.model, source.tokenizer, "feature-extraction", text, seed=11)
    graph = trace(source.model, task="feature-extraction", token_types=source.takes_token_types)
    shape = Shape.of(graph, source.model.config)
    run_passes(
        graph, standard_passes(shape, token_types=source.takes_token_types, drop_token_types=False)
    )
    return graph, probes


@pytest.mark.parametrize(("per_channel", "refused"), [(True, []), (False, ["cosine_mean"])])
def test_the_gate_parts_a_good_int8_encoder_from_the_known_fault(
    minilm, per_channel, refused, tmp_path: Path
) -> None:
    graph, probes = minilm
    made = graph.clone()
    quantize_dynamic(made, Int8Plan(per_channel=per_channel))
    save_graph(made, tmp_path / "model.onnx", external=True)
    record = check_artefact(
        tmp_path / "model.onnx", probes, precision="int8", model="minilm", task="feature-extraction"
    )
    figures = (record.overall.cosine_mean, record.overall.cosine_min)
    assert [each.tolerance.figure for each in record.results if not each.holds] == refused, figures
