from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgedistil.core.errors import ModelError
from edgedistil.export.source import checked_task, load_source

Folder = Callable[[str], Path]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("DistilBertForMaskedLM", "fill-mask"),
        ("DistilBertModel", "feature-extraction"),
        ("DistilBertForSequenceClassification", "text-classification"),
        ("BertForPreTraining", "fill-mask"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertForTokenClassification", "token-classification"),
    ],
)
def test_the_task_follows_from_the_architecture(folder: Folder, name: str, task: str) -> None:
    source = load_source(folder(name), name="x", role="other", task=None)
    assert source.task == task
    assert not source.model.training
    assert source.takes_token_types == name.startswith("Bert")


def test_a_masked_lm_serves_as_encoder_too(folder: Folder) -> None:
    source = load_source(
        folder("DistilBertForMaskedLM"), name="x", role="other", task="feature-extraction"
    )
    assert type(source.model).__name__ == "DistilBertModel"


def test_synonyms_of_tasks_manager_are_understood() -> None:
    assert checked_task("masked-lm") == "fill-mask"
    with pytest.raises(
        ModelError, match="no task 'translate'; supported: fill-mask, feature-extraction"
    ):
        checked_task("translate")


def test_weights_that_do_not_serve_the_task_are_refused(folder: Folder) -> None:
    with pytest.raises(ModelError, match=r"lacks .*qa_outputs.* cannot serve question-answering"):
        load_source(
            folder("DistilBertForMaskedLM"), name="x", role="other", task="question-answering"
        )


def test_another_type_of_model_is_named_with_what_is_supported(folder: Folder) -> None:
    place = folder("DistilBertModel")
    (place / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    with pytest.raises(
        ModelError, match=r"type 'llama' \(LlamaForCausalLM\); supported: bert, distilbert"
    ) as caught:
        load_source(place, name="x", role="other", task=None)
    assert caught.value.exit_code == 2


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folder: Folder) -> None:
    place = folder("DistilBertModel")
    (place / "model.safetensors").unlink()
    torch.save({}, place / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"no weights in safetensors, only pytorch_model.bin"
    ) as caught:
        load_source(place, name="x", role="other", task=None)
    assert "save_pretrained" in str(caught.value.hint)


def test_torn_weights_are_an_input_error(folder: Folder) -> None:
    place = folder("DistilBertModel")
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"the weights in .* cannot be read"):
        load_source(place, name="x", role="other", task=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "has the activation 'relu'; supported: gelu"),
        ({"architectures": []}, "names no architecture, and no task follows from it"),
        ({"is_decoder": True}, "has a decoder; supported: encoders"),
    ],
)
def test_configs_that_cannot_be_exported_are_refused(
    folder: Folder, change: dict[str, object], message: str
) -> None:
    place = folder("DistilBertModel")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load_source(place, name="x", role="other", task=None)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no model folder: it has no config.json"):
        load_source(tmp_path, name="x", role="other", task=None)
