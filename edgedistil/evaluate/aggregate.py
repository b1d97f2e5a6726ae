"""Cells → the evaluation's record: medians, retention with intervals, macro-scores, the paper's rows beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from edgedistil.evaluate.metrics import constant_prediction, constant_score
from edgedistil.evaluate.retention import Predictions, estimate_retention
from edgedistil.evaluate.spec import GLUE, TaskSpec, load_task

MACRO_HOW = (
    "plain mean of the nine tasks' medians; MNLI counts once, over its matched and mismatched dev sets together; "
    "MRPC and QQP as the mean of accuracy and F1, STS-B as the mean of Pearson and Spearman"
)
_PAPER_MACRO = {"teacher": 0.795, "student": 0.770}
_OF_THE_PAPER = {"teacher": "teacher", "student": "student", "student-d": "student_d"}


def task_facts(spec: TaskSpec, data: TaskData) -> TaskFacts:
    """The task as it was used, with the score of a constant prediction."""
    return TaskFacts(
        name=spec.name,
        title=spec.shown,
        kind=spec.kind,
        metric=spec.metric,
        suite=spec.suite,
        train_examples=len(data.train),
        dev_examples=len(data.dev),
        baseline=_baseline(spec, data),
        baseline_rule=_baseline_rule(spec, data),
        origin=data.origin,
        licence=spec.licence,
        settings_source=spec.training.source,
        paper=_paper_row(spec),
        warnings=list(data.warnings),
    )


def _baseline(spec: TaskSpec, data: TaskData) -> float:
    if spec.kind == "span":
        return 0.0
    train, dev = (np.array([example.label for example in side]) for side in (data.train, data.dev))
    return constant_score(spec.metric, spec.kind, train, dev)


def _baseline_rule(spec: TaskSpec, data: TaskData) -> str:
    if spec.kind == "span":
        return "no answer at all"
    constant = constant_prediction(spec.kind, np.array([example.label for example in data.train]))
    if spec.kind == "regression":
        return f"always {constant:.3g}, the mean of the training labels (a constant has no correlation: 0)"
    return f"always '{data.labels[int(constant)]}', the commonest training label"


def _paper_row(spec: TaskSpec) -> PaperRow | None:
    if spec.paper is None:
        return None
    paper = spec.paper
    student_d = {} if paper.student_d is None else {"student_d": paper.student_d / 100}
    return PaperRow(
        metric=paper.metric,
        teacher=paper.teacher / 100,
        student=paper.student / 100,
        source=paper.source,
        **student_d,
    )


def summaries(cells: Sequence[CellFile]) -> list[Summary]:
    """Median, lowest and highest of the metric that counts, over the seeds of each task and model."""
    found = []
    for (task, model), files in _grouped(cells).items():
        scores = {file.cell.seed: file.cell.scores[file.cell.metric] for file in files}
        values = list(scores.values())
        found.append(
            Summary(
                task=task,
                model=model,
                metric=files[0].cell.metric,
                seeds=sorted(scores),
                median=median(values),
                lowest=min(values),
                highest=max(values),
            )
        )
    return found


def retentions(
    cells: Sequence[CellFile], facts: Mapping[str, TaskFacts], data: Mapping[str, TaskData]
) -> list[Retention]:
    """Every model against the teacher, on every task that the teacher was scored on."""
    groups = _grouped(cells)
    found = []
    for (task, model), files in groups.items():
        teacher = groups.get((task, "teacher"))
        if model == "teacher" or teacher is None or task not in facts:
            continue
        found.append(_retention(model, teacher, files, facts[task], data[task]))
    return found


def _retention(
    model: str, teacher: list[CellFile], student: list[CellFile], facts: TaskFacts, data: TaskData
) -> Retention:
    constant = 0.0
    if facts.kind != "span":
        constant = constant_prediction(
            facts.kind, np.array([example.label for example in data.train])
        )
    estimate = estimate_retention(
        predictions_of(teacher),
        predictions_of(student),
        teacher_median=_median(teacher),
        student_median=_median(student),
        baseline=facts.baseline,
        constant=constant,
    )
    return Retention(
        task=facts.name,
        model=model,
        metric=facts.metric,
        baseline=facts.baseline,
        retention=estimate.retention,
        retention_low=estimate.retention_interval.low,
        retention_high=estimate.retention_interval.high,
        retention_above_baseline=estimate.above_baseline,
        retention_above_baseline_low=estimate.above_baseline_interval.low,
        retention_above_baseline_high=estimate.above_baseline_interval.high,
        interval=estimate.interval,
        paper=_paper_retention(facts, model),
    )


def _paper_retention(facts: TaskFacts, model: str) -> Figure:
    row = _OF_THE_PAPER.get(model)
    value = getattr(facts.paper, row) if facts.paper is not None and row is not None else None
    if facts.paper is None or not isinstance(value, float):
        return NotMeasured(not_measured=f"the paper has no row for {model} on {facts.title}")
    return value / facts.paper.teacher


def predictions_of(files: Sequence[CellFile]) -> Predictions:
    """One model's cells of one task, as the intervals take them."""
    first = files[0]
    if first.per_question:
        by_seed = {file.cell.seed: np.array(file.per_question[file.cell.metric]) for file in files}
        return Predictions(
            first.cell.metric, next(iter(by_seed.values())), by_seed, holds_scores=True
        )
    by_seed = {file.cell.seed: np.array(file.predictions) for file in files}
    return Predictions(first.cell.metric, np.array(first.labels), by_seed)


def macros(found: Sequence[Summary]) -> list[MacroScore]:
    """GLUE's macro-score of each model that was scored on a task of GLUE; absent until all nine are there."""
    suite = {name for name in GLUE if load_task(name).suite == "GLUE"}
    models = dict.fromkeys(each.model for each in found if each.task in suite)
    result = []
    for model in models:
        scores = {
            each.task: each.median for each in found if each.model == model and each.task in suite
        }
        lacking = [task for task in GLUE if task not in scores]
        score: Figure = NotMeasured(not_measured=f"not scored yet: {', '.join(lacking)}")
        if not lacking:
            score = sum(scores.values()) / len(GLUE)
        paper: Figure = _PAPER_MACRO.get(
            model, NotMeasured(not_measured=f"the paper has no row for {model}")
        )
        result.append(
            MacroScore(
                suite="GLUE",
                model=model,
                score=score,
                tasks=list(scores),
                how=MACRO_HOW,
                paper=paper,
            )
        )
    return result


def _grouped(cells: Sequence[CellFile]) -> dict[tuple[str, str], list[CellFile]]:
    groups: dict[tuple[str, str], list[CellFile]] = {}
    for file in cells:
        groups.setdefault((file.cell.task, file.cell.model), []).append(file)
    return groups


def _median(files: Sequence[CellFile]) -> float:
    return float(median(file.cell.scores[file.cell.metric] for file in files))
