"""Word embeddings as a product of two matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.model_folder import read_model_folder
from edgedistil.models.factorised import check_rank, factorise_embeddings, is_factorised
from edgedistil.models.fast.encoder import encode_layers
from edgedistil.models.loading import load_config, load_weights
from edgedistil.models.reduced import class_for
from tests.export.families.conftest import CASES, HIDDEN, VOCABULARY, make_model

FACTORISABLE = [name for name in CASES if name not in ("electra", "albert", "mobilebert")]
IDS_BL = torch.randint(5, VOCABULARY, (3, 23), generator=torch.Generator().manual_seed(7))


def make(name: str) -> PreTrainedModel:
    return make_model(CASES[name], "feature-extraction")


def states(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output_BLD: torch.Tensor = model.eval()(input_ids=IDS_BL).last_hidden_state
    return output_BLD


@pytest.mark.parametrize("name", FACTORISABLE)
def test_at_full_rank_the_outputs_are_the_encoders(name: str) -> None:
    model = make(name)
    factorised = factorise_embeddings(model, HIDDEN)
    assert is_factorised(factorised)
    assert not is_factorised(model)
    torch.testing.assert_close(states(factorised), states(model), atol=1e-4, rtol=1e-4)
    smaller = factorise_embeddings(model, HIDDEN - 1)
    assert (states(smaller) - states(model)).abs().max() > 1e-3


def test_the_product_is_the_nearest_of_its_rank() -> None:
    model = make("bert")
    words_VD = model.get_input_embeddings().weight.double()
    factorised = factorise_embeddings(model, 7).get_input_embeddings()
    product_VD = factorised.weight.double() @ factorised.projection.weight.double().T
    _, values_D, _ = torch.linalg.svd(words_VD, full_matrices=False)
    error = torch.linalg.matrix_norm(words_VD - product_VD)
    torch.testing.assert_close(error, values_D[7:].square().sum().sqrt(), rtol=1e-5, atol=0)
    # Both factors have the same share of the singular values.
    torch.testing.assert_close(
        torch.linalg.vector_norm(factorised.weight.double(), dim=0),
        torch.linalg.vector_norm(factorised.projection.weight.double(), dim=0),
        rtol=1e-4,
        atol=0,
    )


def test_a_matrix_of_low_rank_has_finite_factors() -> None:
    model = make("distilbert")
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 3:] = 0
    factorised = factorise_embeddings(model, 9)
    torch.testing.assert_close(states(factorised), states(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
def test_the_fast_engine_computes_factorised_embeddings(name: str) -> None:
    factorised = factorise_embeddings(make(name), 9).eval()
    with torch.no_grad():
        fast = encode_layers(factorised, IDS_BL, None)[-1]
    torch.testing.assert_close(fast, states(factorised))


def test_a_saved_encoder_is_loaded_again(tmp_path: Path) -> None:
    factorised = factorise_embeddings(make("distilbert"), 9)
    factorised.save_pretrained(tmp_path)
    source = read_model_folder(tmp_path)
    assert source.family.factorises(source.config)
    config = load_config(source)
    loaded = load_weights(AutoModel, source, config)
    assert not loaded.missing
    torch.testing.assert_close(states(loaded.model), states(factorised))
    # transformers alone refuses the folder: it never draws the missing columns in silence.
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModel.from_pretrained(tmp_path)


def test_an_mlm_head_cannot_share_two_matrices() -> None:
    model = make_model(CASES["distilbert"], "fill-mask")
    config = factorise_embeddings(model.base_model, 9).config
    with pytest.raises(ModelError, match="not supported under an MLM head"):
        class_for(type(model), config)(config)


def test_ranks_that_save_nothing_are_refused() -> None:
    model = make("bert")
    # 1031 · E + 32 · E is less than 1031 · 32 up to 31.
    check_rank(model, 31)
    with pytest.raises(ModelError, match=r"is 32; expected 1 to 31: .* not smaller than one"):
        check_rank(model, 32)
    with pytest.raises(ModelError, match=r"expected 1 to 32: the matrix itself has no higher rank"):
        factorise_embeddings(model, 33)


@pytest.mark.parametrize("name", ["electra", "albert", "mobilebert"])
def test_families_with_their_own_factors_are_refused(name: str) -> None:
    assert FAMILIES[name].model_type == name
    with pytest.raises(ModelError, match="has factorised word embeddings already"):
        factorise_embeddings(make(name), 9)
