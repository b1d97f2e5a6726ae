"""Models that are accepted as a teacher, and the errors for those that are not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    FNetConfig,
    FNetForMaskedLM,
)

from edgedistil.core.errors import ModelError, OfflineError
from edgedistil.core.places import cache_root
from edgedistil.models.teacher import load_teacher

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "student",
    "reads",
    "##er",
    "a",
    "teacher",
]


def _config(vocabulary: int = len(WORDS)) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=22,
        num_attention_heads=2,
        intermediate_size=31,
        num_hidden_layers=2,
        max_position_embeddings=13,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BertForMaskedLM with its tokenizer, as transformers saves it."""
    path = tmp_path / "tiny-bert"
    torch.manual_seed(3)
    BertForMaskedLM(_config()).save_pretrained(path)
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(path)
    return path


def _load(source: Path | str, cache: Path) -> object:
    return load_teacher(str(source), revision=None, cache=cache)


def test_a_folder_with_head(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher = load_teacher(str(folder), revision=None, cache=tmp_path)
    expected = BertForMaskedLM.from_pretrained(folder).cls.predictions.transform.dense.weight
    capfd.readouterr()
    again = load_teacher(str(folder), revision=None, cache=tmp_path)
    assert capfd.readouterr() == ("", "")  # transformers' bars and reports are silenced
    assert teacher.has_mlm_head and teacher.name == "tiny-bert" and teacher.folder == folder
    assert torch.equal(teacher.model.cls.predictions.transform.dense.weight, expected)
    assert not again.model.training and again.model.dtype == torch.float32
    ids = teacher.tokenizer.backend.encode("The student reads a teacher").ids
    assert ids == [2, 5, 6, 7, 9, 10, 3]


def test_the_real_package(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    assert not teacher.has_mlm_head and teacher.name == "minilm"
    assert teacher.tokenizer.size == teacher.model.config.vocab_size == 30522
    long = "a sentence of many words " * 60
    # The package's own tokenizer truncates at 128 tokens and pads up to them.
    assert len(teacher.tokenizer.backend.encode(long).ids) == 302
    assert len(teacher.tokenizer.backend.encode("a").ids) == 3
    on_disk = json.loads((teacher.folder / "tokenizer.json").read_text())
    assert on_disk["truncation"] is None and on_disk["padding"] is None
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in teacher.folder.iterdir()
    }
    assert "corrupted" not in capfd.readouterr().err


def test_an_encoder_without_head(folder: Path, tmp_path: Path) -> None:
    BertModel(_config()).save_pretrained(folder)
    first, again = (load_teacher(str(folder), revision=None, cache=tmp_path) for _ in range(2))
    assert not first.has_mlm_head
    head = "cls.predictions.transform.dense.weight"
    assert torch.equal(first.model.state_dict()[head], again.model.state_dict()[head])


def test_truncation_and_padding_of_the_file_are_switched_off(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))
    teacher = load_teacher(str(folder), revision=None, cache=tmp_path)
    assert len(teacher.tokenizer.backend.encode("the student reads a teacher").ids) == 7


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(
        ModelError, match=r"no weights in safetensors, only pytorch_model\.bin"
    ) as caught:
        _load(folder, tmp_path)
    assert "save_pretrained" in str(caught.value)


@pytest.mark.parametrize("file", ["tf_model.h5", "flax_model.msgpack", "model.ckpt", "model.pth"])
def test_every_other_weight_format_is_reported(folder: Path, tmp_path: Path, file: str) -> None:
    """The list of refused formats is core/fetch's, the same for teachers and exported models."""
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(b"weights")
    with pytest.raises(ModelError, match=f"no weights in safetensors, only {re.escape(file)}"):
        _load(folder, tmp_path)


def test_relative_positions_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["position_embedding_type"] = "relative_key"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has position_embedding_type = 'relative_key'; supported"):
        _load(folder, tmp_path)


def test_a_model_of_another_kind(folder: Path, tmp_path: Path) -> None:
    config = FNetConfig(vocab_size=len(WORDS), num_hidden_layers=1)
    FNetForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"type 'fnet' \(FNetForMaskedLM\); supported: bert"):
        _load(folder, tmp_path)


def test_more_rows_than_tokens_are_normal(folder: Path, tmp_path: Path) -> None:
    """A matrix is often padded to a multiple of 8."""
    BertForMaskedLM(_config(vocabulary=16)).save_pretrained(folder)
    teacher = load_teacher(str(folder), revision=None, cache=tmp_path)
    assert (teacher.tokenizer.size, teacher.model.config.vocab_size) == (11, 16)


def test_more_tokens_than_rows(folder: Path, tmp_path: Path) -> None:
    BertForMaskedLM(_config(vocabulary=9)).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"ids up to 10 \(11 tokens\), .* matrix of 9 rows"):
        _load(folder, tmp_path)


def test_a_head_that_is_not_tied_to_the_word_embeddings(folder: Path, tmp_path: Path) -> None:
    """The student ties the two, so it would learn another head than the one that it starts from."""
    config = _config()
    config.tie_word_embeddings = False
    BertForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"a matrix of its own \(tie_word_embeddings = false\)"):
        _load(folder, tmp_path)


def test_weights_that_are_nan(folder: Path, tmp_path: Path) -> None:
    model = BertForMaskedLM(_config())
    model.bert.encoder.layer[1].output.dense.bias.data[3:5] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"damaged: 2 of 22 values of 'bert.*dense.bias' are NaN"):
        _load(folder, tmp_path)


def test_truncated_weights(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        ModelError, match=r"model\.safetensors is truncated or not a safetensors file"
    ):
        _load(folder, tmp_path)


def test_weights_that_lack_a_layer(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="num_hidden_layers = 3, and the weights have 2 layers"):
        _load(folder, tmp_path)


def test_weights_that_lack_a_part_of_a_layer(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = [name for name in tensors if "layer.1.output" not in name]
    save_file({name: tensors[name] for name in names}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack bert\.encoder\.layer\.1\.output.* and 1 more"):
        _load(folder, tmp_path)


def test_a_decoder(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    with pytest.raises(ModelError, match="is a decoder; supported: an encoder"):
        _load(folder, tmp_path)


@pytest.mark.parametrize(
    ("file", "message"), [("config.json", "no config.json"), ("tokenizer.json", "has no tokenizer")]
)
def test_a_folder_that_lacks_a_file(folder: Path, tmp_path: Path, file: str, message: str) -> None:
    (folder / file).unlink()
    with pytest.raises(ModelError, match=message):
        _load(folder, tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "no model './nowhere': no such folder"),
        ("a/b/c", "not a valid hub id"),
        ("asset:reviews", "asset 'reviews' is not a model; expected one of: minilm"),
    ],
)
def test_no_such_source(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        _load(source, tmp_path)


def test_the_hub_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="cannot download model 'no-one/no-such-bert'") as caught:
        _load("no-one/no-such-bert", tmp_path)
    assert "model.safetensors" in str(caught.value)


def test_a_broken_layout_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgedistil.core.assets.read_member", fail)
    with pytest.raises(KeyboardInterrupt):
        _load("asset:minilm", tmp_path)
    assert list((tmp_path / "models").iterdir()) == []
    monkeypatch.undo()
    shutil.rmtree(tmp_path)
