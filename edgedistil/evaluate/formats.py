"""Readers of csv, tsv, jsonl and parquet files and of the official layouts of IMDb and SQuAD.

Every problem is reported with file and line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import TaskError
from edgedistil.core.toml import did_you_mean
from edgedistil.evaluate.examples import AnswerSpan, RawExample
from edgedistil.evaluate.spec import Files, TaskSpec

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# Place of a row (file and line), and its cells by column.
Row = tuple[str, dict[str, Any]]


# --- examples ------------------------------------------------------------------------------------


def read_side(
    spec: TaskSpec, files: Files, names: Sequence[str], folder: Path
) -> tuple[list[RawExample], list[str]]:
    """Reads the training or dev examples of a task.

    Args:
        spec: Description of the task.
        files: Its [files] section.
        names: Files or folders of this side, relative to `folder`.
        folder: Folder of the data set.
    Returns:
        Examples, and remarks such as the number of rows left out.
    Raises:
        TaskError: A file is missing or malformed; the message names file and line.
    """
    examples: list[RawExample] = []
    notes: list[str] = []
    for part, name in enumerate(names):
        path = folder / name
        if not path.exists():
            raise TaskError(f"task '{spec.name}': {path} does not exist", hint=_download_hint(spec))
        file_examples, file_notes = _read_file(spec, files, path, part)
        examples += file_examples
        notes += file_notes
    return examples, notes


def read_texts(
    spec: TaskSpec, files: Files | None, path: Path, columns: Sequence[str]
) -> list[tuple[str, ...]]:
    """Reads texts without labels.

    Args:
        spec: Description of the task.
        files: Its [files] section, if it has one.
        path: A .txt file with one text per line, or a table in the task's format.
        columns: Columns of the table with the text or the two texts.
    Raises:
        TaskError: The file is missing or malformed; the message names file and line.
    """
    if not path.is_file():
        raise TaskError(
            f"task '{spec.name}': {path} does not exist",
            hint="the path is from second_distillation.unlabelled",
        )
    if path.suffix == ".txt":
        # A text file has no separator between two texts.
        if len(columns) > 1:
            raise TaskError(
                f"{path}: a line contains one text, the task takes {len(columns)}",
                hint="use a table with one column for each text",
            )
        lines = utf8_text(path).split("\n")
        return [(line.strip(),) for line in lines if line.strip()]

    # Remarks on skipped rows are dropped: fewer unlabelled texts do not change the scores' meaning.
    texts = []
    for where, cells in _read_rows(path, files or Files(train="", dev=("",)), []):
        _check_columns(where, cells, columns)
        texts.append(tuple(text_of(where, column, cells[column]) for column in columns))
    return texts


def _download_hint(spec: TaskSpec) -> str:
    if spec.download:
        return f"download: {spec.download}"
    return "the path is from the task's [files] section"


def _read_file(
    spec: TaskSpec, files: Files, path: Path, part: int
) -> tuple[list[RawExample], list[str]]:
    # The official layouts have no columns, and their readers no remarks.
    if files.format == "aclImdb":
        return list(_acl_imdb(path, part)), []
    if files.format == "squad":
        return list(_squad(path, part)), []
    notes: list[str] = []
    rows = list(_read_rows(path, files, notes))
    if not rows:
        raise TaskError(f"{path} has no rows; expected at least one")
    return [_example(spec, files, row, part) for row in rows], notes


def _example(spec: TaskSpec, files: Files, row: Row, part: int) -> RawExample:
    where, cells = row
    _check_columns(where, cells, [*files.text, files.label])
    identity = ""
    if files.id:
        _check_columns(where, cells, [files.id])
        identity = str(cells[files.id])
    answers: tuple[AnswerSpan, ...] = ()
    if spec.task_kind.has_answers:
        answers = answers_of(where, cells, files.label, files.start)
    texts = tuple(text_of(where, column, cells[column]) for column in files.text)
    return RawExample(texts, cells[files.label], where, identity, answers, part)


def _check_columns(where: str, cells: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Raises TaskError if a column is missing or its cell is empty (null)."""
    for column in columns:
        if cells.get(column) is not None:
            continue
        if column in cells:
            raise TaskError(f"{where}: column '{column}' has no value")
        names = [str(name) for name in cells]
        raise TaskError(
            f"{where}: column '{column}' is missing{did_you_mean(column, names)}",
            hint=f"columns of the file: {', '.join(names)}",
        )


def text_of(where: str, column: str, value: Any) -> str:
    """Returns the text of a cell.

    Raises:
        TaskError: The cell is not a text.
    """
    if not isinstance(value, str):
        raise TaskError(f"{where}: column '{column}' is {type(value).__name__}, expected text")
    return value


def answers_of(
    where: str, cells: Mapping[str, Any], column: str, start_column: str = ""
) -> tuple[AnswerSpan, ...]:
    """Returns the answers of a row.

    Args:
        where: File and line, for messages.
        cells: Cells by column.
        column: Column with {text: […], answer_start: […]} as on the hub, with a list of
            {text, answer_start}, or with one text.
        start_column: Column with the start of that one text.
    Raises:
        TaskError: The cells have none of these forms.
    """
    try:
        pairs = _answer_pairs(cells, column, start_column)
        return tuple(AnswerSpan(text, int(start)) for text, start in pairs)
    except (KeyError, ValueError, TypeError) as error:
        raise TaskError(
            f"{where}: expected an answer and its start: {type(error).__name__}: {error}"
        ) from error


def _answer_pairs(
    cells: Mapping[str, Any], column: str, start_column: str
) -> list[tuple[str, Any]]:
    """Returns text and start of each answer."""
    # All three forms occur: the hub's, SQuAD's own, and a table with one answer per row.
    value = cells[column]
    if isinstance(value, dict):
        return list(zip(value["text"], value["answer_start"], strict=True))
    if isinstance(value, list):
        return [(item["text"], item["answer_start"]) for item in value]
    return [(str(value), cells[start_column])]


# --- tables --------------------------------------------------------------------------------------


def _read_rows(path: Path, files: Files, notes: list[str]) -> Iterator[Row]:
    """Yields the rows of a table; remarks are appended to `notes`."""
    # By suffix and not by content: a csv file is also a valid tsv file with one column.
    if path.suffix not in _SUFFIXES:
        raise TaskError(
            f"{path}: unknown format '{path.suffix}'; expected one of {', '.join(_SUFFIXES)}"
        )
    if path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix == ".jsonl":
        yield from _jsonl(path)
    else:
        yield from _table(path, files, notes)


def utf8_text(path: Path) -> str:
    """Returns the text of a file, line ends unchanged.

    Raises:
        TaskError: The file is not UTF-8; the message names the line.
    """
    data = path.read_bytes()
    try:
        # Excel writes a byte order mark, which would become part of the first column's name.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})",
            hint="convert the file to UTF-8",
        ) from error


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        # Empty lines, such as one at the end of the file, are not rows.
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise TaskError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(cells, dict):
            raise TaskError(f"{path}:{number}: expected a JSON object, got {type(cells).__name__}")
        yield f"{path}:{number}", cells


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise TaskError(f"{path} is not a readable parquet file: {error}") from error
    for number, cells in enumerate(rows, start=1):
        yield f"{path}: row {number}", cells


def _table(path: Path, files: Files, notes: list[str]) -> Iterator[Row]:
    """Yields the rows of a csv or tsv file."""
    quoted = path.suffix == ".csv" or files.quotes
    lines = _quoted_lines(path) if quoted else _plain_tsv_lines(path)
    # CoLA's files have no header line; their columns are named in the task file.
    header = list(files.columns or ())
    if not header:
        _, header = next(lines, (0, []))
        if not header:
            raise TaskError(f"{path} is empty; expected a header line")

    skipped = 0
    for number, cells in lines:
        if len(cells) < len(header) and files.ragged == "skip short":
            skipped += 1
            continue
        if len(cells) != len(header) and files.ragged == "refuse":
            raise TaskError(
                f"{path}:{number}: {len(cells)} cells, expected {len(header)} ({', '.join(header)})"
            )
        # With "skip short", extra cells at the end of a row are dropped.
        yield f"{path}:{number}", dict(zip(header, cells, strict=False))
    if skipped:
        notes.append(f"{path.name}: {skipped} rows with missing cells were left out")


def _plain_tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and cells of a tsv file without quoting."""
    # Not splitlines: the official files contain characters such as U+0085 that it splits at.
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        if line.strip("\r"):
            yield number, line.rstrip("\r").split("\t")


def _quoted_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number at which a row starts, and its cells."""
    text = io.StringIO(utf8_text(path), newline="")
    delimiter = "," if path.suffix == ".csv" else "\t"
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    # A quoted cell may contain line feeds, so rows and lines are counted separately.
    lines_before = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TaskError(f"{path}:{lines_before + 1}: {error}") from error
        if cells is None:
            return
        if cells:
            yield lines_before + 1, cells
        lines_before = reader.line_num


# --- official layouts ----------------------------------------------------------------------------


def _acl_imdb(folder: Path, part: int) -> Iterator[RawExample]:
    """Yields the reviews in `pos/*.txt` and `neg/*.txt`, as the archive unpacks.

    Source: Maas et al. 2011. The folder `unsup`, which has no labels, is not read.
    """
    for label in ("neg", "pos"):
        reviews = sorted((folder / label).glob("*.txt"))
        if not reviews:
            raise TaskError(f"{folder / label} has no reviews; expected *.txt")
        for path in reviews:
            # The reviews keep the line breaks of the web page that they are from.
            text = utf8_text(path).replace("<br />", " ")
            yield RawExample((text,), label, str(path), f"{label}/{path.stem}", (), part)


def _squad(path: Path, part: int) -> Iterator[RawExample]:
    """Yields the questions of a SQuAD 1.1 file: data → paragraphs → qas → answers."""
    try:
        for article in json.loads(utf8_text(path))["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield _squad_question(path, paragraph["context"], question, part)
    except json.JSONDecodeError as error:
        raise TaskError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{path} does not have the layout of SQuAD 1.1: {type(error).__name__}: {error}"
        ) from error


def _squad_question(path: Path, context: str, question: Mapping[str, Any], part: int) -> RawExample:
    identity = str(question["id"])
    answers = tuple(
        AnswerSpan(answer["text"], int(answer["answer_start"])) for answer in question["answers"]
    )
    return RawExample(
        texts=(question["question"], context),
        label="",
        where=f"{path}: question {identity}",
        id=identity,
        answers=answers,
        part=part,
    )
