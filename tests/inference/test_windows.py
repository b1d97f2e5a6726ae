"""Streams of texts: bounded windows, and long texts whose tokens are those of the complete text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.inference import windows as module
from edgedistil.inference.windows import frame_texts, in_windows
from tests.fixtures.tokenizer_folders import our_text


def test_windows_are_bounded_in_texts_and_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW_TEXTS", 3)
    monkeypatch.setattr(module, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d" * 9, "e", "f" * 50, "", "g"]
    assert list(in_windows(texts)) == [["a", "b", "c"], ["d" * 9, "e"], ["f" * 50], ["", "g"]]
    assert list(in_windows([])) == []


def test_a_stream_is_read_no_further_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW_TEXTS", 3)
    read = 0

    def stream() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "text"

    assert next(in_windows(stream())) == ["text"] * 3
    assert read == 4, "one more text shows that the window is full"


@pytest.fixture(params=["bert", "roberta", "xlm-roberta", "deberta-v2", "eurobert", "unigram"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_folders: dict[str, Path]) -> TextTokenizer:
    return read_tokenizer(tokenizer_folders[request.param])


def long_texts() -> list[str]:
    prose = " ".join(our_text()) * 3
    blanks = " " * 70_000
    return [prose, prose.replace(" ", ""), "x" * 99_000, blanks + prose, "水" * 70_000, "short"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_texts_have_the_tokens_of_the_complete_text(
    tokenizer: TextTokenizer, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A smaller first part: more texts are shortened, and in more places.
    monkeypatch.setattr(module, "_MIN_CUT", 200)
    object.__setattr__(tokenizer, "truncation_side", side)
    texts = long_texts()
    assert frame_texts(tokenizer, texts, 11) == tokenizer.encode_framed(texts, 11)


def test_a_long_text_is_not_tokenized_completely(tokenizer_folders: dict[str, Path]) -> None:
    tokenizer = read_tokenizer(tokenizer_folders["bert"])
    sizes: list[int] = []

    class Watched:
        truncation_side = "right"

        def encode_framed(self, texts: list[str], max_length: int) -> object:
            sizes.extend(map(len, texts))
            return tokenizer.encode_framed(texts, max_length)

    text = "the boat left " * 200_000
    (framed,) = frame_texts(Watched(), [text], 16)  # type: ignore[arg-type]
    assert len(framed[0]) == 16
    assert sum(sizes) < 2**18 < len(text)
