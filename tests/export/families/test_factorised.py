"""Encoders with factorised word embeddings: exports against transformers, bytes and work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import PreTrainedModel

from edgedistil.core.model_folder import read_model_folder
from edgedistil.costmodel.shapes import EncoderShape, encoder_shape, encoder_work, graph_bytes
from edgedistil.models.factorised import factorise_embeddings
from edgedistil.search.candidates import BYTES_ERROR, BYTES_SHARE
from tests.export.families.conftest import (
    VOCABULARY,
    Export,
    Exported,
    check_fused,
    check_int8,
    check_lengths,
)

RANK, HIDDEN = 16, 64


def factorised(model: PreTrainedModel) -> PreTrainedModel:
    return factorise_embeddings(model, RANK)


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta", "mpnet"])
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(request.param, "feature-extraction", rebuild=factorised, hidden_size=HIDDEN)


def shape_of(exported: Exported) -> EncoderShape:
    return encoder_shape(read_model_folder(exported.folder.parents[2] / "source"))


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_words_are_one_lookup_and_one_product_more(exported: Exported, export_case: Export) -> None:
    check_fused(exported)
    name = exported.model.config.model_type
    whole = export_case(name, "feature-extraction", ("fp32",), hidden_size=HIDDEN)
    more, before = exported.operators(), whole.operators()
    assert more["Gather"] == before["Gather"]
    products = [o["MatMul"] + o["FusedMatMul"] + o["Gemm"] for o in (more, before)]
    assert products[0] == products[1] + 1


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    check_int8(exported)


def test_bytes_and_work_from_shapes(export_case: Export) -> None:
    sizes = {"hidden_size": 128, "vocab_size": 8009}
    exported = export_case("bert", "feature-extraction", rebuild=factorised, **sizes)
    shape = shape_of(exported)
    assert (shape.rank, shape.embedding, shape.vocabulary) == (RANK, 128, 8009)
    for precision in ("fp32", "int8"):
        file_bytes = sum(file.bytes for file in exported.record(precision).files)
        bound = BYTES_ERROR + BYTES_SHARE * file_bytes
        assert abs(file_bytes - graph_bytes(shape, precision)) <= bound
    whole = replace(shape, rank=0)
    assert whole.parameters - shape.parameters == 8009 * 128 - (8009 + 128) * RANK
    macs = [sum(n.macs for n in encoder_work(s, 16, "fp32")) for s in (whole, shape)]
    assert macs[1] - macs[0] == 16 * RANK * 128
    assert VOCABULARY * HIDDEN > (VOCABULARY + HIDDEN) * RANK
