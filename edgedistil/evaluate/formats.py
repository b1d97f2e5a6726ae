"""Rows of csv, tsv, jsonl and parquet files, and the official layouts of IMDb and SQuAD; problems with their place."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import Answer, RawExample
from edgedistil.evaluate.spec import Files, TaskSpec

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
Row = tuple[str, dict[str, Any]]  # place, cells by column


def read_side(
    spec: TaskSpec, files: Files, names: Sequence[str], folder: Path
) -> tuple[list[RawExample], list[str]]:
    """The examples of one side (train or dev) from its files, and what was noticed on the way.

    Raises:
        TaskError: A file is missing or malformed; names file and line.
    """
    examples: list[RawExample] = []
    notes: list[str] = []
    for part, name in enumerate(names):
        path = folder / name
        if not path.exists():
            raise TaskError(f"task '{spec.name}': no {path}", hint=_where_to_get(spec))
        found, noted = _read_one(spec, files, path, part)
        examples += found
        notes += noted
    return examples, notes


def read_texts(
    spec: TaskSpec, files: Files | None, path: Path, columns: Sequence[str]
) -> list[tuple[str, ...]]:
    """Texts without labels: a line each of a .txt, or the text columns of a table in the task's own form.

    Raises:
        TaskError: The file is missing or malformed; names file and line.
    """
    if not path.is_file():
        raise TaskError(
            f"task '{spec.name}': no {path}",
            hint="the path is taken from second_distillation.unlabelled",
        )
    if path.suffix == ".txt":
        if len(columns) > 1:
            raise TaskError(
                f"{path}: a line holds one text, the task takes {len(columns)}", hint="give a table"
            )
        return [(line.strip(),) for line in utf8_text(path).split("\n") if line.strip()]
    found = []
    for where, cells in _rows(path, files or Files(train="", dev=("",)), []):
        for column in columns:
            if cells.get(column) is None:
                raise _missing(where, column, cells)
        found.append(tuple(text_of(where, column, cells[column]) for column in columns))
    return found


def _where_to_get(spec: TaskSpec) -> str:
    return (
        f"download: {spec.download}"
        if spec.download
        else "the path is taken from the task's [files] section"
    )


def _read_one(
    spec: TaskSpec, files: Files, path: Path, part: int
) -> tuple[list[RawExample], list[str]]:
    if files.format == "aclImdb":
        return list(_acl_imdb(path, part)), []
    if files.format == "squad":
        return list(_squad(path, part)), []
    notes: list[str] = []
    rows = list(_rows(path, files, notes))
    if not rows:
        raise TaskError(f"{path}: holds no rows")
    return [_example(spec, files, where, cells, part) for where, cells in rows], notes


def _example(
    spec: TaskSpec, files: Files, where: str, cells: dict[str, Any], part: int
) -> RawExample:
    for column in (*files.text, files.label, *([files.id] if files.id else [])):
        if cells.get(column) is None:
            raise _missing(where, column, cells)
    texts = tuple(text_of(where, column, cells[column]) for column in files.text)
    answers = answers_of(where, cells, files.label, files.start) if spec.kind == "span" else ()
    return RawExample(
        texts, cells[files.label], where, str(cells[files.id]) if files.id else "", answers, part
    )


def _missing(where: str, column: str, cells: dict[str, Any]) -> TaskError:
    if column in cells:
        return TaskError(f"{where}: column '{column}' has no value")
    close = difflib.get_close_matches(column, cells, n=1, cutoff=0.5)
    advice = f"; did you mean '{close[0]}'?" if close else ""
    return TaskError(
        f"{where}: no column '{column}'{advice}",
        hint=f"columns there: {', '.join(map(str, cells))}",
    )


def text_of(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TaskError(f"{where}: column '{column}' is {type(value).__name__}, expected text")
    return value


def answers_of(
    where: str, cells: dict[str, Any], column: str, start_column: str = ""
) -> tuple[Answer, ...]:
    """Answers as SQuAD's hub form has them ({text: […], answer_start: […]}), as a list of pairs, or as two columns."""
    value = cells[column]
    try:
        if isinstance(value, dict):
            return tuple(
                Answer(text, int(start))
                for text, start in zip(value["text"], value["answer_start"], strict=True)
            )
        if isinstance(value, list):
            return tuple(Answer(each["text"], int(each["answer_start"])) for each in value)
        return (Answer(str(value), int(cells[start_column])),)
    except (KeyError, ValueError, TypeError) as error:
        raise TaskError(
            f"{where}: no answer with its start: {type(error).__name__}: {error}"
        ) from error


# --- tables ---------------------------------------------------------------------------------------


def _rows(path: Path, files: Files, notes: list[str]) -> Iterator[Row]:
    if path.suffix not in _SUFFIXES:
        raise TaskError(f"{path}: unknown format '{path.suffix}'; expected {', '.join(_SUFFIXES)}")
    if path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix == ".jsonl":
        yield from _jsonl(path)
    else:
        yield from _table(path, files, notes)


def utf8_text(path: Path) -> str:
    """The file's text, line ends as they are.

    Raises:
        TaskError: It is not UTF-8; names the line.
    """
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})",
            hint="convert the file to UTF-8",
        ) from error


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{path}:{number}: no JSON: {error}") from error
        if not isinstance(cells, dict):
            raise TaskError(f"{path}:{number}: expected a JSON object, got {type(cells).__name__}")
        yield f"{path}:{number}", cells


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise TaskError(f"{path}: no readable parquet: {error}") from error
    yield from ((f"{path}: row {number}", cells) for number, cells in enumerate(rows, start=1))


def _table(path: Path, files: Files, notes: list[str]) -> Iterator[Row]:
    lines = _csv_lines(path) if path.suffix == ".csv" or files.quotes else _plain_tsv_lines(path)
    header = list(files.columns or ())
    if not header:
        header = next(lines, (0, []))[1]
        if not header:
            raise TaskError(f"{path}: is empty; expected a header")
    skipped = 0
    for number, cells in lines:
        if len(cells) < len(header) and files.ragged == "skip short":
            skipped += 1
            continue
        if len(cells) != len(header) and files.ragged == "refuse":
            raise TaskError(
                f"{path}:{number}: {len(cells)} cells, expected {len(header)} ({', '.join(header)})"
            )
        yield f"{path}:{number}", dict(zip(header, cells, strict=False))
    if skipped:
        notes.append(f"{path.name}: {skipped} rows with missing cells were left out")


def _plain_tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Only line feeds end a line: the official files hold other characters that Python's splitlines would cut at."""
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        if line.strip("\r"):
            yield number, line.rstrip("\r").split("\t")


def _csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    text = io.StringIO(utf8_text(path), newline="")
    reader = csv.reader(text, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
    before = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TaskError(f"{path}:{before + 1}: {error}") from error
        if cells is None:
            return
        if cells:
            yield before + 1, cells
        before = reader.line_num


# --- official layouts -----------------------------------------------------------------------------


def _acl_imdb(folder: Path, part: int) -> Iterator[RawExample]:
    """`pos/*.txt` and `neg/*.txt`, one review a file, as the archive of Maas et al. 2011 unpacks."""
    for label in ("neg", "pos"):
        reviews = sorted((folder / label).glob("*.txt"))
        if not reviews:
            raise TaskError(f"{folder / label}: holds no reviews (*.txt)")
        for path in reviews:
            text = utf8_text(path).replace("<br />", " ")
            yield RawExample((text,), label, str(path), f"{label}/{path.stem}", (), part)


def _squad(path: Path, part: int) -> Iterator[RawExample]:
    """SQuAD 1.1's json: data → paragraphs → qas → answers."""
    try:
        articles = json.loads(utf8_text(path))["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = tuple(
                        Answer(a["text"], int(a["answer_start"])) for a in qa["answers"]
                    )
                    where = f"{path}: question {qa['id']}"
                    yield RawExample(
                        (qa["question"], paragraph["context"]),
                        "",
                        where,
                        str(qa["id"]),
                        answers,
                        part,
                    )
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}:{error.lineno}: no JSON: {error.msg}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{path}: not SQuAD 1.1's layout: {type(error).__name__}: {error}"
        ) from error
