"""Planning of cells: models of a run, soft targets, and models whose artefacts are scored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, ModelError, RunError
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.planning import (
    PlannedTask,
    Planner,
    cell_model_name,
    deployed_models,
    reference_model,
    source_of,
    with_controls,
)
from edgedistil.evaluate.spec import load_task


@pytest.fixture
def task(own_task: Callable[..., Path]) -> PlannedTask:
    return PlannedTask(load_task(str(own_task())), None, None)


def test_teacher_comes_first_and_once_where_soft_targets_need_it(
    run: RunDir, task: PlannedTask
) -> None:
    plans = Planner(run).plans(task, ["student-d", "teacher", "student"], [1, 2])
    labels = [plan.label.removeprefix("opinion:") for plan in plans]
    assert labels[:3] == ["teacher:1", "student-d:1", "student:1"]
    assert len(labels) == 6
    teacher, soft, student = plans[:3]
    assert teacher.keep_weights
    assert soft.soft_targets_from == teacher.weights
    assert (student.soft_targets_from, student.keep_weights) == (None, False)


def as_given(run: RunDir) -> None:
    """Gives the run a teacher whose head was fitted, next to the original."""
    run.teacher_as_given.symlink_to(run.path / "teacher")


def test_retention_needs_the_teacher_as_given(run: RunDir, task: PlannedTask) -> None:
    models = ["teacher", "student"]
    assert reference_model(run) == "teacher"
    assert with_controls(run, models, task.spec) == models
    as_given(run)
    assert reference_model(run) == "teacher-as-given"
    assert with_controls(run, models, task.spec) == [*models, "teacher-as-given"]
    # Without the fitted copy there is no retention either.
    assert with_controls(run, ["student"], task.spec) == ["student"]


def test_a_treated_student_has_its_control(run: RunDir, task: PlannedTask) -> None:
    extended = with_controls(run, ["teacher", "student-d"], task.spec)
    assert extended == ["teacher", "student-d", "student-step0-d", "teacher-d"]


def test_correlations_need_a_random_student(run: RunDir) -> None:
    models = ["teacher", "student"]
    assert with_controls(run, models, load_task("stsb")) == [*models, "student-random"]
    assert with_controls(run, models, load_task("sst2")) == models


def test_a_run_whose_teacher_was_not_changed_has_no_other(run: RunDir) -> None:
    with pytest.raises(RunError, match="is used as it was given") as raised:
        source_of(run, "teacher-as-given")
    assert raised.value.hint == "pass --model teacher"


def test_weights_are_stored_for_artefacts(run: RunDir, task: PlannedTask) -> None:
    plans = Planner(run, deployed=["student"]).plans(task, ["student", "student-step0"], [1])
    assert [plan.keep_weights for plan in plans] == [True, False]


def test_model_that_the_run_lacks_names_the_command_that_makes_it(tmp_path: Path) -> None:
    empty = RunDir(tmp_path / "empty")
    empty.path.mkdir()
    with pytest.raises(RunError, match="has no teacher yet"):
        source_of(empty, "teacher")


def test_unknown_model(run: RunDir) -> None:
    message = "unknown model 'studnet': expected one of teacher, teacher-as-given"
    with pytest.raises(InputError, match=message):
        source_of(run, "studnet")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my model", "my-model"),
        ("student", "folder-student"),
        ("模型", "model"),
        (".hidden", "hidden"),
        ("x" * 200, "x" * 60),
        ("a/../b", "b"),
    ],
)
def test_folder_is_named_after_itself_and_its_model(folder: str, name: str) -> None:
    assert cell_model_name(Path("/models") / folder, "0123456789ab") == f"{name}-01234567"


def test_two_models_in_folders_of_one_name_have_two_cells(
    run: RunDir, task: PlannedTask, tmp_path: Path
) -> None:
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model", tmp_path / "copy" / "model"]
    for folder, source in zip(folders, ("student", "student-step0", "student"), strict=True):
        shutil.copytree((run.path / source).resolve(), folder)
    plans = Planner(run).plans(task, [str(folder) for folder in folders], [1])
    assert len({plan.file for plan in plans}) == 2
    # A copy is the same model.
    assert [plan.source.folder for plan in plans] == folders[:2]
    assert plans[0].key == Planner(run).plan(task, "student", 1, keep=False).key


def test_comparison_models_are_not_deployed() -> None:
    assert deployed_models(["teacher", "student-step0"], one_cell=False) == ["teacher"]
    assert deployed_models(["student-step0"], one_cell=True) == ["student-step0"]
    with pytest.raises(InputError, match="student-step0 are only comparisons"):
        deployed_models(["student-step0"], one_cell=False)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "contains a JSON list"),
        ("model.safetensors", "", "is truncated or not a safetensors file"),
        ("tokenizer.json", '{"model": ', "is not valid JSON"),
    ],
)
def test_a_damaged_folder_is_found_before_any_cell_runs(
    run: RunDir, tiny_models: Path, tmp_path: Path, file: str, content: str, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_models / "student", folder)
    (folder / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        source_of(run, str(folder))


def test_the_untrimmed_student_needs_a_run_that_was_named(run: RunDir) -> None:
    with pytest.raises(RunError, match="evaluate with --untrimmed-run RUN"):
        source_of(run, "student-untrimmed")
