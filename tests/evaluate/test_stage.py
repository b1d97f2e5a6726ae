"""The stage on real, tiny models: the record, the recipe's defaults, one cell, and all of GLUE."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, StorageError, TaskError
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import stage
from edgedistil.evaluate.cells import read_cell

WriteTask = Callable[..., Path]


def options(task: Path, *models: str, seeds: int = 1) -> EvaluateOptions:
    return EvaluateOptions(tasks=[str(task)], models=models, seeds=seeds)


# --- the record ----------------------------------------------------------------------------------


def test_record_has_medians_retention_and_baseline(run: RunDir, own_task: WriteTask) -> None:
    record = stage.evaluate(run, options(own_task(), "teacher", "student", seeds=2))
    assert read_record(run.evaluation, EvaluationRecord) == record
    seeds = [(summary.model, summary.seeds) for summary in record.summaries]
    assert seeds == [("teacher", [1, 2]), ("student", [1, 2])]

    (retention,) = record.retentions
    teacher, student = (summary.median for summary in record.summaries)
    assert retention.model == "student"
    assert retention.retention == pytest.approx(student / teacher)
    # Both classes are equally frequent in training, so the baseline predicts the first: 'bad'.
    baseline = 8 / 17
    assert retention.baseline == record.tasks[0].baseline == pytest.approx(baseline)
    above = (student - baseline) / (teacher - baseline)
    assert retention.retention_above_baseline == pytest.approx(above)
    assert isinstance(retention.paper, NotMeasured)
    assert "always 'bad'" in record.tasks[0].baseline_rule


def test_the_model_as_given_is_the_yardstick(run: RunDir, own_task: WriteTask) -> None:
    run.teacher_as_given.symlink_to(run.path / "student")
    record = stage.evaluate(run, options(own_task(), "teacher", "student"))
    assert {s.model for s in record.summaries} == {"teacher", "student", "teacher-as-given"}
    shares = {retention.model: retention for retention in record.retentions}
    assert set(shares) == {"teacher", "student"}
    # Student and original are one model here, and the fitted copy is another one.
    assert shares["student"].retention == pytest.approx(1.0)
    assert shares["student"].reference == "teacher-as-given"


def test_recipe_gives_the_defaults(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=5)
    run.recipe.write_text(
        'name = "tiny"\n[teacher]\nsource = "x"\n[[corpus.sources]]\nfiles = "x"\n'
        f'[train]\nsteps = 1\n[evaluate]\ntasks = ["{task}"]\nmodels = ["student"]\n'
        "seeds = 2\nepochs = 1\ntrain_limit = 13\n"
    )
    record = stage.evaluate(run, EvaluateOptions())
    assert [cell.seed for cell in record.cells] == [1, 2]
    assert {cell.train_examples for cell in record.cells} == {13}
    assert {cell.hyper_parameters["epochs"] for cell in record.cells} == {1}


def test_earlier_tasks_and_models_stay_in_the_record(run: RunDir, own_task: WriteTask) -> None:
    first, second = own_task(epochs=1), own_task(epochs=1, name="other")
    stage.evaluate(run, options(first, "teacher"))
    stage.evaluate(run, options(second, "student"))
    record = stage.evaluate(run, options(first, "student"))
    assert {(cell.task, cell.model) for cell in record.cells} == {
        ("opinion", "teacher"),
        ("opinion", "student"),
        ("other", "student"),
    }
    retained = [(retention.task, retention.model) for retention in record.retentions]
    assert retained == [("opinion", "student")]
    assert {task.name for task in record.tasks} == {"opinion", "other"}
    assert read_record(run.evaluation, EvaluationRecord) == record


def test_models_in_folders_of_one_name_both_stay_in_the_record(
    run: RunDir, own_task: WriteTask, tmp_path: Path
) -> None:
    task = own_task(epochs=1)
    for place, source in (("a", "student"), ("b", "student-step0")):
        folder = tmp_path / place / "model"
        shutil.copytree((run.path / source).resolve(), folder)
        record = stage.evaluate(run, options(task, str(folder)))
    models = [cell.model for cell in record.cells]
    assert len(set(models)) == 2
    assert all(name.startswith("model-") for name in models)
    assert len(record.summaries) == 2


def test_tasks_of_one_name_are_refused(run: RunDir, own_task: WriteTask, tmp_path: Path) -> None:
    first = own_task(epochs=1)
    other = tmp_path / "copy"
    shutil.copytree(first.parent, other)
    tasks = [str(first), str(other / first.name)]
    with pytest.raises(TaskError, match=r"two tasks are called 'opinion', the second is .*copy"):
        stage.evaluate(run, EvaluateOptions(tasks=tasks, models=["student"]))
    assert not run.cells.exists()


def test_corrupt_record_stops_before_training(run: RunDir, own_task: WriteTask) -> None:
    run.evaluation.write_text('{"cells": ')
    with pytest.raises(StorageError, match=r"evaluation\.json"):
        stage.evaluate(run, options(own_task(), "student"))
    assert not run.cells.exists()


def test_earlier_cell_of_other_settings_is_left_out(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)
    stage.evaluate(run, options(task, "teacher"))
    task.write_text(task.read_text().replace("epochs = 1", "epochs = 2"))
    record = stage.evaluate(run, options(task, "student"))
    assert {cell.model for cell in record.cells} == {"student"}


def test_predictions_of_a_record_are_those_of_its_cells(run: RunDir, own_task: WriteTask) -> None:
    record = stage.evaluate(run, options(own_task(epochs=1), "student", seeds=2))
    (predictions,) = stage.predictions_of_record(run, record, "student")
    file = read_cell(run.cells / "opinion" / "student-2.json")
    assert list(predictions.by_seed) == [1, 2]
    assert predictions.by_seed[2].tolist() == file.predictions


# --- cells ---------------------------------------------------------------------------------------


def test_one_cell_writes_its_file_and_not_the_record(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)
    record = stage.evaluate(run, EvaluateOptions(cell=f"{task}:student:3"))
    assert [(cell.model, cell.seed) for cell in record.cells] == [("student", 3)]
    assert (run.cells / "opinion" / "student-3.json").is_file()
    assert not run.evaluation.exists()


def test_second_distillation_runs_the_teacher_first(run: RunDir, own_task: WriteTask) -> None:
    stage.evaluate(run, EvaluateOptions(cell=f"{own_task()}:student-d:1"))
    names = {path.name for path in (run.cells / "opinion").glob("*.json")}
    assert names == {"student-d-1.json", "teacher-1.json"}
    cell = read_cell(run.cells / "opinion" / "student-d-1.json").cell
    assert (cell.hyper_parameters["alpha"], cell.hyper_parameters["temperature"]) == (0.5, 2.0)
    assert cell.scores["accuracy"] > 0.9


def test_random_student_has_a_key_of_its_own(run: RunDir, own_task: WriteTask) -> None:
    stage.evaluate(run, options(own_task(epochs=1), "student", "student-random"))
    names = ("student", "student-random")
    files = [read_cell(run.cells / "opinion" / f"{name}-1.json") for name in names]
    assert files[0].key != files[1].key


def test_data_that_is_not_a_folder_is_refused(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--data .*nope is not a folder"):
        stage.evaluate(run, EvaluateOptions(data=tmp_path / "nope"))


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("int9", "unknown precision 'int9'; did you mean 'int8'"),
        ("auto", "expected one precision"),
    ],
)
def test_precision_is_checked_before_training(
    run: RunDir, own_task: WriteTask, precision: str, message: str
) -> None:
    task = str(own_task())
    options = EvaluateOptions(tasks=[task], models=["student"], artefact=precision)
    with pytest.raises(InputError, match=message):
        stage.evaluate(run, options)
    assert not run.cells.exists()


# --- public data sets ----------------------------------------------------------------------------


def test_all_nine_tasks_of_glue_give_a_macro_score(run: RunDir, glue: Path) -> None:
    """Every kind of task trains and scores; the macro-score is the plain mean of nine."""
    record = stage.evaluate(
        run, EvaluateOptions(tasks=["glue"], models=["student"], seeds=1, data=glue)
    )
    (macro,) = record.macros
    assert macro.score == pytest.approx(sum(summary.median for summary in record.summaries) / 9)
    assert macro.paper == 0.770
    mnli = next(cell for cell in record.cells if cell.task == "mnli")
    assert set(mnli.scores) == {"accuracy", "accuracy_m", "accuracy_mm"}
    # Two matched and three mismatched examples.
    over_both = (2 * mnli.scores["accuracy_m"] + 3 * mnli.scores["accuracy_mm"]) / 5
    assert mnli.scores["accuracy"] == pytest.approx(over_both)


def test_macro_score_of_part_of_the_suite_is_absent(run: RunDir, glue: Path) -> None:
    record = stage.evaluate(
        run, EvaluateOptions(tasks=["sst2", "cola"], models=["student"], seeds=1, data=glue)
    )
    assert record.macros[0].score == NotMeasured(
        not_measured="not scored yet: mnli, mrpc, qnli, qqp, rte, stsb, wnli"
    )


def test_squad_and_imdb_are_evaluated_like_the_others(run: RunDir, squad: Path, imdb: Path) -> None:
    assert squad == imdb
    record = stage.evaluate(
        run,
        EvaluateOptions(
            tasks=["squad", "imdb"], models=["teacher", "student"], seeds=1, data=squad
        ),
    )
    by_task = {retention.task: retention for retention in record.retentions}
    assert by_task["squad"].baseline == 0.0
    assert by_task["imdb"].paper == pytest.approx(92.82 / 93.46)
    assert by_task["squad"].paper == pytest.approx(85.8 / 88.5)
