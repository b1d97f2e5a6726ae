"""From cells to the record: medians, retention with intervals, macro-scores, the paper's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from edgedistil.core.evaluation_records import MacroScore, PaperRow, Retention, Summary, TaskFacts
from edgedistil.core.paper import BERT_MACRO_SCORE, DISTILBERT_MACRO_SCORE
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.evaluate.cells import CellFile
from edgedistil.evaluate.examples import TaskData
from edgedistil.evaluate.kind import Baseline
from edgedistil.evaluate.metrics import CORRELATIONS, Floats
from edgedistil.evaluate.overlap import text_sketch
from edgedistil.evaluate.retention import (
    Predictions,
    SeedScores,
    constant_scores,
    describe_interval,
    estimate_macro_retention,
    estimate_retention,
    seed_scores,
)
from edgedistil.evaluate.spec import GLUE, TaskSpec, load_task

# docs/evaluation.md, "Scores": the paper does not say how MNLI's two dev sets count.
MACRO_HOW = (
    "plain mean of the nine tasks' medians; MNLI counts once, over its matched and mismatched dev "
    "sets together; MRPC and QQP as the mean of accuracy and F1, STS-B as the mean of Pearson and "
    "Spearman"
)
# Sanh et al. 2019, table 1, column "Score".
_PAPER_MACRO = {"teacher": BERT_MACRO_SCORE, "student": DISTILBERT_MACRO_SCORE}
# Baseline of most tasks; a constant has no correlation with anything.
CONSTANT = "constant"
_RANDOM_STUDENT = "student-random"
# Model → field of `PaperRow`.
_PAPER_FIELDS = {"teacher": "teacher", "student": "student", "student-d": "student_d"}


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
    sketch, texts = text_sketch(data.dev)
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
        baseline_model=baseline_model(spec.metric),
        origin=data.origin,
        licence=spec.licence,
        settings_source=spec.training.source,
        settings_tried=len(spec.training.settings()),
        settings_chosen_on=_chosen_on(spec, data),
        dev_sketch=sketch,
        dev_texts=texts,
        paper=_paper_row(spec),
        warnings=list(data.warnings),
    )
    return TaskResult(facts, baseline.constant)


def _chosen_on(spec: TaskSpec, data: TaskData) -> str:
    """Describes the examples that settings were chosen on; empty without a search."""
    search = spec.training.search
    if search is None:
        return ""
    judged = len(data.for_search(search.share).dev)
    return f"{judged:,} of its {len(data.train):,} training examples"


def baseline_model(metric: str) -> str:
    """Returns what retention above the baseline starts from: a constant, or a random student."""
    return _RANDOM_STUDENT if metric in CORRELATIONS else CONSTANT


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
                mean=fmean(scores.values()),
                lowest=min(scores.values()),
                highest=max(scores.values()),
            )
        )
    return result


def retentions(
    cells: Sequence[CellFile], tasks: Mapping[str, TaskResult], *, reference: str
) -> list[Retention]:
    """Compares every model with the reference, on each task that the reference was scored on.

    Args:
        cells: Cells of all tasks and models.
        tasks: Task's name → its description.
        reference: Model that retention is a share of: the teacher as the user gave it.
    """
    groups = _by_task_and_model(cells)
    scores = {key: seed_scores(predictions_of(files)) for key, files in groups.items()}
    result = []
    for task, model in groups:
        # Without the reference's score there is nothing to retain.
        if model == reference or (task, reference) not in groups or task not in tasks:
            continue
        result.append(_retention(task, model, reference, groups, scores, tasks[task]))
    return result


def _retention(
    task: str,
    model: str,
    reference: str,
    groups: Mapping[tuple[str, str], list[CellFile]],
    scores: Mapping[tuple[str, str], SeedScores],
    described: TaskResult,
) -> Retention:
    facts = described.facts
    baseline: SeedScores | NotMeasured
    if facts.baseline_model == CONSTANT:
        first = groups[task, reference]
        baseline = constant_scores(predictions_of(first), described.constant)
    else:
        absent = NotMeasured(not_measured=f"{facts.baseline_model} was not scored on this task")
        baseline = scores.get((task, facts.baseline_model), absent)
    # Paired over seeds and examples.
    estimate = estimate_retention(scores[task, reference], scores[task, model], baseline)
    return Retention(
        task=task,
        model=model,
        metric=facts.metric,
        reference=reference,
        seeds=estimate.seeds,
        baseline=baseline if isinstance(baseline, NotMeasured) else baseline.mean,
        baseline_model=facts.baseline_model,
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


def macros(
    results: Sequence[Summary], *, reference: str, read: Callable[[str, str], Sequence[CellFile]]
) -> list[MacroScore]:
    """Returns GLUE's macro-score of each model that was scored on a task of GLUE.

    The score is `NotMeasured` until the model has scores of all nine tasks.

    Args:
        results: Summaries of all tasks and models.
        reference: Model that retention is a share of.
        read: Returns the cells of a task and a model; called only where both are complete.
    """
    suite = {name for name in GLUE if load_task(name).suite == "GLUE"}
    in_suite = [summary for summary in results if summary.task in suite]
    scored = {(summary.task, summary.model) for summary in in_suite}
    models = dict.fromkeys(summary.model for summary in in_suite)
    result = []
    for model in models:
        macro = _macro(model, in_suite)
        if model != reference:
            complete = all((task, name) in scored for task in GLUE for name in (model, reference))
            macro = macro.model_copy(update=_macro_retention(model, reference, read, complete))
        result.append(macro)
    return result


def _macro_retention(
    model: str,
    reference: str,
    read: Callable[[str, str], Sequence[CellFile]],
    complete: bool,
) -> dict[str, object]:
    """Returns the fields of a macro-score about its retention."""
    if not complete:
        absent = NotMeasured(not_measured=f"{model} or {reference} lacks scores of some tasks")
        return {"retention": absent, "retention_low": absent, "retention_high": absent}
    pairs = [
        [seed_scores(predictions_of(read(task, name))) for name in (reference, model)]
        for task in GLUE
    ]
    ratio, interval, noise = estimate_macro_retention(
        [before for before, _ in pairs], [after for _, after in pairs]
    )
    return {
        "retention": ratio,
        "retention_low": interval.low,
        "retention_high": interval.high,
        "reference": reference,
        "seeds": noise.fewest_seeds,
        "interval": describe_interval(noise),
    }


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
