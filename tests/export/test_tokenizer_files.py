from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from edgedistil.core.errors import ModelError
from edgedistil.export.tokenizer_files import bert_template, vocabulary_lines, write_tokenizer


def test_the_template_frames_one_text_and_two() -> None:
    template = bert_template("[CLS]", "[SEP]", {"[CLS]": 2, "[SEP]": 3})
    assert len(template["single"]) == 3
    assert [next(iter(part.values()))["type_id"] for part in template["pair"]] == [0, 0, 0, 1, 1]
    assert template["special_tokens"]["[SEP]"]["ids"] == [3]


def test_vocabulary_lines_follow_the_ids_and_have_no_gap() -> None:
    assert vocabulary_lines({"b": 1, "a": 0}) == "a\nb\n"
    with pytest.raises(ModelError, match="2 ids of the vocabulary are not 0 to 1 without a gap"):
        vocabulary_lines({"a": 0, "b": 2})


def test_a_tokenizer_that_is_not_wordpiece_is_refused(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = folder("BertModel")
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")).save(str(source / "tokenizer.json"))
    config = json.loads((source / "config.json").read_text())
    with pytest.raises(ModelError, match="is of type WordLevel; expected WordPiece"):
        write_tokenizer(tmp_path, source, config, input_names=["input_ids"])
