"""Tokenization: truncation, the tokenizer file's own settings, batches of similar length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.evaluate import encode
from edgedistil.evaluate.encode import (
    Encoded,
    encode_texts,
    length_groups,
    open_tokenizer,
    pad_batch,
    pad_id,
)


def test_truncation_and_padding_of_the_file_are_switched_off(tiny_models: Path) -> None:
    """The file truncates and pads to 7 tokens."""
    tokenizer = open_tokenizer(tiny_models / "student")
    assert len(tokenizer.backend.encode("a film " * 10).ids) == 22
    assert len(tokenizer.backend.encode("a").ids) == 3


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer: expected"):
        open_tokenizer(tmp_path)


def test_texts_are_cut_at_the_positions_of_the_model(tiny_models: Path) -> None:
    """A task may ask for longer texts than the model reads."""
    tokenizer = open_tokenizer(tiny_models / "student")
    assert tokenizer.positions == 131
    (sequence,) = encode_texts(tokenizer, [("a film " * 200,)], 512)
    assert len(sequence.input_ids) == 131


def test_texts_are_cut_on_the_side_that_the_tokenizer_declares(
    tiny_models: Path, tmp_path: Path
) -> None:
    source = tiny_models / "student"
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, tmp_path)
    settings = {"truncation_side": "left"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (cut,) = encode_texts(open_tokenizer(tmp_path), [("a a a film story",)], 5)
    (whole,) = encode_texts(open_tokenizer(source), [("a film story",)], 5)
    assert cut.input_ids == whole.input_ids


def test_longer_text_of_a_pair_is_truncated(tiny_models: Path) -> None:
    tokenizer = open_tokenizer(tiny_models / "student")
    (sequence,) = encode_texts(tokenizer, [("a film", "the story is very good " * 5)], 11)
    assert len(sequence.input_ids) == 11
    # [CLS] a film [SEP], then the second text and its [SEP].
    assert sequence.type_ids == [0] * 4 + [1] * 7


def test_groups_have_similar_lengths_and_stay_within_the_limit() -> None:
    lengths = [3, 11, 5, 2, 40, 7]
    groups = length_groups(lengths, tokens=22)
    assert groups == [[4], [1, 5], [2, 0, 3]]


def test_batch_is_padded_to_its_longest_sequence(tiny_models: Path) -> None:
    batch = [Encoded([5, 6, 7], [0, 0, 1]), Encoded([8], [0])]
    pad = pad_id(open_tokenizer(tiny_models / "student"))
    input_ids, mask, type_ids = pad_batch(batch, pad)
    np.testing.assert_array_equal(input_ids, [[5, 6, 7], [8, pad, pad]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(type_ids, [[0, 0, 1], [0, 0, 0]])


def test_long_texts_are_tokenized_in_small_chunks(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not depend on the chunks; a text that is longer than one is one by itself."""
    tokenizer = open_tokenizer(tiny_models / "student")
    texts = [("a film " * count,) for count in (1, 9, 2, 2, 40, 1)]
    expected = encode_texts(tokenizer, texts, 23)
    monkeypatch.setattr(encode, "_CHUNK_CHARACTERS", 7 * 5)
    assert encode_texts(tokenizer, texts, 23) == expected
    assert list(encode._chunks([7, 63, 14, 14, 280, 7])) == [(0, 1), (1, 2), (2, 4), (4, 5), (5, 6)]
    monkeypatch.setattr(encode, "_CHUNK", 2)
    assert list(encode._chunks([1, 1, 1])) == [(0, 2), (2, 3)]
    assert list(encode._chunks([])) == []
