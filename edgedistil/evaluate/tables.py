"""Rows of csv, tsv, jsonl and parquet files, each with its place.

Every problem is reported with file and line.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistil.core.errors import TaskError
from edgedistil.core.format import plural
from edgedistil.core.library_errors import first_line
from edgedistil.core.regular_file import check_regular, read_regular
from edgedistil.core.toml import did_you_mean
from edgedistil.evaluate.spec import Files

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# Labelled data has far less: MNLI's training file has 75 MiB. In memory a file takes several times
# its size.
MAX_FILE_BYTES = 2**30
# Rows of parquet that are decoded at once, and the memory that all of them may take: a few bytes of
# a compressed file can expand to any number of values.
_PARQUET_ROWS = 256
_PARQUET_BYTES = 2**31
# With more distinct labels that are all numbers, the label is a value and hardly repeats.
_FEW_LABELS = 20
_QUOTE_HINT = (
    'write a quotation mark inside a quoted cell twice (""); in a tsv file, quotes = false in '
    "[files] makes it a character like any other"
)
# Place of a row (file and line), and its cells by column.
Row = tuple[str, dict[str, Any]]


def read_rows(
    path: Path,
    files: Files,
    columns: Sequence[str],
    notes: list[str],
    *,
    optional: Sequence[str] = (),
) -> Iterator[Row]:
    """Yields the rows of a table.

    Args:
        path: The file; its suffix decides the format.
        files: The task's [files] section.
        columns: Columns that are used.
        notes: Remarks such as the number of rows left out are appended.
        optional: Further columns that are used if the file has them.
    Raises:
        TaskError: The file cannot be read, is malformed, or lacks a column.
    """
    # By suffix and not by content: a csv file is also a valid tsv file with one column.
    if path.suffix not in _SUFFIXES:
        raise TaskError(
            f"{path}: unknown format '{path.suffix}'; expected one of {', '.join(_SUFFIXES)}"
        )
    if path.suffix == ".parquet":
        yield from _parquet(path, columns, optional)
    elif path.suffix == ".jsonl":
        yield from _jsonl(path, columns)
    else:
        yield from _table(path, files, columns, notes)


def utf8_text(path: Path) -> str:
    """Returns the text of a file, line ends unchanged.

    Raises:
        TaskError: The file cannot be read, is too large, or is not UTF-8 (with the line).
    """
    data = _read_bytes(path)
    try:
        # Excel writes a byte order mark, which would become part of the first column's name.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x})",
            hint="convert the file to UTF-8",
        ) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path, limit_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from error


def missing_column(where: str, column: str, columns: Sequence[str]) -> TaskError:
    """Returns the error for a column that a table does not have."""
    hint = f"columns of the file: {', '.join(columns)}"
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        hint += "; expected ',' between the cells of a csv file, and a tab in a tsv file"
    return TaskError(
        f"{where}: column '{column}' is missing{did_you_mean(column, columns)}", hint=hint
    )


# --- jsonl and parquet ---------------------------------------------------------------------------


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for where, cells in read_json_lines(path):
        for column in columns:
            if column not in cells:
                raise missing_column(where, column, list(cells))
        yield where, cells


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yields the objects of a jsonl file, each with its place.

    Raises:
        TaskError: The file cannot be read, or a line is not a JSON object.
    """
    for number, line in enumerate(utf8_text(path).split("\n"), start=1):
        # Empty lines, such as one at the end of the file, are not rows.
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            cells = json.loads(line)
        # Python's parser raises a RecursionError for deep nesting.
        except (ValueError, RecursionError) as error:
            raise TaskError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(cells, dict):
            raise TaskError(f"{where}: expected a JSON object, got {type(cells).__name__}")
        yield where, cells


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    # pyarrow raises any of a dozen types for a corrupt file, OSError and MemoryError among them.
    try:
        check_regular(path)
        rows = _parquet_rows(path, columns, optional)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(
            f"{path} is not a readable parquet file: {first_line(error)}",
            hint="download or write it again",
        ) from error
    for number, cells in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        for column, value in cells.items():
            # Parquet does not check that its strings are UTF-8, so they are read as bytes.
            if isinstance(value, bytes):
                cells[column] = _decode(where, column, value)
        yield where, cells


def _parquet_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the cells of each row by column; text as bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = []
    used_bytes = 0
    with parquet.ParquetFile(path) as table:
        names = table.schema_arrow.names
        _check_header(str(path), names, columns)
        used = list(dict.fromkeys([*columns, *(name for name in optional if name in names)]))
        for group in range(table.num_row_groups):
            # A cell can be as large as all of its row group, and compression can repeat it.
            group_bytes = max(1, table.metadata.row_group(group).total_byte_size)
            count = max(1, min(_PARQUET_ROWS, _PARQUET_BYTES // group_bytes))
            for batch in table.iter_batches(batch_size=count, row_groups=[group], columns=used):
                decoded = [_text_as_bytes(batch.column(name)) for name in used]
                used_bytes += sum(column.nbytes for column in decoded)
                if used_bytes > MAX_FILE_BYTES:
                    raise TaskError(f"{path} has more than {MAX_FILE_BYTES / 2**20:,.0f} MiB")
                rows += pa.RecordBatch.from_arrays(decoded, names=used).to_pylist()
    return rows


def _text_as_bytes(column: Any) -> Any:
    """Returns a column of text as one of bytes, and any other column as it is."""
    import pyarrow as pa

    # pandas writes categories as dictionaries.
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_binary())
    return column


def _decode(where: str, column: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{where}: column '{column}' is not UTF-8 (byte 0x{value[error.start]:02x})"
        ) from error


# --- csv and tsv ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A row of a csv or tsv file.

    Attributes:
        first: Line of the file at which the row starts.
        last: Line at which it ends; a quoted cell may contain line feeds.
        cells: Its cells.
    """

    first: int
    last: int
    cells: list[str]


def _table(path: Path, files: Files, columns: Sequence[str], notes: list[str]) -> Iterator[Row]:
    """Yields the rows of a csv or tsv file."""
    text = utf8_text(path)
    quoted = path.suffix == ".csv" or files.quotes
    lines = _quoted_lines(path, text) if quoted else _plain_tsv_lines(text)
    # CoLA's files have no header line; their columns are named in the task file.
    header = list(files.columns or ())
    if not header:
        first = next(lines, None)
        if first is None:
            raise TaskError(f"{path} is empty; expected a header line")
        header = [name.strip() for name in first.cells]
    _check_header(f"{path}:1", header, columns)

    rows = list(lines)
    if quoted:
        _check_merged_rows(path, text, rows, header, files)
        notes += _long_row_notes(path, rows)
    short = [row for row in rows if len(row.cells) < len(header)]
    extra = [row for row in rows if len(row.cells) > len(header)]
    if files.ragged == "refuse" and (short or extra):
        row = min([*short, *extra], key=lambda row: row.first)
        raise TaskError(
            f"{path}:{row.first}: {len(row.cells)} cells, "
            f"expected {len(header)} ({', '.join(header)})"
        )
    if short:
        notes.append(f"{path.name}: {len(short)} rows with missing cells were left out")
    if extra:
        notes.append(f"{path.name}: the extra cells of {plural(len(extra), 'row')} were left out")
    for row in rows:
        if len(row.cells) >= len(header):
            yield f"{path}:{row.first}", dict(zip(header, row.cells, strict=False))


def _check_header(where: str, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raises TaskError if a column that is used is missing or occurs twice."""
    for column in columns:
        if column not in header:
            raise missing_column(where, column, header)
        if list(header).count(column) > 1:
            raise TaskError(f"{where}: column '{column}' occurs more than once")


def _plain_tsv_lines(text: str) -> Iterator[_Line]:
    """Yields the rows of a tsv file without quoting."""
    # Not splitlines: the official files contain characters such as U+0085 that it splits at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip("\r"):
            yield _Line(number, number, line.rstrip("\r").split("\t"))


def _quoted_lines(path: Path, text: str) -> Iterator[_Line]:
    """Yields the rows of a csv or tsv file with quoting."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path), strict=True)
    first = 1
    while True:
        try:
            with _cells_of_any_length():
                cells = next(reader, None)
        except csv.Error as error:
            problem = f"text after the end of a quoted cell ({error})"
            if "end of data" in str(error):
                problem = "a quotation mark opens a cell and no other one closes it"
            raise TaskError(
                f"{path}:{first}: {problem}; the row reaches to line {reader.line_num}",
                hint=_QUOTE_HINT,
            ) from error
        if cells is None:
            return
        if cells:
            yield _Line(first, reader.line_num, cells)
        first = reader.line_num + 1


def _delimiter(path: Path) -> str:
    return "," if path.suffix == ".csv" else "\t"


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Lifts the csv module's limit of 131,072 characters, which is global, inside the block."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_merged_rows(
    path: Path, text: str, rows: Sequence[_Line], header: Sequence[str], files: Files
) -> None:
    """Raises TaskError if a quotation mark that is not closed has merged several rows into one.

    The parser accepts that where a later quotation mark ends a cell by chance. A row over several
    lines is taken for merged if two of its lines have all cells and one of the file's labels.
    """
    complete = [row for row in rows if len(row.cells) == len(header)]
    long_rows = [row for row in complete if row.last > row.first]
    if not long_rows or files.label not in header or len(header) < 2:
        return
    place = list(header).index(files.label)
    labels = {row.cells[place].strip() for row in complete}
    are_values = len(labels) > _FEW_LABELS and all(map(_is_number, labels))
    # As the csv module counts lines.
    lines = io.StringIO(text, newline="").readlines()
    for row in long_rows:
        alike = 0
        for line in lines[row.first - 1 : row.last]:
            cells = line.rstrip("\r\n").split(_delimiter(path))
            if len(cells) == len(header):
                label = cells[place].strip(' "')
                alike += label in labels or (are_values and _is_number(label))
        if alike > 1:
            raise TaskError(
                f"{path}:{row.first}: a quotation mark merges the rows up to line {row.last} "
                f"into one: {alike} of these lines have all cells and a label",
                hint=_QUOTE_HINT,
            )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _long_row_notes(path: Path, rows: Sequence[_Line]) -> Iterator[str]:
    """Yields a remark if rows reach over several lines: most have a text with line breaks."""
    long_rows = [row for row in rows if row.last > row.first]
    if long_rows:
        longest = max(long_rows, key=lambda row: row.last - row.first)
        yield (
            f"{path.name}: line breaks inside quotation marks in {plural(len(long_rows), 'row')}, "
            f"the longest over {longest.last - longest.first + 1:,} lines (from {longest.first})"
        )
