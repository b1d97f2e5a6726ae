"""On a real encoder the parity check passes int8 and rejects one scale a tensor."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from edgedistil.core.places import cache_root
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.reference import make_probes
from edgedistil.export.source import read_source
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace_model
from edgedistil.models.teacher import load_teacher
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.probes import Probes

ENGLISH = Path(__file__).resolve().parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def minilm() -> tuple[ir.Model, Probes]:
    """MiniLM's encoder as a graph, and its probes on real English."""
    folder = load_teacher("asset:minilm", revision=None, cache=cache_root()).folder
    source = read_source(folder, name="minilm", role="other", task="feature-extraction")
    paragraphs = ENGLISH.read_text(encoding="utf-8").split("\n\n")
    text = [" ".join(paragraph.split()) for paragraph in paragraphs]
    model = source.load_model()
    probes = make_probes(model, source.load_tokenizer(), source.task, text, seed=11)
    graph = trace_model(model, task=source.task)
    run_standard_passes(graph, model.config)
    return graph, probes


@pytest.mark.parametrize(("per_channel", "violated"), [(True, []), (False, ["cosine_mean"])])
def test_the_parity_check_separates_a_good_int8_encoder_from_the_known_fault(
    minilm: tuple[ir.Model, Probes], per_channel: bool, violated: list[str], tmp_path: Path
) -> None:
    graph, probes = minilm
    int8 = graph.clone()
    quantize_dynamic(int8, Int8Plan(per_channel=per_channel))
    file = tmp_path / "model.onnx"
    save_graph(int8, file, external=True)
    record = check_artefact(
        file, probes, precision="int8", model="minilm", task="feature-extraction"
    )
    failed = [result.tolerance.figure for result in record.results if not result.holds]
    assert failed == violated, (record.overall.cosine_mean, record.overall.cosine_min)
