"""Sentences and passages of documents: the texts that a representation is learned on.

Cutting is independent of the tokenizer, so that vectors of the same texts can come from any model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgedistil.core.errors import StorageError
from edgedistil.core.rundir import storage_errors
from edgedistil.data.heldout_split import document_hash

# Between the query and the text of a pair, which travel as one document; white space everywhere
# else, so that other layouts read the pair as one text.
PAIR_SEPARATOR = "\x1e"
# Words of an English text per token, rounded down: a passage rarely exceeds its tokens.
_WORDS_PER_TOKEN = 0.7
# A longer word is not language; it bounds the characters of a text.
_LONGEST_WORD = 100
# Characters of the longest text; far more than a row of tokens.
_LONGEST_TEXT = 30_000
# Sentences of fewer words are headings and fragments.
_MIN_WORDS = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])")

Side = Literal["query", "document"]


@dataclass(frozen=True)
class Prompts:
    """Texts that a model expects before a query and a document; may be empty."""

    query: str = ""
    document: str = ""

    def of(self, side: Side) -> str:
        """Returns the prompt of a side."""
        return self.query if side == "query" else self.document


@dataclass(frozen=True)
class Text:
    """One text of a corpus, without its prompt."""

    text: str
    side: Side


def cut_texts(document: str, *, block_length: int, sentence_share: float) -> Iterator[Text]:
    """Yields the sentences or the passages of a document, or both texts of a pair.

    Whether a document is cut into sentences or passages is a function of its text.

    Args:
        document: A document, or a query and a text around `PAIR_SEPARATOR`.
        block_length: Tokens of the longest passage, about.
        sentence_share: Share of the documents that are cut into sentences.
    """
    longest = max(1, int(block_length * _WORDS_PER_TOKEN))
    query, separator, body = document.partition(PAIR_SEPARATOR)
    if separator:
        sides: tuple[tuple[str, Side], ...] = ((query, "query"), (body, "document"))
        for text, side in sides:
            words = _words(text)[:longest]
            if words:
                yield _text(words, side)
        return
    # The low bits: the high ones decide which documents are held out.
    is_cut = document_hash(document) % 2**32 < sentence_share * 2**32
    joined = _join_sentences(document, longest=longest, limit=0 if is_cut else longest)
    for words in joined:
        if len(words) >= _MIN_WORDS:
            yield _text(words, "query" if is_cut else "document")


def _text(words: list[str], side: Side) -> Text:
    return Text(" ".join(words)[:_LONGEST_TEXT], side)


def _join_sentences(document: str, *, longest: int, limit: int) -> Iterator[list[str]]:
    """Yields the words of consecutive sentences, joined as long as they have `limit` words."""
    words: list[str] = []
    for sentence in _SENTENCE_END.split(document):
        following = _words(sentence)
        if words and len(words) + len(following) > limit:
            yield words
            words = []
        # A sentence longer than a passage is cut.
        while len(following) > longest:
            yield following[:longest]
            following = following[longest:]
        words = words + following
    if words:
        yield words


def _words(text: str) -> list[str]:
    return [word[:_LONGEST_WORD] for word in text.split()]


# --- the file of a corpus's texts ----------------------------------------------------------------


def with_prompts(texts: Iterable[Text], prompts: Prompts, path: Path) -> Iterator[str]:
    """Yields texts with their prompts; writes the texts without them to a .jsonl file."""
    with storage_errors(path), path.open("w", encoding="utf-8") as file:
        for text in texts:
            line = {"text": text.text, "side": text.side}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield prompts.of(text.side) + text.text


def read_texts(path: Path) -> Iterator[Text]:
    """Yields the texts of a corpus's file, in the order of its rows; raises StorageError."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                yield Text(entry["text"], entry["side"])
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error
