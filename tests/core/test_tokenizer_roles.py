"""Special tokens are found by their role, whatever a vocabulary calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import read_tokenizer
from tests.fixtures.tokenizer_folders import write_json


def copy(source: Path, folder: Path, **config: object) -> Path:
    """tokenizer.json alone, next to a config.json of a model."""
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    write_json(folder / "config.json", {"model_type": "no-family", **config})
    return folder


def test_a_tokenizer_without_names_has_the_usual_tokens(
    tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = read_tokenizer(copy(tokenizer_folders["roberta"], tmp_path / "model"))
    assert tokenizer.special == {}
    roles = {kind: tokenizer.token_id(kind) for kind in ("cls", "pad", "sep", "unk", "mask")}
    assert roles == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4}
    assert tokenizer.special_ids == [0, 1, 2, 3, 4]


def test_ids_in_the_models_config_go_before_usual_names(
    tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(tokenizer_folders["modernbert"], tmp_path / "model", pad_token_id=3)
    assert read_tokenizer(folder).pad_id == 3
    # An id of an ordinary token, or of no token, is a mistake.
    for token_id in (200, 99_999, None, "3", True):
        write_json(folder / "config.json", {"model_type": "x", "pad_token_id": token_id})
        assert read_tokenizer(folder).pad_id == 0, token_id


def test_a_name_without_a_token_stays_without(
    tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(tokenizer_folders["modernbert"], tmp_path / "model")
    write_json(folder / "tokenizer_config.json", {"mask_token": None})
    with pytest.raises(ModelError, match="has no mask_token"):
        read_tokenizer(folder).require("mask")


def test_the_token_of_a_baked_in_padding(
    tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(tokenizer_folders["eurobert"], tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 3,
        "pad_type_id": 0,
        "pad_token": "<|mask|>",
    }
    write_json(folder / "tokenizer.json", described)
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.special["pad_token"], tokenizer.pad_id) == ("<|mask|>", 3)
    assert tokenizer.padding_side == "left"
