"""Text to ids: no truncation, no padding, special tokens in a text are text, order preserved."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.data.tokenization import (
    Framing,
    chunk_documents,
    load_tokenizer,
    map_in_order,
    read_framing,
)


def test_truncation_and_padding_of_the_file_are_off(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    assert len(tokenizer.encode("w001 " * 13, add_special_tokens=False)) == 13
    assert len(tokenizer.encode("w001", add_special_tokens=False)) == 1


def test_a_special_token_in_a_text_is_text(tokenizer_folder: Path) -> None:
    text = "w001 [MASK] [SEP] w002"
    ids = load_tokenizer(tokenizer_folder).encode(text, add_special_tokens=False).ids
    assert not set(read_tokenizer(tokenizer_folder).special_ids) - {1} & set(ids)


def test_the_separator_of_a_tokenizer_without_a_template(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    described = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**described, "post_processor": None}))
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"sep_token": {"content": "w007"}}))
    expected = load_tokenizer(tokenizer_folder).token_to_id("w007")
    assert read_framing(tmp_path) == Framing((), (), expected, 1)
    settings.write_text(json.dumps({"sep_token": None, "eos_token": None}))
    with pytest.raises(ModelError, match="no special token that could separate documents"):
        read_framing(tmp_path)


def test_an_invalid_tokenizer_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer: expected tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is not a tokenizer: it has no model"):
        load_tokenizer(tmp_path)


@settings(deadline=None)
@given(
    st.lists(st.text("ab \n", min_size=1, max_size=200_000), max_size=4), st.integers(1, 100_000)
)
def test_chunks_lose_nothing_and_know_where_documents_end(
    documents: list[str], characters: int
) -> None:
    joined: list[str] = [""]
    for chunk in chunk_documents(documents, characters=characters):
        assert len(chunk.texts) == len(chunk.ends)
        assert max(map(len, chunk.texts)) <= 1 << 15
        for text, is_last in zip(chunk.texts, chunk.ends, strict=True):
            joined[-1] += text
            if is_last:
                joined.append("")
    assert joined[:-1] == documents


def test_a_long_document_is_cut_between_words() -> None:
    words = [f"word{n}" for n in range(50_000)]
    pieces = [text for chunk in chunk_documents([" ".join(words)]) for text in chunk.texts]
    assert len(pieces) > 5
    assert [word for piece in pieces for word in piece.split()] == words


def test_threads_keep_the_order_and_do_not_run_ahead() -> None:
    started: list[int] = []

    def items() -> object:
        for number in range(40):
            started.append(number)
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    results = map_in_order(slow, items(), workers=3)  # type: ignore[arg-type]
    for expected, got in enumerate(results):
        assert got == expected
        assert len(started) <= expected + 2 * 3 + 1


def test_a_failure_in_a_thread_arrives_here_and_the_environment_is_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda n: 1 // n, [3, 2, 1, 0, 1, 2], workers=2))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
