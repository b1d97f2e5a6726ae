"""From cells to summaries, retention and macro-scores, on made-up cells."""

from __future__ import annotations

from pathlib import Path

import pytest
from sklearn.metrics import matthews_corrcoef

from edgedistil.core.evaluation_records import Cell, Retention, Summary
from edgedistil.core.records import NotMeasured, Provenance, provenance
from edgedistil.evaluate.aggregate import (
    describe_task,
    macros,
    predictions_of,
    retentions,
    summaries,
)
from edgedistil.evaluate.cells import CellFile
from edgedistil.evaluate.examples import Example, TaskData
from edgedistil.evaluate.spec import GLUE, load_task
from edgedistil.evaluate.tasks import load_data

LABELS = [float(i % 2) for i in range(101)]
DATA = TaskData(
    train=tuple(Example((f"t{i}",), label) for i, label in enumerate(LABELS)),
    dev=tuple(Example((f"d{i}",), label) for i, label in enumerate(LABELS)),
    labels=("bad", "good"),
    origin="nowhere",
)


@pytest.fixture(scope="module")
def origin() -> Provenance:
    return provenance()


def cell(origin: Provenance, model: str, seed: int, wrong: int, task: str = "sst2") -> CellFile:
    """A cell whose first `wrong` predictions are wrong."""
    predictions = [1 - label if i < wrong else label for i, label in enumerate(LABELS)]
    record = Cell(
        task=task,
        model=model,
        seed=seed,
        scores={"accuracy": 1 - wrong / len(LABELS)},
        metric="accuracy",
        dev_examples=len(LABELS),
        train_examples=len(LABELS),
        seconds=1,
        provenance=origin,
    )
    return CellFile(key="k", model_sha256="m", cell=record, labels=LABELS, predictions=predictions)


def test_summary_is_over_the_seeds(origin: Provenance) -> None:
    files = [cell(origin, "student", seed, wrong) for seed, wrong in ((3, 10), (1, 20), (2, 40))]
    (summary,) = summaries(files)
    assert summary.seeds == [1, 2, 3]
    assert summary.median == 1 - 20 / 101
    assert summary.mean == pytest.approx(1 - (10 + 20 + 40) / 3 / 101)
    assert (summary.lowest, summary.highest) == (1 - 40 / 101, 1 - 10 / 101)


def test_retention_compares_with_the_teacher_and_the_paper(origin: Provenance) -> None:
    files = [cell(origin, "teacher", 1, 10), cell(origin, "student", 1, 20)]
    tasks = {"sst2": describe_task(load_task("sst2"), DATA)}
    (retention,) = retentions(files, tasks, reference="teacher")
    assert (retention.reference, retention.seeds) == ("teacher", 1)
    assert retention.retention == pytest.approx((1 - 20 / 101) / (1 - 10 / 101))
    # The training set has 51 'bad' and 50 'good'.
    assert retention.baseline == pytest.approx(51 / 101)
    assert retention.paper == pytest.approx(91.3 / 92.7)


def test_model_without_a_row_in_the_paper(origin: Provenance) -> None:
    files = [cell(origin, "teacher", 1, 10), cell(origin, "student-step0", 1, 20)]
    tasks = {"sst2": describe_task(load_task("sst2"), DATA)}
    (retention,) = retentions(files, tasks, reference="teacher")
    assert retention.paper == NotMeasured(
        not_measured="the paper has no row for student-step0 on SST-2"
    )


def test_no_retention_without_the_teacher(origin: Provenance) -> None:
    tasks = {"sst2": describe_task(load_task("sst2"), DATA)}
    assert retentions([cell(origin, "student", 1, 20)], tasks, reference="teacher") == []


def test_the_model_as_given_is_the_yardstick_and_the_fitted_copy_is_shown(
    origin: Provenance,
) -> None:
    wrong = {"teacher-as-given": 10, "teacher": 20, "student": 25}
    files = [cell(origin, name, seed, w) for name, w in wrong.items() for seed in (1, 2, 3)]
    tasks = {"sst2": describe_task(load_task("sst2"), DATA)}
    shares = {r.model: r for r in retentions(files, tasks, reference="teacher-as-given")}
    assert set(shares) == {"teacher", "student"}
    assert shares["student"].retention == pytest.approx((101 - 25) / (101 - 10))
    assert shares["teacher"].retention == pytest.approx((101 - 20) / (101 - 10))
    assert {r.reference for r in shares.values()} == {"teacher-as-given"}
    assert [r.seeds for r in shares.values()] == [3, 3]


def test_correlations_are_compared_with_a_random_student(origin: Provenance) -> None:
    facts = describe_task(load_task("cola"), DATA)
    assert (facts.facts.metric, facts.facts.baseline_model) == ("matthews", "student-random")

    def of(names: dict[str, int]) -> dict[str, Retention]:
        files = []
        for name, wrong in names.items():
            for seed in (1, 2, 3):
                file = cell(origin, name, seed, wrong, task="cola")
                scores = {"matthews": matthews(file.predictions)}
                record = file.cell.model_copy(update={"metric": "matthews", "scores": scores})
                files.append(file.model_copy(update={"cell": record}))
        shares = retentions(files, {"cola": facts}, reference="teacher")
        return {retention.model: retention for retention in shares}

    names = {"teacher": 5, "student": 15}
    without = of(names)["student"]
    assert without.retention_above_baseline == NotMeasured(
        not_measured="student-random was not scored on this task"
    )
    shares = of({**names, "student-random": 40})
    teacher, student, random = (
        matthews(cell(origin, "m", 1, wrong).predictions) for wrong in (5, 15, 40)
    )
    expected = (student - random) / (teacher - random)
    assert shares["student"].retention_above_baseline == pytest.approx(expected)
    assert shares["student"].baseline == pytest.approx(random)


def matthews(predictions: list[float]) -> float:
    return float(matthews_corrcoef(LABELS, predictions))


def test_predictions_of_spans_are_scores_of_questions(origin: Provenance) -> None:
    base = cell(origin, "student", 1, 0)
    spans = base.model_copy(update={"per_question": {"accuracy": [0.5, 1.0]}})
    predictions = predictions_of([spans])
    assert predictions.holds_scores
    assert predictions.by_seed[1].tolist() == [0.5, 1.0]


def summary(task: str, median: float) -> Summary:
    return Summary(
        task=task,
        model="teacher",
        metric="accuracy",
        seeds=[1],
        median=median,
        mean=median,
        lowest=median,
        highest=median,
    )


def test_macro_score_is_the_plain_mean_of_nine() -> None:
    results = [summary(task, i / 10) for i, task in enumerate(GLUE)]
    (macro,) = macros([*results, summary("imdb", 1.0)], reference="teacher", read=unread)
    assert macro.score == pytest.approx(0.4)
    assert macro.paper == 0.795
    assert macro.retention == NotMeasured(not_measured="this model is the reference")


def unread(task: str, model: str) -> list[CellFile]:
    raise AssertionError(f"{task} of {model} is read without need")


def test_the_macro_score_has_an_interval_over_tasks_examples_and_seeds(origin: Provenance) -> None:
    wrong = {"teacher": 10, "student": 16}
    results = [
        summary(task, 0.5).model_copy(update={"model": model}) for task in GLUE for model in wrong
    ]

    def read(task: str, model: str) -> list[CellFile]:
        return [cell(origin, model, seed, wrong[model] + seed, task) for seed in (1, 2, 3)]

    _, student = macros(results, reference="teacher", read=read)
    assert (student.reference, student.seeds) == ("teacher", 3)
    assert student.retention == pytest.approx((101 - 18) / (101 - 12))
    low, high = student.retention_low, student.retention_high
    assert isinstance(low, float) and isinstance(high, float)
    assert low < student.retention < high
    # Nine tasks have a third of the noise of one.
    assert high - low < 0.05
    incomplete = macros(results[:-1], reference="teacher", read=unread)[1]
    assert isinstance(incomplete.retention, NotMeasured)


def test_macro_score_names_the_missing_tasks() -> None:
    results = [summary(task, 0.5) for task in GLUE if task != "rte"]
    (macro,) = macros(results, reference="teacher", read=unread)
    assert macro.score == NotMeasured(not_measured="not scored yet: rte")
    assert macros([summary("imdb", 0.5)], reference="teacher", read=unread) == []


def test_description_of_a_task_has_the_papers_row_in_shares(glue: Path) -> None:
    spec = load_task("cola")
    facts = describe_task(spec, load_data(spec, glue)).facts
    assert facts.paper is not None
    assert spec.paper is not None
    assert facts.paper.student == spec.paper.student / 100
    assert isinstance(facts.paper.student_d, NotMeasured)
    assert facts.licence == spec.licence
