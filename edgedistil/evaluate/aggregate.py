"""From cells to the record: medians, retention with intervals, macro-scores, the paper's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from edgedistil.core.records import (
    Figure,
    MacroScore,
    NotMeasured,
    PaperRow,
    Retention,
    Summary,
    TaskFacts,
)
from edgedistil.evaluate.cells import CellFile
from edgedistil.evaluate.examples import TaskData
from edgedistil.evaluate.kind import Baseline
from edgedistil.evaluate.metrics import Floats
from edgedistil.evaluate.retention import Predictions, estimate_retention
from edgedistil.evaluate.spec import GLUE, TaskSpec, load_task

# docs/evaluation.md, "Scores": the paper does not say how MNLI's two dev sets count.
MACRO_HOW = (
    "plain mean of the nine tasks' medians; MNLI counts once, over its matched and mismatched dev "
    "sets together; MRPC and QQP as the mean of accuracy and F1, STS-B as the mean of Pearson and "
    "Spearman"
)
# Sanh et al. 2019, table 1, column "Score".
_PAPER_MACRO = {"teacher": 0.795, "student": 0.770}
# Model → field of `PaperRow`.
_PAPER_FIELDS = {"teacher": "teacher", "student": "student", "student-d": "student_d"}
_TEACHER = "teacher"


# --- tasks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskResult:
    """A task as it was used, and its constant prediction.

    Attributes:
        facts: The task's entry in the record.
        constant: The class or value that the baseline predicts.
    """

    facts: TaskFacts
    constant: float


def describe_task(spec: TaskSpec, data: TaskData) -> TaskResult:
    """Describes a task for the record, with the score of its constant prediction."""
    baseline = _baseline(spec, data)
    facts = TaskFacts(
        name=spec.name,
        title=spec.shown,
        kind=spec.kind,
        metric=spec.metric,
        positive=data.labels[1] if spec.needs_positive else None,
        suite=spec.suite,
        train_examples=len(data.train),
        dev_examples=len(data.dev),
        baseline=baseline.score,
        baseline_rule=baseline.rule,
        origin=data.origin,
        licence=spec.licence,
        settings_source=spec.training.source,
        paper=_paper_row(spec),
        warnings=list(data.warnings),
    )
    return TaskResult(facts, baseline.constant)


def _baseline(spec: TaskSpec, data: TaskData) -> Baseline:
    train_N: Floats = np.array([example.label for example in data.train])
    dev_M: Floats = np.array([example.label for example in data.dev])
    return spec.task_kind.baseline(spec.metric, train_N, dev_M, data.labels)


def _paper_row(spec: TaskSpec) -> PaperRow | None:
    paper = spec.paper
    if paper is None:
        return None
    # Task files have percent, as the paper prints them; records have shares.
    row = PaperRow(
        metric=paper.metric,
        teacher=paper.teacher / 100,
        student=paper.student / 100,
        source=paper.source,
    )
    # The field's default says that the paper has no such row.
    if paper.student_d is None:
        return row
    return row.model_copy(update={"student_d": paper.student_d / 100})


# --- models --------------------------------------------------------------------------------------


def summaries(cells: Sequence[CellFile]) -> list[Summary]:
    """Returns median, lowest and highest score over the seeds of each task and model."""
    result = []
    for (task, model), files in _by_task_and_model(cells).items():
        # By seed: a cell that is listed twice counts once.
        scores = {file.cell.seed: file.score for file in files}
        result.append(
            Summary(
                task=task,
                model=model,
                metric=files[0].cell.metric,
                seeds=sorted(scores),
                median=median(scores.values()),
                lowest=min(scores.values()),
                highest=max(scores.values()),
            )
        )
    return result


def retentions(cells: Sequence[CellFile], tasks: Mapping[str, TaskResult]) -> list[Retention]:
    """Compares every model with the teacher, on each task that the teacher was scored on.

    Args:
        cells: Cells of all tasks and models.
        tasks: Task's name → its description.
    """
    groups = _by_task_and_model(cells)
    result = []
    for (task, model), files in groups.items():
        # Without the teacher's score there is nothing to retain; it is not compared with itself.
        teacher = groups.get((task, _TEACHER))
        if model == _TEACHER or teacher is None or task not in tasks:
            continue
        result.append(_retention(model, teacher, files, tasks[task]))
    return result


def _retention(
    model: str, teacher: list[CellFile], student: list[CellFile], task: TaskResult
) -> Retention:
    facts = task.facts
    estimate = estimate_retention(
        predictions_of(teacher),
        predictions_of(student),
        teacher_median=_median_score(teacher),
        student_median=_median_score(student),
        baseline=facts.baseline,
        constant=task.constant,
    )
    return Retention(
        task=facts.name,
        model=model,
        metric=facts.metric,
        reference=_TEACHER,
        seeds=min(len(teacher), len(student)),
        baseline=facts.baseline,
        retention=estimate.retention,
        retention_low=estimate.retention_interval.low,
        retention_high=estimate.retention_interval.high,
        retention_above_baseline=estimate.retention_above_baseline,
        retention_above_baseline_low=estimate.retention_above_baseline_interval.low,
        retention_above_baseline_high=estimate.retention_above_baseline_interval.high,
        interval=estimate.interval,
        paper=_paper_retention(facts, model),
    )


def _paper_retention(facts: TaskFacts, model: str) -> Figure:
    missing = NotMeasured(not_measured=f"the paper has no row for {model} on {facts.title}")
    if facts.paper is None or model not in _PAPER_FIELDS:
        return missing
    # Retention in the paper is a ratio of its printed figures, as ours is of medians.
    score: Figure = getattr(facts.paper, _PAPER_FIELDS[model])
    return missing if isinstance(score, NotMeasured) else score / facts.paper.teacher


def predictions_of(files: Sequence[CellFile]) -> Predictions:
    """Returns the predictions of one model on one task, by seed."""
    first = files[0]
    metric = first.cell.metric
    # Spans: the questions are scored already, and the labels are not used.
    if first.per_question:
        by_seed = {file.cell.seed: np.array(file.per_question[metric]) for file in files}
        return Predictions(metric, by_seed[first.cell.seed], by_seed, holds_scores=True)
    by_seed = {file.cell.seed: np.array(file.predictions) for file in files}
    return Predictions(metric, np.array(first.labels), by_seed)


# --- suites --------------------------------------------------------------------------------------


def macros(results: Sequence[Summary]) -> list[MacroScore]:
    """Returns GLUE's macro-score of each model that was scored on a task of GLUE.

    The score is `NotMeasured` until the model has scores of all nine tasks.
    """
    suite = {name for name in GLUE if load_task(name).suite == "GLUE"}
    in_suite = [summary for summary in results if summary.task in suite]
    models = dict.fromkeys(summary.model for summary in in_suite)
    return [_macro(model, in_suite) for model in models]


def _macro(model: str, results: Sequence[Summary]) -> MacroScore:
    # A mean over fewer tasks would not be comparable, so it is not computed.
    scores = {summary.task: summary.median for summary in results if summary.model == model}
    missing = [task for task in GLUE if task not in scores]
    score: Figure = NotMeasured(not_measured=f"not scored yet: {', '.join(missing)}")
    if not missing:
        score = sum(scores.values()) / len(GLUE)
    no_row = NotMeasured(not_measured=f"the paper has no row for {model}")
    return MacroScore(
        suite="GLUE",
        model=model,
        score=score,
        tasks=list(scores),
        how=MACRO_HOW,
        paper=_PAPER_MACRO.get(model, no_row),
    )


def _by_task_and_model(cells: Sequence[CellFile]) -> dict[tuple[str, str], list[CellFile]]:
    groups: dict[tuple[str, str], list[CellFile]] = {}
    for file in cells:
        groups.setdefault((file.cell.task, file.cell.model), []).append(file)
    return groups


def _median_score(files: Sequence[CellFile]) -> float:
    return float(median(file.score for file in files))
