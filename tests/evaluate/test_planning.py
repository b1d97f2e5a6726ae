"""Planning of cells: models of a run, soft targets, and models whose artefacts are scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, RunError
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.planning import (
    PlannedTask,
    Planner,
    cell_model_name,
    deployed_models,
    source_of,
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


def test_weights_are_stored_for_artefacts(run: RunDir, task: PlannedTask) -> None:
    plans = Planner(run, deployed=["student"]).plans(task, ["student", "student-step0"], [1])
    assert [plan.keep_weights for plan in plans] == [True, False]


def test_model_that_the_run_lacks_names_the_command_that_makes_it(tmp_path: Path) -> None:
    empty = RunDir(tmp_path / "empty")
    empty.path.mkdir()
    with pytest.raises(RunError, match="has no teacher yet"):
        source_of(empty, "teacher")


def test_unknown_model(run: RunDir) -> None:
    message = "unknown model 'studnet': expected one of teacher, student-step0"
    with pytest.raises(InputError, match=message):
        source_of(run, "studnet")


def test_folder_gets_a_name_that_no_model_of_the_run_has(tmp_path: Path) -> None:
    assert cell_model_name("student-d") == "student-d"
    assert cell_model_name(str(tmp_path / "my model")) == "my-model"
    assert cell_model_name(str(tmp_path / "student")) == "folder-student"


def test_comparison_models_are_not_deployed() -> None:
    assert deployed_models(["teacher", "student-step0"], one_cell=False) == ["teacher"]
    assert deployed_models(["student-step0"], one_cell=True) == ["student-step0"]
    with pytest.raises(InputError, match="student-step0 are only comparisons"):
        deployed_models(["student-step0"], one_cell=False)
