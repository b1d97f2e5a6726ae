"""RoBERTa, XLM-RoBERTa and CamemBERT: positions behind the padding."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from edgedistil.core.task import TASKS
from tests.export.families.conftest import (
    Export,
    Exported,
    check_fused,
    check_int8,
    check_lengths,
)

FAMILIES = ("roberta", "xlm-roberta", "camembert")
PAIRS = [(name, task) for name in FAMILIES for task in TASKS]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(*request.param)


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_attention_norms_and_activations_are_fused(exported: Exported) -> None:
    check_fused(exported)


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    check_int8(exported)


def test_a_session_does_not_fuse_the_embeddings_sum_with_its_norm(
    export_case: Export, tmp_path: Path
) -> None:
    exported = export_case("roberta", "feature-extraction", ("fp32",))
    source = exported.folder / exported.record().files[0].path
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
    operators = {node.op_type for node in optimized.graph.node}
    assert "LayerNormalization" in operators
    assert not operators & {"SkipLayerNormalization", "EmbedLayerNormalization"}
