"""DeBERTa, v2 and v3: products with vectors of distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS
from edgedistil.export.traced_disentangled import disentangled_form
from tests.export.families.conftest import (
    CASES,
    LAYERS,
    Export,
    Exported,
    check_int8,
    check_lengths,
    largest_difference,
    make_model,
)

NAMES = ("deberta", "deberta-v2")
PAIRS = [
    (name, task)
    for name in NAMES
    for task in TASKS
    if TASKS[task].architectures[0] not in FAMILIES[name].missing_heads
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(*request.param)


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    # The vectors of distances are made with ONNX's own operators, two in each layer.
    assert exported.operators("int8")["MatMul"] == 2 * LAYERS
    check_int8(exported, constant_linears=2 * LAYERS)


def test_attention_norms_and_activations_are_fused(exported: Exported) -> None:
    operators, fused = exported.operators(), exported.record().fused
    assert fused["attention"] == operators["Softmax"] == LAYERS
    assert fused["residual-sums"] == 2 * LAYERS
    assert fused["gelu"] == operators["Gelu"] >= LAYERS
    # No element is gathered, and no bucket is computed.
    assert not operators.keys() & {"GatherElements", "Log", "Where", "Expand", "Erf", "Sqrt"}
    # A slice of the places of distances for each direction, and two for the scores of each.
    assert operators["Slice"] == 2 + 4 * LAYERS


def test_every_length_is_exact(export_case: Export) -> None:
    exported = export_case("deberta-v2", "feature-extraction", ("fp32",))
    longest = exported.model.config.max_position_embeddings
    for length in range(1, longest + 1, 3):
        assert largest_difference(exported, 2, length) < 1e-4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deberta-v2", {"share_att_key": False}),
        ("deberta-v2", {"pos_att_type": ["c2p"]}),
        ("deberta-v2", {"pos_att_type": ["p2c"], "share_att_key": False}),
        ("deberta-v2", {"position_buckets": -1, "norm_rel_ebd": "none"}),
        ("deberta-v2", {"max_relative_positions": 20}),
        ("deberta-v2", {"relative_attention": False, "pos_att_type": None}),
        ("deberta-v2", {"position_biased_input": True, "type_vocab_size": 2}),
        ("deberta-v2", {"legacy": False}),
        ("deberta", {"max_relative_positions": 20, "position_biased_input": True}),
        ("deberta", {"pos_att_type": ["p2c"]}),
    ],
)
def test_options_of_a_config_are_exact(
    export_case: Export, name: str, changes: dict[str, Any]
) -> None:
    exported = export_case(name, "fill-mask", ("fp32",), **changes)
    check_lengths(exported)
    assert exported.record().fused["attention"] == LAYERS


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("deberta-v2", "conv_kernel_size", 3), ("deberta", "talking_head", True)],
)
def test_an_option_that_is_not_supported_is_refused_by_name(
    export_case: Export, name: str, key: str, value: object
) -> None:
    with pytest.raises(ModelError, match=f"has {key} = {value}"):
        export_case(name, "fill-mask", ("fp32",), **{key: value})


def test_the_rows_of_distances_are_those_of_transformers() -> None:
    model = make_model(CASES["deberta-v2"], "feature-extraction", max_position_embeddings=67)
    encoder: Any = model.encoder
    with disentangled_form(model):
        down, up = encoder.rows_down.clone(), encoder.rows_up.clone()
    assert not hasattr(encoder, "rows_down")
    states = torch.zeros(1, 67, 8)
    theirs = build_relative_position(states, states, 16, encoder.max_relative_positions)[0]
    span = 16
    expected = (theirs + span).clamp(0, 2 * span - 1)
    distances = torch.arange(67)[:, None] - torch.arange(67)[None]
    assert torch.equal(down[66 - distances], expected)
    # A key reads the same vector's row.
    assert torch.equal(up[66 + distances], expected)


def test_a_session_computes_the_vectors_of_distances_once(
    export_case: Export, tmp_path_factory: pytest.TempPathFactory
) -> None:
    exported = export_case("deberta-v2", "feature-extraction")
    for precision in ("fp32", "int8"):
        file = exported.folder / exported.record(precision).files[0].path
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path_factory.mktemp("profile") / "run")
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        ids = np.ones((1, 7), np.int64)
        session.run(None, {"input_ids": ids, "attention_mask": ids})
        import json
        from pathlib import Path

        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = {event["name"] for event in events if event.get("cat") == "Node"}
        assert any("query_proj/" in name for name in ran)
        assert not any("proj_1/" in name for name in ran)
