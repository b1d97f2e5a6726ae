"""A saved tokenizer gives the ids of the one that was read, in every client."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_save import save_tokenizer, vocabulary_lines
from tests.core.test_tokenizer import CHANGES, TEXTS, Change, make_folder


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
@pytest.mark.parametrize("apply", CHANGES)
def test_every_client_reads_the_same_ids(tmp_path: Path, apply: Change, model_type: str) -> None:
    source, saved = make_folder(tmp_path / "source", model_type=model_type), tmp_path / "saved"
    apply(source)
    tokenizer = read_tokenizer(source)
    saved.mkdir()
    (saved / "config.json").write_text((source / "config.json").read_text())
    class_name = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}[model_type]
    names = ("input_ids", "attention_mask")
    save_tokenizer(tokenizer, saved, class_name=class_name, input_names=names, max_length=64)

    again, theirs = read_tokenizer(saved), AutoTokenizer.from_pretrained(saved)
    plain = Tokenizer.from_file(str(saved / "tokenizer.json"))
    for text in TEXTS:
        expected = tokenizer.backend.encode(text, "the a").ids
        assert again.backend.encode(text, "the a").ids == expected
        assert theirs(text, "the a")["input_ids"] == expected
        assert (
            plain.encode(text, "the a").ids == expected or tokenizer.backend.encode_special_tokens
        )
    assert again.special == tokenizer.special
    assert theirs.model_max_length == again.max_length == 64


def test_berts_class_is_named_only_if_it_gives_the_same_ids(tmp_path: Path) -> None:
    classes = {}
    for apply in CHANGES:
        source = make_folder(tmp_path / f"{len(classes)}")
        apply(source)
        save_tokenizer(
            read_tokenizer(source), source, class_name="BertTokenizer", input_names=(), max_length=9
        )
        settings = json.loads((source / "tokenizer_config.json").read_text())
        classes[apply.__name__ + str(len(classes))] = settings["tokenizer_class"]
    assert set(classes.values()) == {"BertTokenizer", "PreTrainedTokenizerFast"}
    assert {name for name in classes if "unigram" in name or "byte_level" in name} <= {
        name for name, value in classes.items() if value == "PreTrainedTokenizerFast"
    }


def test_vocabulary_lines_follow_the_ids() -> None:
    assert vocabulary_lines({"b": 1, "a": 0}) == "a\nb\n"
    assert vocabulary_lines({"a": 0, "b": 2}) == "a\n[unused-id-1]\nb\n"
