"""Weights are loaded completely, or the error names what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
)

from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import read_model_folder
from edgedistil.models.loading import drop_missing_pooler, load_config, load_weights

SIZES = {
    "vocab_size": 29,
    "hidden_size": 22,
    "num_attention_heads": 2,
    "intermediate_size": 31,
    "num_hidden_layers": 1,
    "max_position_embeddings": 17,
}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=5))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_weight_of_another_shape_is_named_with_both_shapes(classifier: Path) -> None:
    source = read_model_folder(classifier)
    config = load_config(source)
    config.num_labels = 3
    message = r"'classifier.*' in .* has the shape \(5,.*\); config.json asks for \(3,.*\)"
    with pytest.raises(ModelError, match=message):
        load_weights(AutoModelForSequenceClassification, source, config)


def test_a_fresh_head_may_have_another_shape(classifier: Path) -> None:
    source = read_model_folder(classifier)
    config = load_config(source)
    config.num_labels = 3
    loaded = load_weights(AutoModelForSequenceClassification, source, config, fresh_head=True)
    assert loaded.mismatched == ["classifier.bias", "classifier.weight"]
    assert loaded.model.classifier.weight.shape == (3, 22)


def test_an_encoder_of_another_shape_is_no_fresh_head(classifier: Path) -> None:
    path = classifier / "model.safetensors"
    tensors = load_file(path)
    name = "bert.encoder.layer.0.output.dense.bias"
    tensors[name] = torch.zeros(21)
    save_file(tensors, path, {"format": "pt"})
    source = read_model_folder(classifier)
    with pytest.raises(ModelError, match=rf"'{name}' in .* shape \(21,\); .* for \(22,\)"):
        load_weights(
            AutoModelForSequenceClassification, source, load_config(source), fresh_head=True
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(classifier: Path, value: float) -> None:
    path = classifier / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.embeddings.LayerNorm.bias"][3:6] = value
    save_file(tensors, path, {"format": "pt"})
    source = read_model_folder(classifier)
    with pytest.raises(ModelError, match=r"is damaged: 3 of 22 values of '.*LayerNorm.bias' are"):
        load_weights(AutoModel, source, load_config(source))


def test_a_config_cannot_change_the_outputs(classifier: Path) -> None:
    config = BertConfig(**SIZES, return_dict=False, output_hidden_states=True, num_labels=5)
    config.chunk_size_feed_forward = 3
    config.save_pretrained(classifier)
    loaded = load_config(read_model_folder(classifier))
    assert loaded.return_dict and not loaded.output_hidden_states
    assert loaded.chunk_size_feed_forward == 0


def test_a_pooler_is_removed_only_if_the_files_lack_it(tmp_path: Path, classifier: Path) -> None:
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(tmp_path / "mlm")
    poolers = {}
    for folder in (classifier, tmp_path / "mlm"):
        source = read_model_folder(folder)
        loaded = load_weights(AutoModel, source, load_config(source))
        drop_missing_pooler(loaded)
        poolers[folder.name] = loaded.model.pooler is not None
    assert poolers == {"model": True, "mlm": False}
