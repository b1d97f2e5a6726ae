"""A user's own files in four formats, and every kind of malformed data with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from edgedistil.core.errors import EdgeDistilError, TaskError
from edgedistil.evaluate.examples import TaskData
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

YES_NO = 'labels = ["no", "yes"]'
ROWS = [{"text": "good, very\n good", "label": "yes"}, {"text": 'a "bad" film', "label": "no"}]


def own(
    tmp_path: Path,
    suffix: str,
    *,
    kind: str = "classification",
    metric: str = "accuracy",
    top: str = "",
    files: str = "",
    content: str | bytes | None = None,
) -> Path:
    """Writes a task whose two sides are the same file of the given format."""
    path = tmp_path / f"data{suffix}"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "own.toml").write_text(
        f'kind = "{kind}"\nmetric = "{metric}"\n{top}\n'
        f'[files]\ntrain = "data{suffix}"\ndev = "data{suffix}"\n{files}\n'
        "[training]\nepochs = 1\nbatch = 2\nlearning_rate = 1e-3\nmax_length = 16\n"
        'source = "x"\n'
    )
    return tmp_path / "own.toml"


def load_own(path: Path) -> TaskData:
    return load_data(load_task(str(path)), None)


def table(delimiter: str) -> str:
    rows = (
        ["id", "text", "label"],
        ["7", '"good, very\n good"', "yes"],
        ["8", '"a ""bad"" film"', "no"],
    )
    return "".join(delimiter.join(row) + "\r\n" for row in rows)


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_four_formats_have_the_same_content(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "data.parquet")
        task = own(tmp_path, suffix)
    elif suffix == ".jsonl":
        task = own(tmp_path, suffix, content="\n".join(map(json.dumps, ROWS)) + "\n\n")
    else:
        task = own(tmp_path, suffix, content=table("," if suffix == ".csv" else "\t"))
    data = load_own(task)
    assert [example.texts[0] for example in data.train] == [row["text"] for row in ROWS]
    assert data.labels == ("no", "yes")
    assert [example.label for example in data.train] == [1, 0]


def test_pair_and_regression_from_jsonl(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "value": 3}, {"a": "x", "b": "z", "value": "4.5"}]
    task = own(
        tmp_path,
        ".jsonl",
        kind="regression",
        metric="pearson",
        top="range = [0.0, 5.0]",
        files='text = ["a", "b"]\nlabel = "value"',
        content="\n".join(map(json.dumps, rows)),
    )
    pairs = [(example.texts, example.label) for example in load_own(task).dev]
    assert pairs == [(("x", "y"), 3.0), (("x", "z"), 4.5)]


@pytest.mark.parametrize(
    "answer",
    [
        {"answers": {"text": ["Rome"], "answer_start": [3]}},
        {"answers": [{"text": "Rome", "answer_start": 3}]},
        {"answers": "Rome", "answer_start": 3},
    ],
)
def test_answers_have_three_forms(tmp_path: Path, answer: dict[str, object]) -> None:
    row = {"q": "Where?", "c": "In Rome.", **answer}
    files = 'text = ["q", "c"]\nlabel = "answers"'
    task = own(tmp_path, ".jsonl", kind="span", metric="f1", files=files, content=json.dumps(row))
    assert load_own(task).dev[0].answers[0].start == 3


def test_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbftext,label\na film,yes\na plot,no\n"
    assert load_own(own(tmp_path, ".csv", content=content)).labels == ("no", "yes")


# --- malformed data ------------------------------------------------------------------------------

JSON_5 = '{"text": 5, "label": "x"}\n'
JSON_NULL = '{"text": null, "label": "x"}\n'
JSON_2 = '{"text": "a", "label": 2}\n'


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (
            ".csv",
            "text,lable\na,yes\n",
            r"csv:1: column 'label' is missing; did you mean 'lable'\?",
        ),
        (".csv", "text,label\na,yes\nb\n", r"data.csv:3: 1 cells, expected 2 \(text, label\)"),
        (".csv", "text,label\na,yes\nb,no,more\n", r"data.csv:3: 3 cells, expected 2"),
        (
            ".csv",
            'text,label\na,yes\n"b,no\n',
            r"data.csv:3: a quotation mark opens a cell and no other",
        ),
        (".csv", "", r"data.csv is empty; expected a header"),
        (".csv", "text,label\n", r"data.csv has no rows"),
        (".csv", "text,label\na,yes\nb,yes\n", "all training labels are 'yes'"),
        (".csv", b"text,label\na,yes\nb\xe9,no\n", r"data.csv:3: not UTF-8 \(byte 0xe9\)"),
        (".jsonl", '{"text": "a", "label": "x"}\n{"text": \n', r"data.jsonl:2: not valid JSON"),
        (".jsonl", '["a", "x"]\n', r"data.jsonl:1: expected a JSON object, got list"),
        (".jsonl", JSON_5, r"data.jsonl:1: column 'text' is int, expected text"),
        (".jsonl", JSON_NULL, r"data.jsonl:1: column 'text' is empty"),
        (".parquet", "not parquet", r"data.parquet is not a readable parquet file"),
        (".txt", "a", r"data.txt: unknown format '.txt'"),
    ],
)
def test_malformed_file_is_reported_with_its_place(
    tmp_path: Path, suffix: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        load_own(own(tmp_path, suffix, content=content))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (
            ".csv",
            "text,label\na,no\nb,perhaps\n",
            "data.csv:3: unknown label 'perhaps'; expected one of no, yes",
        ),
        (".jsonl", JSON_2, r"data.jsonl:1: label 2 is out of range: expected 0…1"),
    ],
)
def test_label_of_no_class_is_reported_with_its_place(
    tmp_path: Path, suffix: str, content: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        load_own(own(tmp_path, suffix, top=YES_NO, content=content))


def test_repeated_id_is_reported_with_both_places(tmp_path: Path) -> None:
    content = "n,text,label\n5,a,x\n6,b,y\n5,c,x\n"
    with pytest.raises(TaskError, match=r"data.csv:4: id '5' is not unique, .*data.csv:2"):
        load_own(own(tmp_path, ".csv", files='id = "n"', content=content))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("7", "label 7 is out of range: expected 0 to 5"),
        ("inf", "label .* out of range"),
        ("nan", "column 'label' is empty"),
        ("x", "label .* is not a number"),
    ],
)
def test_bad_regression_label(tmp_path: Path, value: str, message: str) -> None:
    task = own(
        tmp_path,
        ".csv",
        kind="regression",
        metric="pearson",
        top="range = [0.0, 5.0]",
        content=f"text,label\na,3\nb,{value}\n",
    )
    with pytest.raises(TaskError, match=f"data.csv:3: {message}"):
        load_own(task)


def test_errors_are_the_users() -> None:
    assert issubclass(TaskError, EdgeDistilError)
