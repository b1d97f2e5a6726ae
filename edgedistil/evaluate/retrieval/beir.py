"""Reads a collection in BEIR's format: corpus.jsonl, queries.jsonl and qrels.

Source: https://github.com/beir-cellar/beir/wiki (load your custom dataset).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedistil.core.echo import echo
from edgedistil.core.errors import TaskError
from edgedistil.core.format import plural
from edgedistil.core.paths import is_user_file
from edgedistil.core.toml import did_you_mean
from edgedistil.evaluate.formats import checked_text
from edgedistil.evaluate.retrieval.collection import Collection
from edgedistil.evaluate.tables import read_json_lines, utf8_text

CORPUS_FILE = "corpus.jsonl"
QUERIES_FILE = "queries.jsonl"
# In order of preference; some collections have a single file next to the others.
_QRELS_FILES = ("qrels/test.tsv", "qrels.tsv", "qrels/dev.tsv")
_LAYOUT_HINT = (
    "expected corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/test.tsv "
    "(query-id, corpus-id, score)"
)
_QRELS_COLUMNS = 3


def is_beir_folder(folder: Path) -> bool:
    """Returns whether a folder has the documents of a collection."""
    return is_user_file(folder / CORPUS_FILE)


def read_beir(folder: Path) -> Collection:
    """Reads the collection in a folder.

    Queries without a relevant document, such as those of another split, are left out.

    Raises:
        TaskError: A file is missing or malformed, an id occurs twice, or the qrels name an id that
            does not exist; the message names file and line.
    """
    documents = _read_texts(folder / CORPUS_FILE)
    queries = _read_texts(folder / QUERIES_FILE)
    qrels = _find_qrels(folder)
    relevance: dict[str, dict[str, int]] = {}
    for where, query, document, grade in _read_qrels(qrels):
        _check_id(where, "query", query, queries)
        _check_id(where, "document", document, documents)
        # A grade of 0 says that the document was judged and is not relevant.
        if grade > 0:
            relevance.setdefault(query, {})[document] = grade
    judged = {name: text for name, text in queries.items() if name in relevance}
    notes = []
    if len(judged) < len(queries):
        left_out = len(queries) - len(judged)
        notes.append(f"queries without a relevant document in {qrels.name} left out: {left_out:,}")
    return Collection(folder.name, str(folder), documents, judged, relevance, tuple(notes))


def _read_texts(path: Path) -> dict[str, str]:
    """Id → text of each line; a title comes before its text."""
    if not path.is_file():
        raise TaskError(f"{path} is missing", hint=_LAYOUT_HINT)
    texts: dict[str, str] = {}
    for where, row in read_json_lines(path):
        name = _field(where, row, "_id")
        if name in texts:
            raise TaskError(f"{where}: the id {echo(name)} occurs twice")
        text = _field(where, row, "text")
        # BEIR joins title and text with a blank.
        title = row.get("title") or ""
        texts[name] = checked_text(where, f"{title} {text}".strip())
        if not texts[name]:
            raise TaskError(f"{where}: the text is empty", hint="leave the line out")
    return texts


def _field(where: str, row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    # Some collections number their documents.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise TaskError(f"{where}: '{key}' is {echo(value)}; expected a text", hint=_LAYOUT_HINT)
    return value


def _find_qrels(folder: Path) -> Path:
    for name in _QRELS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise TaskError(f"{folder} has no {' or '.join(_QRELS_FILES)}", hint=_LAYOUT_HINT)


def _read_qrels(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yields place, query, document and grade of each line; a header line is skipped."""
    for number, line in enumerate(utf8_text(path).splitlines(), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        where = f"{path}:{number}"
        if not line.strip() or (number == 1 and cells[-1] == "score"):
            continue
        # TREC's own format has an unused second column.
        if len(cells) == _QRELS_COLUMNS + 1:
            cells = [cells[0], *cells[2:]]
        if len(cells) != _QRELS_COLUMNS:
            raise TaskError(
                f"{where}: {plural(len(cells), 'cell')} instead of {_QRELS_COLUMNS}",
                hint=_LAYOUT_HINT,
            )
        try:
            grade = int(cells[2])
        except ValueError:
            raise TaskError(
                f"{where}: the grade is {echo(cells[2])}; expected an integer"
            ) from None
        yield where, cells[0], cells[1], grade


def _check_id(where: str, kind: str, name: str, known: dict[str, str]) -> None:
    if name not in known:
        raise TaskError(
            f"{where}: unknown {kind} id {echo(name)}{did_you_mean(name, known)}",
            hint=f"every id has to be in {QUERIES_FILE} or {CORPUS_FILE}",
        )
