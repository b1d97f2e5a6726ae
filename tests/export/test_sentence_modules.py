"""Modules of sentence-transformers folders: copied completely, or the export is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgedistil.core.errors import ModelError
from edgedistil.core.sentence_modules import find_transformer, read_modules
from edgedistil.core.sentence_vector import (
    SentenceVector,
    Step,
    read_max_length,
    read_sentence_vector,
)
from edgedistil.export.sentence_modules import (
    check_modules,
    omitted_parts,
    write_sentence_modules,
)

TRANSFORMER = {
    "idx": 0,
    "name": "0",
    "path": "",
    "type": "sentence_transformers.models.Transformer",
}
POOLING = {
    "idx": 1,
    "name": "1",
    "path": "1_Pooling",
    "type": "sentence_transformers.models.Pooling",
}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
NORMALIZE = {
    "idx": 3,
    "name": "3",
    "path": "3_Normalize",
    "type": "sentence_transformers.models.Normalize",
}


VECTOR = SentenceVector(pooling=("mean",), steps=(), dimension=32, is_guess=True)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with first-token pooling, a dense layer, normalization and prompts."""
    folder = tmp_path / "source"
    write_json(folder / "modules.json", [TRANSFORMER, POOLING, DENSE, NORMALIZE])
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 96})
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    write_json(folder / "2_Dense" / "config.json", {"in_features": 32, "out_features": 16})
    save_file({"linear.weight": np.ones((16, 32))}, folder / "2_Dense" / "model.safetensors")
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_module_comes_with_its_weights_and_the_prompts(source: Path, package: Path) -> None:
    write_sentence_modules(package, source, VECTOR, max_length=64)
    assert files(package) == files(source)
    weights = "2_Dense/model.safetensors"
    assert (package / weights).read_bytes() == (source / weights).read_bytes()
    modules = json.loads((package / "modules.json").read_text())
    assert modules == [TRANSFORMER, POOLING, DENSE, NORMALIZE]


def test_without_modules_the_pooling_is_a_guess(tmp_path: Path, package: Path) -> None:
    write_sentence_modules(package, tmp_path, VECTOR, max_length=64)
    pooling = json.loads((package / "1_Pooling/config.json").read_text())
    assert pooling == {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def test_a_stated_pooling_and_a_cut_become_modules(tmp_path: Path, package: Path) -> None:
    vector = replace(VECTOR, pooling=("cls",), steps=(Step("normalize"),), is_guess=False)
    write_sentence_modules(package, tmp_path, vector.truncated(8), max_length=64)
    names = [module.class_name for module in read_modules(package)]
    assert names == ["Transformer", "Pooling", "Normalize", "Dense", "Normalize"]
    weights = load_file(package / "3_Cut/model.safetensors")["linear.weight"]
    np.testing.assert_array_equal(weights, np.eye(8, 32))
    packaged = read_sentence_vector(package, hidden=32)
    assert (packaged.pooling, packaged.dimension) == (("cls",), 8)


def test_a_model_in_a_subfolder_is_found_and_packaged_at_the_top(
    source: Path, package: Path
) -> None:
    write_json(source / "modules.json", [TRANSFORMER | {"path": "0_Transformer"}, POOLING])
    write_json(source / "0_Transformer" / "config.json", {})
    write_json(source / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 7})
    assert find_transformer(source) == source / "0_Transformer"
    write_sentence_modules(package, source, VECTOR, max_length=64)
    assert json.loads((package / "modules.json").read_text())[0] == TRANSFORMER
    settings = json.loads((package / "sentence_bert_config.json").read_text())
    assert settings == {"max_seq_length": 7}


def test_modules_in_a_module_and_settings_of_other_names_are_copied(
    source: Path, package: Path
) -> None:
    asym = {"idx": 1, "name": "1", "path": "1_Asym", "type": "sentence_transformers.models.Asym"}
    lstm = {"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"}
    write_json(source / "modules.json", [TRANSFORMER, asym, lstm])
    write_json(source / "1_Asym" / "config.json", {"structure": {"query": ["a"]}})
    write_json(source / "1_Asym" / "a" / "config.json", {"in_features": 32})
    write_json(source / "2_LSTM" / "lstm_config.json", {"hidden_dim": 3})
    for folder in (source / "1_Asym" / "a", source / "2_LSTM"):
        save_file({"w": np.ones(3)}, folder / "model.safetensors")
    check_modules(source)
    write_sentence_modules(package, source, VECTOR, max_length=64)
    expected = {name for name in files(source) if not name.startswith(("1_Pooling", "2_Dense"))}
    assert files(package) == expected


def test_weights_in_a_pickle_are_refused(source: Path) -> None:
    (source / "2_Dense/model.safetensors").rename(source / "2_Dense/pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"module Dense .* 2_Dense/pytorch_model\.bin only"
    ) as error:
        check_modules(source)
    assert "save it again" in str(error.value)


def test_a_complete_folder_passes(source: Path, tmp_path: Path) -> None:
    check_modules(source)
    check_modules(tmp_path / "without modules")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([POOLING, TRANSFORMER], "lists the modules Pooling, Transformer; supported: one"),
        ([TRANSFORMER, TRANSFORMER, POOLING], "supported: one Transformer"),
        ([POOLING], "supported: one Transformer"),
        ([TRANSFORMER, POOLING | {"path": ""}], "module Pooling .* has no folder of its own"),
        ([TRANSFORMER, DENSE | {"path": "4_Dense"}], "module Dense .* names '4_Dense'"),
    ],
)
def test_modules_that_a_package_cannot_contain_are_refused(
    source: Path, modules: list[Any], message: str
) -> None:
    write_json(source / "modules.json", modules)
    with pytest.raises(ModelError, match=message):
        check_modules(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("2_Dense/model.safetensors", b"cut", "truncated or not a safetensors file"),
        ("2_Dense/model.safetensors", None, "module Dense .* has no weights"),
        ("2_Dense/config.json", None, "2_Dense/config.json"),
        ("1_Pooling/config.json", b"[]", "1_Pooling/config.json"),
        ("1_Pooling/config.json", b'{"pooling_mode_mean_tokens": false}', "every pooling mode off"),
        ("sentence_bert_config.json", b'{"max_seq_length": "x"}', "max_seq_length is x"),
        ("sentence_bert_config.json", b"{", "sentence_bert_config.json"),
        ("config_sentence_transformers.json", b"[]", "config_sentence_transformers.json"),
    ],
)
def test_damaged_files_of_modules_are_refused(
    source: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        check_modules(source)


def test_the_length_at_which_texts_are_cut(source: Path, tmp_path: Path) -> None:
    assert read_max_length(source) == 96
    write_json(source / "sentence_bert_config.json", {"max_seq_length": None})
    assert read_max_length(source) is None
    assert read_max_length(tmp_path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "is corrupt: expected a list"),
        ([1], "is corrupt"),
        ([TRANSFORMER | {"path": "../other"}], "outside of the folder"),
        ([TRANSFORMER | {"path": "/etc"}], "outside of the folder"),
        ([TRANSFORMER | {"type": "custom_st.Transformer"}], "code of the model"),
    ],
)
def test_bad_modules_are_refused(source: Path, content: Any, message: str) -> None:
    write_json(source / "modules.json", content)
    with pytest.raises(ModelError, match=message):
        read_modules(source)


def test_parts_that_are_not_exported_are_listed_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "model_head.pkl").write_bytes(b"not a pickle")
    write_json(tmp_path / "config.json", {"auto_map": {"AutoModel": "own.Own"}})
    (tmp_path / "adapter_config.json").write_text("{}")
    assert omitted_parts(tmp_path, has_modules=False) == [
        "model_head.pkl: a classification head outside of the model (SetFit's)",
        "adapter_model: weights of an adapter, which has to be merged into the model first",
        "code of the model's own (auto_map), which is not run",
    ]
    assert omitted_parts(tmp_path / "nothing", has_modules=False) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model_head.pkl", "x"),
        ("config_setfit.json", "{}"),
        ("README.md", "---\nlibrary_name: setfit\n---\n"),
        ("README.md", "---\ntags:\n- setfit\n---\n"),
    ],
)
def test_every_sign_of_a_head_gives_the_same_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (part,) = omitted_parts(tmp_path, has_modules=False)
    assert part.startswith("model_head.pkl: a classification head")


def test_sentence_vectors_and_lower_case_are_named_where_they_are_left_out(source: Path) -> None:
    assert omitted_parts(source, has_modules=True) == []
    (part,) = omitted_parts(source, has_modules=False)
    assert part.startswith("modules.json: sentence vectors (Pooling, Dense, Normalize)")
    write_json(source / "sentence_bert_config.json", {"do_lower_case": True})
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    write_json(source / "config.json", {"model_type": "bert", "vocab_size": 6})
    write_json(source / "tokenizer_config.json", {"do_lower_case": False})
    (part,) = omitted_parts(source, has_modules=True)
    assert part.startswith("sentence_bert_config.json: do_lower_case")
    write_json(source / "tokenizer_config.json", {"do_lower_case": True})
    assert omitted_parts(source, has_modules=True) == []
