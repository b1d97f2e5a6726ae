"""Choice of learning rates: on training examples alone, with equal numbers of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import TaskError
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import stage
from edgedistil.evaluate.cells import read_cell
from edgedistil.evaluate.examples import Example, TaskData
from edgedistil.evaluate.spec import load_task
from edgedistil.evaluate.tasks import load_data

WriteTask = Callable[..., Path]
# With the first rate nothing is learnt; the second is that of the other tests.
SEARCH = "[training.search]\nlearning_rates = [1e-9, 1e-2]\n"


def searched(own_task: WriteTask, extra: str = "", **changes: int) -> Path:
    task = own_task(**changes)
    task.write_text(task.read_text() + SEARCH + extra)
    return task


def options(task: Path, *models: str) -> EvaluateOptions:
    return EvaluateOptions(tasks=[str(task)], models=models, seeds=1)


def test_every_model_has_as_many_settings_to_choose_from(run: RunDir, own_task: WriteTask) -> None:
    task = searched(own_task)
    record = stage.evaluate(run, options(task, "teacher", "student", "student-random"))
    names = sorted(path.name for path in (run.cells / "opinion" / "search").glob("*.json"))
    assert names == [
        f"{model}-{rate}-8-epochs.json"
        for model in ("student", "student-random", "teacher")
        for rate in ("0.01", "1e-09")
    ]
    assert record.tasks[0].settings_tried == 2
    # The better one is used, although it comes second.
    assert {cell.hyper_parameters["learning_rate"] for cell in record.cells} == {1e-2}


def test_settings_are_chosen_on_training_examples(run: RunDir, own_task: WriteTask) -> None:
    task = searched(own_task)
    record = stage.evaluate(run, options(task, "student"))
    data = load_data(load_task(str(task)), None)
    split = data.for_search(0.2)
    assert set(split.dev) | set(split.train) == set(data.train)
    assert not set(split.dev) & set(split.train)
    (tried, _) = sorted((run.cells / "opinion" / "search").glob("*.json"))
    cell = read_cell(tried)
    assert (cell.cell.train_examples, cell.cell.dev_examples) == (len(split.train), len(split.dev))
    assert cell.labels == [example.label for example in split.dev]
    # The result itself is trained on all of them, and judged on the dev set.
    assert record.cells[0].train_examples == 64
    assert record.tasks[0].settings_chosen_on == f"{len(split.dev)} of its 64 training examples"


def test_a_search_is_not_repeated(run: RunDir, own_task: WriteTask) -> None:
    task = searched(own_task)
    stage.evaluate(run, options(task, "teacher"))
    searches = run.cells / "opinion" / "search"
    times = {path: path.stat().st_mtime_ns for path in searches.iterdir()}
    record = stage.evaluate(run, options(task, "student"))
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    # The teacher's cell is still valid: its settings are those of the earlier search.
    assert {cell.model for cell in record.cells} == {"teacher", "student"}


def test_treated_students_have_controls_with_the_same_settings(
    run: RunDir, own_task: WriteTask, tmp_path: Path
) -> None:
    extra = '[second_distillation]\nunlabelled = "more.txt"\n'
    task = searched(own_task, extra)
    (task.parent / "more.txt").write_text("".join(f"a film {i} !\n" for i in range(40)))
    record = stage.evaluate(run, options(task, "teacher", "student-d"))
    cells = {cell.model: cell.hyper_parameters for cell in record.cells}
    assert set(cells) == {
        "teacher",
        "student-d",
        "student-step0-d",
        "student",
        "student-same-steps",
        "teacher-d",
    }
    assert {values["learning_rate"] for values in cells.values()} == {1e-2}
    assert cells["student-same-steps"]["as_many_steps_as_with_texts"] == 64 + 40
    for model in ("student-d", "student-step0-d", "teacher-d"):
        assert cells[model]["unlabelled"] == 40


# --- the split -----------------------------------------------------------------------------------

FILMS = tuple(Example((f"sentence {i}",), float(i % 2), group=f"film {i % 23}") for i in range(230))


def test_films_are_not_divided() -> None:
    split = TaskData(FILMS, FILMS[:1], ("a", "b"), "").for_search(0.3)
    judged = {example.group for example in split.dev}
    trained = {example.group for example in split.train}
    assert judged and trained and not judged & trained
    assert 0.1 < len(split.dev) / len(FILMS) < 0.5
    assert split.unlabelled == ()


def test_equal_texts_are_on_one_side() -> None:
    twice = tuple(Example((text,), 1.0) for i in range(50) for text in (f"Text {i}", f"text {i}!"))
    split = TaskData(twice, twice[:1], ("a", "b"), "").for_search(0.3)
    sides = [
        {example.texts[0].lower().strip("!") for example in side}
        for side in (split.dev, split.train)
    ]
    assert not sides[0] & sides[1]


def test_too_few_examples_to_choose_by_are_refused() -> None:
    with pytest.raises(TaskError, match="1 training examples are too few"):
        TaskData(FILMS[:1], FILMS[:1], ("a", "b"), "").for_search(0.2)
