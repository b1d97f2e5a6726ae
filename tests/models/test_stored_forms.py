"""Weights in every form that users have give the outputs of the model that was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.model_folder import read_model_folder
from edgedistil.export.source import read_source
from edgedistil.models.loading import load_config, load_weights
from tests.export.families.conftest import CASES, LAYERS, make_model
from tests.fixtures.tokenizer_folders import VOCABULARY

Weights = dict[str, Tensor]
SIZES = {
    "vocab_size": 2 * VOCABULARY,
    "hidden_size": 22,
    "num_attention_heads": 2,
    "intermediate_size": 31,
    "num_hidden_layers": 3,
    "max_position_embeddings": 43,
}
# One class for each way in which a family names its modules.
CLASSES = ("BertForMaskedLM", "RobertaForMaskedLM", "ElectraForMaskedLM", "AlbertForMaskedLM")


def save(class_name: str, folder: Path, **more: Any) -> Any:
    model_class = getattr(transformers, class_name)
    torch.manual_seed(3)
    config = model_class.config_class(**{**SIZES, "embedding_size": 22, **more})
    model = model_class(config).eval()
    # A norm's weights are ones at first: then a lost one would not be seen.
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name or "layer_norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    return model


def logits(model: Any) -> Tensor:
    ids = torch.randint(5, SIZES["vocab_size"], (2, 13), generator=torch.manual_seed(5))
    with torch.inference_mode():
        return model(input_ids=ids).logits


def load(folder: Path) -> Any:
    source = read_model_folder(folder)
    loaded = load_weights(transformers.AutoModelForMaskedLM, source, load_config(source))
    assert [name for name in loaded.missing if "pooler" not in name] == []
    return loaded.model.eval()


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def in_shards(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def old_norm_names(weights: Weights) -> Weights:
    renamed = {}
    for name, value in weights.items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        renamed[old.replace("LayerNorm.bias", "LayerNorm.beta")] = value
    assert set(renamed) != set(weights)
    return renamed


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("form", ["as saved", "shards", "old names", "position ids"])
def test_the_same_numbers_give_the_same_outputs(tmp_path: Path, class_name: str, form: str) -> None:
    expected = logits(save(class_name, tmp_path))
    if form == "shards":
        in_shards(tmp_path)
    elif form == "old names":
        # RoBERTa's head has names of its own.
        rewrite(tmp_path, old_norm_names)
    elif form == "position ids":
        prefix = FAMILIES[json.loads((tmp_path / "config.json").read_text())["model_type"]]
        name = f"{prefix.module_prefix}.embeddings.position_ids"
        rewrite(tmp_path, lambda weights: {**weights, name: torch.arange(43)[None]})
    torch.testing.assert_close(logits(load(tmp_path)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_numbers_of_another_type_are_read_as_float32(
    tmp_path: Path, class_name: str, dtype: torch.dtype
) -> None:
    model = save(class_name, tmp_path)
    rewrite(tmp_path, lambda weights: {name: value.to(dtype) for name, value in weights.items()})
    rounded = {name: value.to(dtype).float() for name, value in model.state_dict().items()}
    model.load_state_dict(rounded)
    loaded = load(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Bert", "DistilBert", "Roberta", "Electra", "MPNet"])
def test_an_encoder_with_its_prefix_or_without(tmp_path: Path, name: str) -> None:
    """An encoder alone is saved without a prefix; with one, by a model with a head."""
    model = save(f"{name}Model", tmp_path)
    family = FAMILIES[model.config.model_type]
    ids = torch.randint(5, SIZES["vocab_size"], (2, 13), generator=torch.manual_seed(5))
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
    rewrite(
        tmp_path,
        lambda weights: {f"{family.module_prefix}.{key}": value for key, value in weights.items()},
    )
    source = read_model_folder(tmp_path)
    loaded = load_weights(transformers.AutoModel, source, load_config(source))
    assert loaded.missing == []
    with torch.inference_mode():
        hidden = loaded.model.eval()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(hidden, expected, rtol=0, atol=0)


@pytest.mark.parametrize("class_name", ["BertForMaskedLM", "DistilBertForMaskedLM"])
def test_a_config_that_leaves_out_its_defaults(tmp_path: Path, class_name: str) -> None:
    model = save(class_name, tmp_path)
    expected = logits(model)
    written = json.loads((tmp_path / "config.json").read_text())
    standard = type(model.config)().to_dict()
    needed = {
        key: value
        for key, value in written.items()
        if key in ("model_type", "architectures") or standard.get(key) != value
    }
    assert len(needed) < len(written) - 5
    (tmp_path / "config.json").write_text(json.dumps(needed))
    torch.testing.assert_close(logits(load(tmp_path)), expected, rtol=0, atol=0)


def add_tokenizer(folder: Path, tokenizer: Path) -> None:
    for path in tokenizer.iterdir():
        if path.name != "config.json":
            (folder / path.name).write_bytes(path.read_bytes())


def test_a_head_of_another_size_is_refused_for_export(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    save("RobertaForSequenceClassification", tmp_path, num_labels=5)
    add_tokenizer(tmp_path, tokenizer_folders["roberta"])
    config = json.loads((tmp_path / "config.json").read_text())
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **labels}))
    source = read_source(tmp_path, name="x", role="other", task=None)
    assert source.task == "text-classification"
    with pytest.raises(ModelError, match=r"classifier.out_proj.* has the shape \(5.*asks for \(3"):
        source.load_model()


def test_a_cross_encoder_gives_one_score_for_a_pair(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    model = save("XLMRobertaForSequenceClassification", tmp_path, num_labels=1)
    add_tokenizer(tmp_path, tokenizer_folders["xlm-roberta model"])
    config = json.loads((tmp_path / "config.json").read_text())
    extra = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **extra}))
    source = read_source(tmp_path, name="x", role="other", task=None)
    assert source.task == "text-classification"
    first, second = source.load_tokenizer().encode_texts(["Is it open?", "The library closes."])
    ids, _ = source.load_tokenizer().frame(first, second)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ids == theirs("Is it open?", "The library closes.")["input_ids"]
    with torch.inference_mode():
        score = source.load_model()(input_ids=torch.tensor([ids])).logits
        expected = model(input_ids=torch.tensor([ids])).logits
    assert score.shape == (1, 1)
    torch.testing.assert_close(score, expected, rtol=0, atol=0)


def test_a_setfit_folder_keeps_its_head_closed(
    tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    """The head is a pickle that would leave a file behind if anything loaded it."""
    save("MPNetModel", tmp_path)
    add_tokenizer(tmp_path, tokenizer_folders["mpnet"])
    proof = tmp_path / "loaded"
    program = f"c__builtin__\nopen\n(V{proof}\nVw\ntR.".encode()
    (tmp_path / "model_head.pkl").write_bytes(program)
    source = read_source(tmp_path, name="x", role="other", task=None)
    source.load_model()
    source.load_tokenizer()
    assert source.task == "feature-extraction"
    assert not proof.exists()


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", sorted(CASES))
def test_layers_that_config_json_does_not_count_are_refused(
    name: str, change: int, tmp_path: Path
) -> None:
    """transformers would leave the last ones out, or make them up."""
    family = FAMILIES[CASES[name].model_type]
    key = "num_hidden_groups" if family.shares_layers else family.keys.layers
    make_model(CASES[name], "fill-mask", **{key: LAYERS}).save_pretrained(tmp_path)
    assert read_model_folder(tmp_path).config[key] == LAYERS
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {key: LAYERS + change}
    # ModernBERT's file lists the kinds of its layers.
    config.pop("layer_types", None)
    path.write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=f"{key} = {LAYERS + change}, and the weights have {LAYERS}"
    ):
        read_model_folder(tmp_path)
