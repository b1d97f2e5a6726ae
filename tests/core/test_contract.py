"""The contract of a package reads back as it was written, or says what is wrong in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.contract import CONTRACT_FILE, read_contract, write_contract
from edgedistil.core.errors import InputError, StorageError
from edgedistil.core.sentence_vector import SentenceVector, Step
from tests.fixtures.small_package import small_contract

VECTOR = SentenceVector(
    pooling=("cls", "mean"),
    steps=(Step("dense", "2_Dense", inputs=6, outputs=5, has_bias=True), Step("normalize")),
    dimension=5,
    prompts={"query": "find: ", "document": ""},
    default_prompt="query",
    similarity="dot",
)


@pytest.mark.parametrize("vector", [None, VECTOR])
def test_a_contract_reads_back(vector: SentenceVector | None, tmp_path: Path) -> None:
    contract = small_contract(vector)
    write_contract(tmp_path, contract)
    assert read_contract(tmp_path) == contract
    assert contract.gives_vectors is (vector is not None)


def test_a_folder_without_a_contract_is_no_export_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not an export folder: it has no contract\.json"):
        read_contract(tmp_path)


def drop_prompts(content: Any) -> None:
    del content["sentence_vector"]["prompts"]


def drop_pad(content: Any) -> None:
    del content["tokenizer"]["pad_id"]


def set_format(content: Any) -> None:
    content["format"] = 0


def add_key(content: Any) -> None:
    content["sentence_vector"]["max_length"] = 8


def wrong_pooling(content: Any) -> None:
    content["sentence_vector"]["pooling"] = ["median"]


def wrong_side(content: Any) -> None:
    content["tokenizer"]["padding_side"] = "up"


def other_input(content: Any) -> None:
    content["inputs"][0]["name"] = "pixels"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop_prompts, "not a valid contract: sentence_vector.prompts: missing"),
        (add_key, "not a valid contract: sentence_vector.max_length: unknown"),
        (drop_pad, "contract.json is not a valid contract: tokenizer.pad_id: missing"),
        (set_format, "contract.json has the format 0; expected 1"),
        (wrong_pooling, "contract.json is not a valid contract: sentence_vector.pooling.0"),
        (wrong_side, "contract.json is not a valid contract: tokenizer.padding_side"),
        (other_input, "contract.json has the input pixels; expected input_ids, attention_mask"),
    ],
)
def test_a_damaged_contract_says_what_is_wrong(
    change: Callable[[Any], None], problem: str, tmp_path: Path
) -> None:
    write_contract(tmp_path, small_contract(VECTOR))
    path = tmp_path / CONTRACT_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StorageError) as caught:
        read_contract(tmp_path)
    assert problem in str(caught.value)
    assert "run edgedistil export again" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_contract_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(text)
    with pytest.raises(StorageError, match=r"contract\.json"):
        read_contract(tmp_path)
