"""The stage on real, tiny models: the record, the defaults of the recipe, one cell alone, (D), and GLUE as a whole."""

import pytest

from edgedistil.core.errors import InputError, RunError
from edgedistil.core.records import EvaluationRecord, NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import stage
from edgedistil.evaluate.cells import read_cell


def test_record_has_medians_retention_floor_and_is_written(run, own_task):
    record = stage.evaluate(run, tasks=[str(own_task())], models=["teacher", "student"], seeds=2)
    assert read_record(run.evaluation, EvaluationRecord) == record
    assert [(s.model, s.seeds) for s in record.summaries] == [
        ("teacher", [1, 2]),
        ("student", [1, 2]),
    ]
    (kept,) = record.retentions
    teacher, student = (summary.median for summary in record.summaries)
    assert kept.model == "student"
    assert kept.retention == pytest.approx(student / teacher)
    assert (
        kept.baseline == record.tasks[0].baseline == pytest.approx(8 / 17)
    )  # commonest in train: 'bad', first of equals
    assert kept.retention_above_baseline == pytest.approx((student - 8 / 17) / (teacher - 8 / 17))
    assert isinstance(kept.paper, NotMeasured)
    assert "always 'bad'" in record.tasks[0].baseline_rule


def test_one_cell_alone_writes_its_file_and_not_the_record(run, own_task):
    task = str(own_task(epochs=1))
    record = stage.evaluate(run, cell=f"{task}:student:3")
    assert [(cell.model, cell.seed) for cell in record.cells] == [("student", 3)]
    assert (run.cells / "opinion" / "student-3.json").is_file()
    assert not run.evaluation.exists()


def test_second_distillation_makes_the_teacher_first(run, own_task):
    task = str(own_task())
    stage.evaluate(run, cell=f"{task}:student-d:1")
    names = {path.name for path in (run.cells / "opinion").glob("*.json")}
    assert names == {"student-d-1.json", "teacher-1.json"}
    cell = read_cell(run.cells / "opinion" / "student-d-1.json").cell
    assert (cell.hyper_parameters["alpha"], cell.hyper_parameters["temperature"]) == (0.5, 2.0)
    assert cell.scores["accuracy"] > 0.9


def test_random_student_is_another_cell_than_the_student(run, own_task):
    task = str(own_task(epochs=1))
    stage.evaluate(run, tasks=[task], models=["student", "student-random"], seeds=1)
    first, second = (
        read_cell(run.cells / "opinion" / f"{name}-1.json")
        for name in ("student", "student-random")
    )
    assert first.key != second.key


def test_recipe_gives_the_defaults(run, own_task):
    task = own_task(epochs=5)
    run.recipe.write_text(
        'name = "tiny"\n[teacher]\nsource = "x"\n[[corpus.sources]]\nfiles = "x"\n[train]\nsteps = 1\n'
        f'[evaluate]\ntasks = ["{task}"]\nmodels = ["student"]\nseeds = 2\nepochs = 1\ntrain_limit = 13\n'
    )
    record = stage.evaluate(run)
    assert [cell.seed for cell in record.cells] == [1, 2]
    assert {cell.train_examples for cell in record.cells} == {13}
    assert {cell.hyper_parameters["epochs"] for cell in record.cells} == {1}


def test_all_nine_of_glue_give_a_macro_score_beside_the_papers(run, glue):
    """Every kind of task trains and scores; the macro-score is the plain mean of nine."""
    record = stage.evaluate(run, tasks=["glue"], models=["student"], seeds=1, data=glue)
    (macro,) = record.macros
    assert macro.score == pytest.approx(sum(summary.median for summary in record.summaries) / 9)
    assert macro.paper == 0.770
    mnli = next(cell for cell in record.cells if cell.task == "mnli")
    assert set(mnli.scores) == {"accuracy", "accuracy_m", "accuracy_mm"}
    assert mnli.scores["accuracy"] == pytest.approx(
        (2 * mnli.scores["accuracy_m"] + 3 * mnli.scores["accuracy_mm"]) / 5
    )


def test_macro_score_of_part_of_the_suite_is_absent(run, glue):
    record = stage.evaluate(run, tasks=["sst2", "cola"], models=["student"], seeds=1, data=glue)
    assert record.macros[0].score == NotMeasured(
        not_measured="not scored yet: mnli, mrpc, qnli, qqp, rte, stsb, wnli"
    )


def test_squad_and_imdb_go_the_same_way(run, squad, imdb):
    assert squad == imdb
    record = stage.evaluate(
        run, tasks=["squad", "imdb"], models=["teacher", "student"], seeds=1, data=squad
    )
    by_task = {retention.task: retention for retention in record.retentions}
    assert by_task["squad"].baseline == 0.0
    assert by_task["imdb"].paper == pytest.approx(92.82 / 93.46)
    assert by_task["squad"].paper == pytest.approx(85.8 / 88.5)


def test_model_that_the_run_lacks_says_how_to_make_it(tmp_path, own_task):
    empty = RunDir(tmp_path / "empty")
    empty.path.mkdir()
    with pytest.raises(RunError, match="has no teacher yet"):
        stage.evaluate(empty, tasks=[str(own_task())], models=["teacher"], seeds=1)


def test_unknown_model(run, own_task):
    with pytest.raises(
        InputError, match="no model 'studnet': expected one of teacher, student-step0"
    ):
        stage.evaluate(run, tasks=[str(own_task())], models=["studnet"], seeds=1)


def test_artefact_of_what_nobody_deploys_is_refused(run, own_task):
    with pytest.raises(InputError, match="none of student-step0 is for a device"):
        stage.evaluate(
            run, tasks=[str(own_task())], models=["student-step0"], seeds=1, artefact="int8"
        )


def test_earlier_tasks_and_models_stay_in_the_record(run, own_task):
    first, second = str(own_task(epochs=1)), str(own_task(epochs=1, name="other"))
    stage.evaluate(run, tasks=[first], models=["teacher"], seeds=1)
    stage.evaluate(run, tasks=[second], models=["student"], seeds=1)
    record = stage.evaluate(run, tasks=[first], models=["student"], seeds=1)
    assert {(cell.task, cell.model) for cell in record.cells} == {
        ("opinion", "teacher"), ("opinion", "student"), ("other", "student"),
    }  # fmt: skip
    assert [(kept.task, kept.model) for kept in record.retentions] == [("opinion", "student")]
    assert {task.name for task in record.tasks} == {"opinion", "other"}
    assert read_record(run.evaluation, EvaluationRecord) == record


def test_earlier_cell_of_other_settings_does_not_mix_in(run, own_task):
    task = own_task(epochs=1)
    stage.evaluate(run, tasks=[str(task)], models=["teacher"], seeds=1)
    task.write_text(task.read_text().replace("epochs = 1", "epochs = 2"))
    record = stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    assert {cell.model for cell in record.cells} == {"student"}


@pytest.mark.parametrize(
    ("name", "told"), [("int9", "no precision 'int9'"), ("auto", "expected one precision")]
)
def test_precision_is_checked_before_anything_is_trained(run, own_task, name, told):
    with pytest.raises(InputError, match=told):
        stage.evaluate(run, tasks=[str(own_task())], models=["student"], seeds=1, artefact=name)
    assert not run.cells.exists()
