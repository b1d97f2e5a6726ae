"""What a model folder says about itself is checked before a library loads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertModel
from transformers.activations import ACT2FN

from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import ACTIVATIONS, REFUSED_ACTIVATIONS, read_model_folder

Change = Callable[[Path], None]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    config = BertConfig(
        vocab_size=29,
        hidden_size=22,
        num_attention_heads=2,
        intermediate_size=31,
        num_hidden_layers=3,
        max_position_embeddings=17,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def distilbert(tmp_path: Path) -> Path:
    config = DistilBertConfig(vocab_size=29, dim=22, n_heads=2, hidden_dim=31, n_layers=3)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    return tmp_path / "distilbert"


def _config(**values: Any) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def _file(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def _shards(weight_map: Any, *, keep: bool = False) -> Change:
    """Renames the weights to a shard, with an index."""

    def apply(folder: Path) -> None:
        weights = folder / "model.safetensors"
        if not keep:
            weights = weights.rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return apply


def test_config_and_shapes_of_a_sound_folder(bert: Path) -> None:
    model = read_model_folder(bert)
    assert model.architectures == ["BertForMaskedLM"]
    assert (model.family.model_type, model.config["num_hidden_layers"]) == ("bert", 3)
    assert model.shapes["bert.embeddings.word_embeddings.weight"] == (29, 22)
    assert set(model.shapes) == set(load_file(bert / "model.safetensors"))


def test_shards_are_read_where_the_index_says(bert: Path) -> None:
    names = list(load_file(bert / "model.safetensors"))
    _shards(dict.fromkeys(names, "model-00001-of-00001.safetensors"))(bert)
    assert set(read_model_folder(bert).shapes) == set(names)


def test_sizes_that_config_json_leaves_out(distilbert: Path) -> None:
    path = distilbert / "config.json"
    config = json.loads(path.read_text())
    del config["max_position_embeddings"], config["activation"], config["pad_token_id"]
    path.write_text(json.dumps(config))
    assert read_model_folder(distilbert).config["max_position_embeddings"] == 512


def test_the_activations_are_those_of_transformers() -> None:
    assert set(ACT2FN) - set(REFUSED_ACTIVATIONS) == ACTIVATIONS


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (_file("config.json", "[]"), "contains a JSON list; expected an object"),
        (_file("config.json", "null"), "contains a JSON NoneType; expected an object"),
        (_file("config.json", "[" * 100_000), "is not valid JSON"),
        (_file("config.json", '{"x": NaN}'), r"is not valid JSON \(NaN is not a JSON value\)"),
        (_file("config.json", '{"x": -Infinity}'), "-Infinity is not a JSON value"),
        (_file("config.json", b"\xff\xfe{}"), "is not valid JSON"),
        (_config(architectures=[1]), r"names the architectures \[1\]; expected names of classes"),
        (_config(architectures={"a": 1}), "names the architectures .*; expected names of classes"),
        (_config(model_type=7), "is a model of type '7'"),
        (_config(model_type=["bert"]), "is a model of type"),
        (_config(model_type="t5"), r"type 't5' \(BertForMaskedLM\); supported: bert, distilbert"),
        (_config(quantization_config={"bits": 4}), "has quantized weights"),
        (_config(is_encoder_decoder=True), "is a decoder"),
        (_config(add_cross_attention=True), "has cross-attention"),
        (_config(position_embedding_type=3), "has position_embedding_type = '3'"),
        (_config(vocab_size="12"), "vocab_size = '12'; expected 1 to 10,000,000"),
        (_config(vocab_size=True), "vocab_size = True; expected 1 to"),
        (_config(vocab_size=29.0), "vocab_size = 29.0; expected 1 to"),
        (_config(hidden_size=0), "hidden_size = 0; expected 1 to 65,536"),
        (_config(num_attention_heads=0), "num_attention_heads = 0; expected 1 to"),
        (_config(num_attention_heads=3), "hidden_size = 22 is not a multiple of .*heads = 3"),
        (_config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000; expected 1 to 1,000"),
        (_config(num_hidden_layers=None), "num_hidden_layers = None; expected 1 to"),
        (_config(num_hidden_layers=4), "num_hidden_layers = 4, and the weights have 3 layers"),
        (_config(num_hidden_layers=2), "num_hidden_layers = 2, and the weights have 3 layers"),
        (_config(type_vocab_size=-1), "type_vocab_size = -1; expected 1 to"),
        (_config(pad_token_id=10**9), "pad_token_id = 1000000000 is beyond the 29 rows"),
        (_config(pad_token_id=[0]), r"pad_token_id = \[0\]; expected an integer"),
        (
            _config(hidden_act="xielu"),
            r"hidden_act = 'xielu' is not supported, as no operator of ONNX .*: one of gelu",
        ),
        (_config(hidden_act="swiglu"), "hidden_act = 'swiglu'; expected one of gelu, gelu_10"),
        (
            _config(hidden_act=["gelu"]),
            "hidden_act = .*; expected one of gelu",
        ),
        (_config(layer_norm_eps="1e-12"), "layer_norm_eps = '1e-12'; expected a number above 0"),
        (_config(layer_norm_eps=0), "layer_norm_eps = 0; expected a number above 0"),
        (_config(hidden_dropout_prob=1.5), "hidden_dropout_prob = 1.5; expected 0 to 1"),
        (_config(initializer_range=101), "initializer_range = 101; expected 0 to 100"),
        (_config(id2label=["a", "b"]), "id2label = .*; expected an object"),
        (_config(pruned_heads={"0": [1]}), "pruned_heads = .*; expected a list of different heads"),
        (
            _config(pruned_heads=[0]),
            "pruned_heads = .*; expected a list of different heads",
        ),
        (
            _config(pruned_heads={"0": [0, 0], "1": [1], "2": [1]}),
            "pruned_heads of layer 0 is wrong; expected a list of different heads",
        ),
        (
            _config(pruned_heads={"0": [0], "1": [], "2": [1]}),
            "pruned_heads leaves 1, 2 heads; expected one number above 0",
        ),
        (
            _config(pruned_heads={"0": [0], "1": [0], "2": [1]}),
            r"query.weight' in .* has the shape \(22, 22\); config.json asks for \(11, 22\)",
        ),
        (_config(num_labels=-2), "num_labels = -2; expected 1 to 1,000,000"),
        (_config(problem_type="ranking"), "problem_type = 'ranking'; expected one of regression"),
        (_config(torch_dtype="int3"), "torch_dtype = 'int3'; expected one of float32"),
        (
            _config(hidden_size=0, vocab_size=0),
            "vocab_size = 0; .*|hidden_size = 0; .*; vocab_size",
        ),
        (
            _config(vocab_size=30),
            r"word_embeddings.weight' in .* has the shape \(29, 22\); .* asks for \(30, 22\)",
        ),
        (
            _config(max_position_embeddings=18),
            r"position_embeddings.weight' in .* shape \(17, 22\); .* asks for \(18, 22\)",
        ),
        (_config(intermediate_size=32), r"shape \(31, 22\); config.json asks for \(32, 22\)"),
        (_file("model.safetensors", b""), "is truncated or not a safetensors file"),
        (_file("model.safetensors", b"\xff" * 200), "is truncated or not a safetensors file"),
        (_file("model.safetensors", b"\x02\0\0\0\0\0\0\0[]"), "is truncated or not a safetensors"),
        (_shards([1]), "has no weight_map; expected the file of each weight"),
        (_shards({"a": 3}), "names the file '3'; expected the name of a .safetensors file"),
        (_shards({"a": "../../other.safetensors"}), r"names the file '../../other.safetensors'"),
        (_shards({"a": "/etc/passwd"}), "names the file '/etc/passwd'"),
        (_shards({"a": "gone.safetensors"}), "names gone.safetensors, which .* does not have"),
        (
            lambda f: (f / "model.safetensors").rename(f / "weights.safetensors") and None,
            "has weights.safetensors, and neither model.safetensors nor",
        ),
    ],
)
def test_a_folder_that_is_damaged_or_contradicts_itself(
    bert: Path, apply: Change, message: str
) -> None:
    apply(bert)
    with pytest.raises(ModelError, match=message) as caught:
        read_model_folder(bert)
    assert caught.value.exit_code == 2


def test_an_index_without_metadata(bert: Path) -> None:
    _shards({"a": "model-00001-of-00001.safetensors"})(bert)
    index = bert / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": content["weight_map"]}))
    with pytest.raises(ModelError, match="has no metadata; expected an object"):
        read_model_folder(bert)


def test_a_damaged_index(bert: Path) -> None:
    _shards({})(bert)
    (bert / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="contains a JSON list"):
        read_model_folder(bert)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_named_pipe_is_not_waited_for(bert: Path, name: str) -> None:
    (bert / name).unlink()
    os.mkfifo(bert / name)
    with pytest.raises(ModelError, match="named pipe"):
        read_model_folder(bert)


def test_quantized_weights(bert: Path) -> None:
    path = bert / "model.safetensors"
    tensors = load_file(path)
    name = "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"the weight '{name}' in .* is of type I8; expected"):
        read_model_folder(bert)


def test_a_missing_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a model folder: it has no config\.json"):
        read_model_folder(tmp_path)


def test_a_model_in_a_subfolder_is_named(bert: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no config.json\n  a subfolder has one: .*bert"):
        read_model_folder(bert.parent)


def test_an_adapter_alone_is_refused(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "adapter_model.safetensors")
    hint = "merge the adapter into the model that it was made for"
    with pytest.raises(ModelError, match=rf"weights of an adapter only: .*\n  {hint}"):
        read_model_folder(bert)
    # As peft saves it: without the model's config.json.
    (bert / "config.json").rename(bert / "adapter_config.json")
    with pytest.raises(ModelError, match=rf"it has no config.json\n  {hint}"):
        read_model_folder(bert)
