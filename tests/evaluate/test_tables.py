"""Rows of tables: merged by a quotation mark, of any length, damaged, or not encodable."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.spec import Files
from edgedistil.evaluate.tables import read_rows

COLUMNS = ("text", "label")


def files(**settings: Any) -> Files:
    return Files(train="", dev=("",), **settings)


def rows(path: Path, content: str | None = None, **settings: Any) -> tuple[list[Any], list[str]]:
    """The rows of a table, and the remarks on it."""
    if content is not None:
        path.write_bytes(content.encode("utf-8"))
    notes: list[str] = []
    table = list(read_rows(path, files(**settings), COLUMNS, notes))
    return [(cells["text"], cells["label"]) for _, cells in table], notes


# --- quotation marks -----------------------------------------------------------------------------

MERGED = (
    # The mark that opens in line 3 is closed by one in line 5, before a comma by chance.
    'text,label\na film,good\n"a plot,bad\na story,good\nof 6",bad\nan end,good\n',
    # Two rows only.
    'text,label\na film,good\n"a plot,bad\nof 6",good\nan end,bad\n',
    # The label comes first.
    'label,text\ngood,a film\nbad,"a plot\ngood,a story"\nbad,an end\n',
)


@pytest.mark.parametrize("content", MERGED)
def test_rows_that_a_quotation_mark_merges_are_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(TaskError, match=r"data.csv:3: a quotation mark merges the rows") as caught:
        rows(tmp_path / "data.csv", content)
    assert "twice" in str(caught.value.hint)


def test_rows_with_values_may_be_merged_too(tmp_path: Path) -> None:
    values = "".join(f"a film,{number / 7:.3f}\n" for number in range(40))
    content = f'text,label\n{values}"a plot,0.0011\na story,0.0012\nof 6",0.0013\n'
    with pytest.raises(TaskError, match=r"data.csv:42: .* 3 of these lines"):
        rows(tmp_path / "data.csv", content)


def test_tsv_without_quotes_keeps_every_row(tmp_path: Path) -> None:
    content = 'text\tlabel\n"a plot\tbad\na story"\tgood\n'
    with pytest.raises(TaskError, match="quotation mark merges"):
        rows(tmp_path / "data.tsv", content + "a film\tbad\na film\tgood\n")
    assert rows(tmp_path / "data.tsv", content, quotes=False)[0] == [
        ('"a plot', "bad"),
        ('a story"', "good"),
    ]


def test_text_with_line_breaks_is_read_and_counted(tmp_path: Path) -> None:
    text = 'Dear all,\nit was good, bad\nand "long", yours'
    quoted = text.replace('"', '""')
    content = f'text,label\n"{quoted}",good\na film,bad\n'
    cells, notes = rows(tmp_path / "data.csv", content)
    assert cells == [(text, "good"), ("a film", "bad")]
    message = "data.csv: line breaks inside quotation marks in 1 row, the longest over 3 lines"
    assert notes == [f"{message} (from 2)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'text,label\na,b\n"c,d\ne,f\n',
            r":3: a quotation mark opens a cell .* reaches to line 4",
        ),
        ('text,label\n"a" film,b\n', r":2: text after the end of a quoted cell"),
    ],
)
def test_broken_quoting_names_the_line_where_the_row_starts(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        rows(tmp_path / "data.csv", content)


def test_a_cell_may_have_any_length(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    text = "a film\n" * 60_000
    cells, _ = rows(tmp_path / "data.csv", f'text,label\n"{text}",good\n')
    assert cells == [(text, "good")]
    assert csv.field_size_limit() == before, "the limit of the csv module is global"


# --- columns -------------------------------------------------------------------------------------


def test_blanks_around_the_names_of_columns_do_not_count(tmp_path: Path) -> None:
    assert rows(tmp_path / "data.csv", "text , label\na,b\n")[0] == [("a", "b")]


def test_column_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"data.csv:1: column 'label' occurs more than once"):
        rows(tmp_path / "data.csv", "text,label,label\na,b,c\n")


def test_other_separator_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="column 'text' is missing") as caught:
        rows(tmp_path / "data.csv", "text;label\na;b\n")
    assert "expected ','" in str(caught.value.hint)


def test_ragged_rows_are_counted(tmp_path: Path) -> None:
    content = "text,label\na,b\nc\nd,e,f\n"
    cells, notes = rows(tmp_path / "data.csv", content, ragged="skip short")
    assert cells == [("a", "b"), ("d", "e")]
    assert notes == [
        "data.csv: 1 rows with missing cells were left out",
        "data.csv: the extra cells of 1 row were left out",
    ]


# --- files ---------------------------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.parquet").mkdir()
    for name in ("pipe.csv", "folder.parquet"):
        with pytest.raises(TaskError, match="expected a regular file"):
            rows(tmp_path / name)


def test_deep_json_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"data.jsonl:1: not valid JSON"):
        rows(tmp_path / "data.jsonl", "[" * 100_000)


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_damaged_parquet_is_an_error_or_readable(tmp_path: Path, codec: str) -> None:
    table = pa.table({"text": [f"a film {n}" for n in range(300)], "label": ["x", "y", "z"] * 100})
    path = tmp_path / "data.parquet"
    parquet.write_table(table, path, compression=codec)
    good = path.read_bytes()
    refused = 0
    for position in range(4, len(good), 61):
        damaged = bytearray(good)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            rows(path)
        except TaskError as error:
            refused += 1
            assert "data.parquet" in error.message
    assert refused > 5


def test_columns_that_are_not_used_are_not_read(tmp_path: Path) -> None:
    """A time outside of Python's range in another column does not matter."""
    times = pa.array([2**62], pa.timestamp("ms"))
    table = pa.table({"text": ["a"], "label": pa.array(["b"]).dictionary_encode(), "time": times})
    parquet.write_table(table, tmp_path / "data.parquet")
    assert rows(tmp_path / "data.parquet")[0] == [("a", "b")]
    with pytest.raises(TaskError, match=r"column 'label' is missing; did you mean 'labels'\?"):
        parquet.write_table(pa.table({"text": ["a"], "labels": [1]}), tmp_path / "data.parquet")
        rows(tmp_path / "data.parquet")


def test_parquet_text_that_is_not_utf8_is_named_by_its_row(tmp_path: Path) -> None:
    text = pa.array([b"a", b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    parquet.write_table(pa.table({"text": text, "label": ["x", "y"]}), tmp_path / "data.parquet")
    with pytest.raises(TaskError, match=r"data.parquet: row 2: column 'text' is not UTF-8"):
        rows(tmp_path / "data.parquet")


def test_jsonl_and_parquet_cells_keep_their_types(tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "label": True})
    assert rows(tmp_path / "data.jsonl", line)[0] == [("a", True)]
    parquet.write_table(pa.table({"text": ["a"], "label": [1.0]}), tmp_path / "data.parquet")
    assert rows(tmp_path / "data.parquet")[0] == [("a", 1.0)]
