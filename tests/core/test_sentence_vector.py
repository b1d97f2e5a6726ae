"""The description of a sentence vector, as sentence-transformers folders hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.sentence_vector import read_sentence_vector

PACKAGE = "sentence_transformers.models."
SETTINGS = "config_sentence_transformers.json"


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_modules(folder: Path, *types: str) -> None:
    entries = []
    for index, name in enumerate(("Transformer", *types)):
        path = f"{index}_{name}" if index else ""
        entries.append({"name": str(index), "path": path, "type": f"{PACKAGE}{name}"})
    write(folder / "modules.json", entries)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_modules(tmp_path, "Pooling")
    write(tmp_path / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    return tmp_path


def test_a_folder_without_modules_is_a_guess(tmp_path: Path) -> None:
    vector = read_sentence_vector(tmp_path, hidden=8)
    assert vector.is_guess and vector.pooling == ("mean",) and vector.dimension == 8
    assert "a guess" in vector.in_words()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len",)),
        ({"pooling_mode": "weightedmean"}, ("weightedmean",)),
        ({"pooling_mode": ["mean", "cls"]}, ("cls", "mean")),
        ({}, ("mean",)),
    ],
)
def test_pooling_of_older_and_newer_files(
    folder: Path, config: dict[str, Any], expected: tuple[str, ...]
) -> None:
    write(folder / "1_Pooling/config.json", config)
    vector = read_sentence_vector(folder, hidden=8)
    assert vector.pooling == expected
    assert vector.dimension == 8 * len(expected)
    assert not vector.is_guess


def test_prompts_of_both_sides(folder: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    write(folder / SETTINGS, {"prompts": prompts, "similarity_fn_name": "dot"})
    vector = read_sentence_vector(folder, hidden=8)
    assert vector.prompt("query") == "query: "
    assert vector.prompt("document") == "passage: "
    assert vector.similarity == "dot"


def test_the_default_prompt_is_for_both_sides(folder: Path) -> None:
    settings = {"prompts": {"sts": "similar: "}, "default_prompt_name": "sts"}
    write(folder / SETTINGS, settings)
    vector = read_sentence_vector(folder, hidden=8)
    assert vector.prompt("query") == vector.prompt("document") == "similar: "


def test_the_length_of_the_folder(folder: Path) -> None:
    write(folder / "sentence_bert_config.json", {"max_seq_length": 96})
    assert read_sentence_vector(folder, hidden=8).max_length == 96


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling mode 'median'"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt = false"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 9}, "9 values.*model's have 8"),
        (SETTINGS, {"prompts": ["a"]}, "expected names with texts"),
        (SETTINGS, {"prompts": {}, "default_prompt_name": "q"}, "default_prompt_name is q"),
        (SETTINGS, {"similarity_fn_name": "angle"}, "expected one of cosine"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "expected a number of tokens"),
    ],
)
def test_wrong_settings_are_named(folder: Path, file: str, content: Any, message: str) -> None:
    write(folder / file, content)
    with pytest.raises(ModelError, match=message):
        read_sentence_vector(folder, hidden=8)


def test_an_unsupported_module_is_named(folder: Path) -> None:
    write_modules(folder, "Pooling", "CNN")
    with pytest.raises(ModelError, match=r"models\.CNN.*supported: Transformer, Pooling, Dense"):
        read_sentence_vector(folder, hidden=8)


def test_a_layer_of_another_width_is_named(folder: Path) -> None:
    write_modules(folder, "Pooling", "Dense")
    write(folder / "2_Dense/config.json", {"in_features": 9, "out_features": 4})
    with pytest.raises(ModelError, match=r"takes vectors of 9 values.*gives 8"):
        read_sentence_vector(folder, hidden=8)
