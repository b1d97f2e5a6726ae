"""Examples without a text or label are refused or counted; classes that do not occur are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.evaluate.examples import TaskData
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

TASK = """kind = "{kind}"
metric = "{metric}"
{top}
[files]
train = "train.jsonl"
dev = "dev.jsonl"
{files}
[training]
epochs = 1
batch = 2
learning_rate = 1e-3
max_length = 16
source = "x"
"""
DEV = [{"text": "x", "label": "no"}, {"text": "y", "label": "yes"}]
COMPLETE = [{"text": f"film {number}", "label": ("yes", "no")[number % 2]} for number in range(6)]
NO_LABEL: dict[str, Any] = {"text": "a plot", "label": None}
BLANK_LABEL = {"text": "a plot", "label": " "}
NO_TEXT = {"text": "\t", "label": "yes"}


def load(
    folder: Path,
    train: list[dict[str, Any]],
    dev: list[dict[str, Any]] = DEV,
    *,
    kind: str = "classification",
    metric: str = "accuracy",
    top: str = "",
    files: str = "",
) -> TaskData:
    for side, rows in (("train", train), ("dev", dev)):
        (folder / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = folder / "mine.toml"
    task.write_text(TASK.format(kind=kind, metric=metric, top=top, files=files))
    load_data.cache_clear()
    return load_data(load_task(str(task)), None)


# --- missing texts and labels --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column"), [(NO_LABEL, "label"), (BLANK_LABEL, "label"), (NO_TEXT, "text")]
)
def test_row_without_a_text_or_label_is_refused_with_its_place(
    tmp_path: Path, row: dict[str, Any], column: str
) -> None:
    message = rf"train.jsonl:7: column '{column}' is empty, as in 2 more rows"
    with pytest.raises(TaskError, match=message) as caught:
        load(tmp_path, [*COMPLETE, row, row, row])
    assert 'empty = "skip"' in str(caught.value.hint)
    with pytest.raises(TaskError, match=rf"dev.jsonl:3: column '{column}' is empty\n"):
        load(tmp_path, COMPLETE, [*DEV, row])


def test_rows_without_a_text_or_label_are_left_out_and_counted(tmp_path: Path) -> None:
    train = [*COMPLETE, NO_LABEL, BLANK_LABEL, NO_TEXT]
    data = load(tmp_path, train, files='empty = "skip"')
    assert data.labels == ("no", "yes"), "a missing label is not a class"
    assert len(data.train) == len(COMPLETE)
    assert data.warnings == ("3 training rows left out: 2 without a label, 1 without text",)
    with pytest.raises(TaskError, match="has no dev examples"):
        load(tmp_path, COMPLETE, [NO_TEXT], files='empty = "skip"')


def test_texts_may_be_empty_where_the_task_says_so(tmp_path: Path) -> None:
    data = load(tmp_path, [*COMPLETE, NO_TEXT], files='empty = "keep"')
    assert len(data.train) == len(COMPLETE) + 1
    assert data.warnings == ("1 training row without text, used as they are",)
    with pytest.raises(TaskError, match=r"train.jsonl:8: column 'label' is empty\n"):
        load(tmp_path, [*COMPLETE, NO_TEXT, NO_LABEL], files='empty = "keep"')


def test_missing_value_of_a_regression(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "label": 1.5}, {"text": "b", "label": float("nan")}]
    with pytest.raises(TaskError, match=r"train.jsonl:2: column 'label' is empty"):
        load(tmp_path, rows, rows[:1], kind="regression", metric="pearson")


def test_text_that_cannot_be_encoded_is_refused_with_its_place(tmp_path: Path) -> None:
    for row in ({"text": "a \ud800", "label": "no"}, {"text": "a", "label": "\udfff"}):
        with pytest.raises(TaskError, match=r"train.jsonl:7: .* half of a surrogate pair"):
            load(tmp_path, [*COMPLETE, row])
    with pytest.raises(TaskError, match=r"train.jsonl:7: character 2 of the text is a NUL"):
        load(tmp_path, [*COMPLETE, {"text": "a \0", "label": "no"}])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": [7], "answer_start": [0]}, "the answer is int, expected text"),
        ({"text": ["b"], "answer_start": [-1]}, "the start is -1"),
        ({"text": ["b"], "answer_start": [0.5]}, "the start is 0.5"),
        (None, "the question has no answer"),
    ],
)
def test_answers_of_other_types_are_refused(tmp_path: Path, answers: Any, message: str) -> None:
    rows = [{"q": "Where?", "c": "b", "label": answers}]
    with pytest.raises(TaskError, match=rf"train.jsonl:1: .*{message}"):
        load(tmp_path, rows, rows, kind="span", metric="f1", files='text = ["q", "c"]')


# --- classes -------------------------------------------------------------------------------------


def test_class_without_an_example_is_named(tmp_path: Path) -> None:
    data = load(tmp_path, COMPLETE, DEV[:1], top='labels = ["yes", "no", "maybe"]')
    assert data.warnings == (
        "no training example of the class maybe",
        "no dev example of the class yes, maybe",
    )


def test_f1_names_the_class_that_it_is_about(tmp_path: Path) -> None:
    data = load(tmp_path, COMPLETE, metric="f1")
    assert data.labels == ("no", "yes")
    assert "f1 is that of the class 'yes', the second by name" in data.warnings[-1]
    data = load(tmp_path, COMPLETE, metric="f1", top='positive = " no "')
    assert (data.labels, data.warnings) == (("yes", "no"), ())
    assert [example.label for example in data.dev] == [1, 0]


def test_f1_of_three_classes_is_refused_before_training(tmp_path: Path) -> None:
    third = {"text": "c", "label": "maybe"}
    with pytest.raises(TaskError, match=r"f1 is about one class of two, and there are 3"):
        load(tmp_path, [*COMPLETE, third], metric="accuracy_f1")
    assert load(tmp_path, [*COMPLETE, third], metric="macro_f1").labels == ("maybe", "no", "yes")
