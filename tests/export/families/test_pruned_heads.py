"""Models with fewer attention heads: exports against transformers, bytes and work from shapes."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import numpy_helper
from transformers import PreTrainedModel

from edgedistil.core.model_folder import read_model_folder
from edgedistil.costmodel.shapes import EncoderShape, encoder_shape, encoder_work, graph_bytes
from edgedistil.models.heads import prune_heads
from edgedistil.search.candidates import BYTES_ERROR, BYTES_SHARE
from tests.export.families.conftest import (
    HEADS,
    LAYERS,
    Export,
    Exported,
    check_fused,
    check_int8,
    check_lengths,
)

STAY = 3
# Matrices of fewer than 1,024 weights stay in float, so the states are wider than elsewhere.
HIDDEN = 64
PAIRS = [
    ("bert", "feature-extraction"),
    ("distilbert", "fill-mask"),
    ("roberta", "text-classification"),
    ("electra", "token-classification"),
]


def fewer_heads(model: PreTrainedModel) -> PreTrainedModel:
    return prune_heads(model, STAY)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(*request.param, rebuild=fewer_heads, hidden_size=HIDDEN)


def shape_of(exported: Exported) -> EncoderShape:
    return encoder_shape(read_model_folder(exported.folder.parents[2] / "source"))


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_attention_is_fused_with_the_heads_that_stay(exported: Exported) -> None:
    check_fused(exported)
    file = exported.folder / exported.record().files[0].path
    graph = onnx.load(file, load_external_data=True).graph
    shapes = [numpy_helper.to_array(t).tolist() for t in graph.initializer if "split" in t.name]
    assert [0, 0, STAY, -1] in shapes
    assert [0, 0, HEADS, -1] not in shapes


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    check_int8(exported)


def test_shapes_know_the_heads_that_stay(exported: Exported) -> None:
    shape = shape_of(exported)
    assert (shape.heads, shape.head_width, shape.hidden) == (STAY, HIDDEN // HEADS, HIDDEN)
    whole = replace(shape, heads=HEADS)
    saved = LAYERS * (HIDDEN // HEADS) * (4 * HIDDEN + 3)
    assert whole.parameters - shape.parameters == saved
    for precision in ("fp32", "int8"):
        macs = [sum(n.macs for n in encoder_work(s, 16, precision)) for s in (whole, shape)]
        products = 4 * HIDDEN + 2 * 16
        assert macs[0] - macs[1] == LAYERS * 16 * (HIDDEN // HEADS) * products


def test_bytes_from_shapes_are_those_of_files(export_case: Export) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256}
    exported = export_case("bert", "feature-extraction", rebuild=fewer_heads, **sizes)
    for precision in ("fp32", "int8"):
        file_bytes = sum(file.bytes for file in exported.record(precision).files)
        bound = BYTES_ERROR + BYTES_SHARE * file_bytes
        assert abs(file_bytes - graph_bytes(shape_of(exported), precision)) <= bound
    whole = replace(shape_of(exported), heads=HEADS)
    stored = sum(file.bytes for file in exported.record("fp32").files)
    assert abs(stored - graph_bytes(whole, "fp32")) > BYTES_ERROR + BYTES_SHARE * stored
