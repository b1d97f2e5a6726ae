"""Options that several families have: activations, segments, vocabularies, heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from edgedistil.core.model_folder import ACTIVATIONS
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.trace import trace_model
from tests.export.families.conftest import (
    CASES,
    VOCABULARY,
    Export,
    check_int8,
    check_lengths,
    make_model,
)


def graph_difference(name: str, **changes: Any) -> float:
    """Largest difference between a model and its graph, without an export around it."""
    model = make_model(CASES[name], "feature-extraction", **changes)
    graph = trace_model(model, task="feature-extraction", token_types=False)
    run_standard_passes(graph, model.config)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ids_BL = np.random.default_rng(5).integers(5, VOCABULARY, (3, 11))
    mask_BL = np.ones_like(ids_BL)
    mask_BL[1, 6:] = 0
    (actual,) = session.run(None, {"input_ids": ids_BL, "attention_mask": mask_BL})
    with torch.no_grad():
        expected = model(
            input_ids=torch.from_numpy(ids_BL), attention_mask=torch.from_numpy(mask_BL)
        ).last_hidden_state.numpy()
    return float(np.abs(actual - expected)[mask_BL == 1].max())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_of_transformers_is_exact(activation: str) -> None:
    assert graph_difference("bert", hidden_act=activation) < 1e-4


@pytest.mark.parametrize("name", ["nomic_bert", "modernbert", "electra"])
@pytest.mark.parametrize("activation", ["gelu_new", "mish"])
def test_other_families_have_other_activations_too(name: str, activation: str) -> None:
    key = "hidden_activation" if name == "modernbert" else "hidden_act"
    assert graph_difference(name, **{key: activation}) < 1e-4


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert", {"type_vocab_size": 1}),
        ("bert", {"type_vocab_size": 4}),
        ("bert", {"tie_word_embeddings": False}),
        # Rounded up for a device, or odd.
        ("bert", {"vocab_size": 1088, "hidden_act": "gelu_new"}),
        ("roberta", {"type_vocab_size": 2, "tie_word_embeddings": False}),
        ("distilbert", {"tie_word_embeddings": False, "sinusoidal_pos_embds": True}),
        ("electra", {"embedding_size": 32, "type_vocab_size": 1}),
        ("albert", {"embedding_size": 32, "num_hidden_groups": 2, "tie_word_embeddings": False}),
    ],
)
def test_segments_vocabularies_and_heads_are_exact(
    export_case: Export, name: str, changes: dict[str, Any]
) -> None:
    exported = export_case(name, "fill-mask", **changes)
    check_lengths(exported)
    check_int8(exported)
    segments = changes.get("type_vocab_size", 2)
    inputs = {value.name for value in exported.session().get_inputs()}
    gives_types = name in ("bert", "electra") and segments > 1
    assert ("token_type_ids" in inputs) == gives_types
