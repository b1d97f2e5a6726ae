"""Rows of both layouts against what a plain reading of their definition gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.data.layouts import LayoutName, make_layout
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.data.tokenization import chunk_documents, load_tokenizer, read_framing
from tests.fixtures.tokenizer_folders import LAYOUTS, our_text

PAD, UNK, CLS, SEP, MASK = range(5)


def rows(
    folder: Path, name: LayoutName, documents: list[str], *, length: int, tokenizer_folder: Path
) -> list[list[int]]:
    tokenizer = load_tokenizer(tokenizer_folder)
    framing = read_framing(tokenizer_folder)
    layout = make_layout(name, tokenizer=tokenizer, framing=framing, length=length)
    writer = StoreWriter(
        folder, vocabulary=tokenizer.get_vocab_size(), row_length=layout.row_length
    )
    for chunk in chunk_documents(documents, characters=40):
        layout.write(layout.encode(chunk), writer)
    writer.close()
    store = TokenStore(folder)
    return [store[row].tolist() for row in range(len(store))]


def words(first: int, count: int) -> tuple[str, list[int]]:
    """Words of the test tokenizer and their ids."""
    numbers = [(first + n) % 97 for n in range(count)]
    return " ".join(f"w{n:03d}" for n in numbers), [n + 5 for n in numbers]


def test_packed_blocks_are_full_and_cross_document_ends(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    texts, ids = zip(
        *(words(first, count) for first, count in ((0, 3), (7, 11), (50, 2), (60, 13))), strict=True
    )
    stream = [token for part in ids for token in [*part, SEP]]
    expected = [[CLS, *stream[start : start + 5], SEP] for start in range(0, len(stream) - 4, 5)]
    assert (
        rows(tmp_path / "s", "packed", list(texts), length=7, tokenizer_folder=tokenizer_folder)
        == expected
    )
    assert len(expected) == 6  # of 33 tokens the last three fill no block


@pytest.mark.parametrize("count", [9, 10, 19, 20, 21, 37])
def test_lines_are_cut_and_get_their_special_tokens_again(
    tmp_path: Path, tokenizer_folder: Path, count: int
) -> None:
    text, ids = words(3, count)
    cut = [[CLS, *ids[start : start + 18], SEP] for start in range(0, count, 18)]
    expected = [row for row in cut if len(row) > 11]
    assert (
        rows(tmp_path / "s", "lines", [text], length=20, tokenizer_folder=tokenizer_folder)
        == expected
    )


@pytest.mark.parametrize(("unknown", "is_kept"), [(7, True), (8, False), (9, False)])
def test_lines_of_half_unknown_words_are_dropped(
    tmp_path: Path, tokenizer_folder: Path, unknown: int, is_kept: bool
) -> None:
    text = " ".join(["w001"] * (14 - unknown) + ["zzz"] * unknown)
    result = rows(tmp_path / "s", "lines", [text], length=20, tokenizer_folder=tokenizer_folder)
    assert [len(row) for row in result] == ([16] if is_kept else [])


def test_no_row_holds_padding_or_a_mask(tmp_path: Path, tokenizer_folder: Path) -> None:
    documents = [words(n, 5 + n % 23)[0] + " [MASK] [PAD]" for n in range(50)]
    for name in ("packed", "lines"):
        store = tmp_path / name
        result = rows(store, name, documents, length=13, tokenizer_folder=tokenizer_folder)  # type: ignore[arg-type]
        assert result
        assert not {PAD, MASK} & set(np.concatenate(result).tolist())
        assert all(row[0] == CLS and row[-1] == SEP for row in result)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_have_the_special_tokens_of_their_tokenizer(
    tmp_path: Path, tokenizer_folders: dict[str, Path], name: str
) -> None:
    folder = tokenizer_folders[name]
    tokenizer = read_tokenizer(folder)
    texts = our_text()[:40]
    encoded = tokenizer.encode_texts(texts)
    single = tokenizer.backend.encode(texts[0]).ids
    before, after = read_framing(folder).before, read_framing(folder).after
    assert [*before, *encoded[0], *after] == single

    # Lines: each row is the line's tokens between the special tokens.
    lines = rows(tmp_path / "lines", "lines", texts, length=600, tokenizer_folder=folder)
    expected = [[*before, *ids, *after] for ids in encoded]
    assert [row for row in expected if row in lines] == lines
    assert len(lines) > 20

    # Packed: without the special tokens the rows are the stream of all documents.
    packed = rows(tmp_path / "packed", "packed", texts, length=31, tokenizer_folder=folder)
    stream = [token for ids in encoded for token in [*ids, read_framing(folder).separator]]
    inside = 31 - len(before) - len(after)
    ends = len(before) + inside
    assert [token for row in packed for token in row[len(before) : ends]] == stream[
        : len(packed) * inside
    ]
    assert len(stream) - len(packed) * inside < inside
    assert all(row == [*before, *row[len(before) : ends], *after] for row in packed)
