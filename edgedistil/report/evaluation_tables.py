"""Tables of an evaluation on labelled tasks, and of an ablation study."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistil.core.evaluation_records import (
    AblationRecord,
    ArtefactScore,
    EvaluationRecord,
    Retention,
    Summary,
    TaskFacts,
    Variation,
)
from edgedistil.core.format import (
    ABSENT,
    DISTURBED,
    hundredths,
    mebibytes,
    number,
    percent,
    with_interval,
)
from edgedistil.core.records import NotMeasured
from edgedistil.report.embedding_tables import embedding_tables
from edgedistil.report.table import TableData


def evaluation_tables(record: EvaluationRecord) -> list[TableData]:
    """All tables of an evaluation, in reading order; empty ones are left out."""
    tables = []
    if record.tasks:
        tables.append(task_table(record))
    if record.summaries:
        tables.append(score_table(record))
    tables += embedding_tables(record)
    if record.macros:
        tables.append(macro_table(record))
    if record.artefacts:
        tables.append(artefact_score_table(record))
    return tables


# --- tasks ---------------------------------------------------------------------------------------


def task_table(record: EvaluationRecord) -> TableData:
    """Tasks as they were used, with the paper's scores where it has the task."""
    rows = [
        [
            _title(task),
            task.metric,
            f"{task.train_examples:,}",
            f"{task.dev_examples:,}",
            hundredths(task.baseline, 1),
            _paper_scores(task),
        ]
        for task in record.tasks
    ]
    columns = ["task", "metric", "train", "dev", "baseline", "paper: BERT / DistilBERT"]
    # Warnings of all tasks come first, as they qualify every score.
    notes: list[str] = []
    for task in record.tasks:
        notes += [f"{_title(task)}: {warning}" for warning in task.warnings]
    # Cells of a task repeat its warnings.
    notes = list(dict.fromkeys(notes))
    for task in record.tasks:
        if task.positive is not None:
            notes.append(f"{_title(task)}: f1 is that of the class '{task.positive}'")
        notes += _setting_notes(task, record)
        if task.same_texts_as is not None:
            notes.append(
                f"{_title(task)}: {percent(task.same_texts_share, 0)} of the dev texts are those of"
                f" {task.same_texts_as}: the two count as one task"
            )
        notes += _unlabelled_notes(task, record)
    return TableData("Tasks", columns, rows, notes)


def _title(task: TaskFacts) -> str:
    return task.title or task.name


def _paper_scores(task: TaskFacts) -> str:
    if task.paper is None:
        return ABSENT
    return f"{hundredths(task.paper.teacher, 1)} / {hundredths(task.paper.student, 1)}"


def _setting_notes(task: TaskFacts, record: EvaluationRecord) -> Iterator[str]:
    """Yields how many settings were tried for each model, what chose them, and the result."""
    if task.settings_tried == 1:
        yield (
            f"{_title(task)}: one setting for all models, no other was tried"
            f" ({task.settings_source})"
        )
        return
    choices = []
    for setting in ("learning_rate", "epochs"):
        by_value = _models_by_setting(task, record, setting)
        values = [f"{value:g} for {', '.join(models)}" for value, models in by_value.items()]
        choices.append(f"{setting.replace('_', ' ')} {', '.join(values)}")
    yield (
        f"{_title(task)}: {task.settings_tried} settings tried for each model, chosen on"
        f" {task.settings_chosen_on}: {'; '.join(choices)}"
    )


def _unlabelled_notes(task: TaskFacts, record: EvaluationRecord) -> Iterator[str]:
    """Yields the number of unlabelled texts that some models were trained on in addition."""
    by_count = _models_by_setting(task, record, "unlabelled")
    # Models trained on labelled examples only.
    by_count.pop(0.0, None)
    if by_count:
        counts = [
            f"{', '.join(models)} on {count:,.0f} more texts" for count, models in by_count.items()
        ]
        yield (
            f"{_title(task)}: {'; '.join(counts)}, without labels, from the teacher's soft targets"
            " alone"
        )


def _models_by_setting(
    task: TaskFacts, record: EvaluationRecord, setting: str
) -> dict[float, list[str]]:
    """Groups the models of a task by the value of a hyper-parameter, in the order of the cells."""
    models: dict[float, list[str]] = {}
    for cell in record.cells:
        if cell.task != task.name or setting not in cell.hyper_parameters:
            continue
        group = models.setdefault(float(cell.hyper_parameters[setting]), [])
        # A model has one cell per seed.
        if cell.model not in group:
            group.append(cell.model)
    return models


# --- scores --------------------------------------------------------------------------------------


def score_table(record: EvaluationRecord) -> TableData:
    """Scores over the seeds, with the share of the reference's score that each model retains."""
    # The reference has scores and no retention.
    retentions = {(r.task, r.model, r.artefact): r for r in record.retentions}
    rows = []
    for summary in record.summaries:
        retention = retentions.get((summary.task, summary.model, summary.artefact))
        rows.append([*_score_cells(summary), *_retention_cells(retention)])
    # Metrics differ between tasks (accuracy, F1, correlation), so a note names them.
    metrics = ", ".join(sorted({f"{s.task}: {s.metric}" for s in record.summaries}))
    columns = [
        "task",
        "model",
        "mean",
        "median",
        "range",
        "seeds",
        "retention",
        "retention above baseline",
    ]
    notes = [f"scores × 100 ({metrics})", *_retention_notes(record)]
    return TableData("Models fine-tuned on labelled tasks", columns, rows, notes)


def _retention_notes(record: EvaluationRecord) -> list[str]:
    """What retention is a share of, what its baseline is, and how its interval came about."""
    notes = []
    for retention in record.retentions:
        baseline = "a constant prediction"
        if retention.baseline_model != "constant":
            baseline = retention.baseline_model
        notes.append(
            f"{retention.task}: retention is a share of the mean of {retention.reference};"
            f" baseline: {baseline} ({hundredths(retention.baseline, 1)})"
        )
        notes.append(retention.interval)
    # All models of a task have the same reference and baseline.
    return list(dict.fromkeys(note for note in notes if note))


def _score_cells(summary: Summary) -> list[str]:
    model = summary.model
    if summary.artefact != "pytorch":
        # Scores of artefacts share the table with those of PyTorch.
        model = f"{summary.model} {summary.artefact}"
    score_range = ABSENT
    if len(summary.seeds) > 1:
        score_range = f"{hundredths(summary.lowest, 1)}–{hundredths(summary.highest, 1)}"
    return [
        summary.task,
        model,
        hundredths(summary.mean, 1),
        hundredths(summary.median, 1),
        score_range,
        str(len(summary.seeds)),
    ]


def _retention_cells(retention: Retention | None) -> list[str]:
    """Retention and retention above baseline; dashes for the reference itself."""
    if retention is None:
        return [ABSENT, ABSENT]
    plain = with_interval(
        retention.retention, retention.retention_low, retention.retention_high, percent
    )
    # Undefined, so absent, where the reference does not beat the baseline.
    above_baseline = with_interval(
        retention.retention_above_baseline,
        retention.retention_above_baseline_low,
        retention.retention_above_baseline_high,
        percent,
    )
    return [plain, above_baseline]


def macro_table(record: EvaluationRecord) -> TableData:
    """Macro-scores of task suites, next to the paper's."""
    rows = [
        [
            macro.suite,
            macro.model,
            hundredths(macro.score),
            hundredths(macro.paper),
            with_interval(macro.retention, macro.retention_low, macro.retention_high, percent),
            str(len(macro.tasks)),
        ]
        for macro in record.macros
    ]
    columns = ["suite", "model", "score", "paper", "retention", "tasks"]
    # All macro-scores are computed in the same way; the first record describes it.
    intervals = [f"retention: {macro.interval}" for macro in record.macros if macro.interval]
    notes = [record.macros[0].how, *dict.fromkeys(intervals)]
    return TableData("Macro-score", columns, rows, notes)


def artefact_score_table(record: EvaluationRecord) -> TableData:
    """Score, size and latency of fine-tuned models in PyTorch and as ONNX artefacts."""
    rows = [_artefact_cells(score) for score in record.artefacts]
    columns = ["model", "artefact", "score", "drop", "MiB", "p50 ms"]
    conditions = [f"latency: {score.latency_conditions}" for score in record.artefacts]
    for score in record.artefacts:
        if score.disturbed is not None:
            name = f"{score.task} {score.model} {score.artefact}"
            conditions.append(f"{DISTURBED.strip()} {name}: disturbed: {score.disturbed}")
    return TableData(
        "Artefacts on the same dev set", columns, rows, list(dict.fromkeys(conditions))
    )


def _artefact_cells(score: ArtefactScore) -> list[str]:
    return [
        f"{score.task} {score.model}",
        score.artefact,
        hundredths(score.median, 1),
        # Positive: the artefact scores lower than PyTorch with the same weights.
        hundredths(score.drop, sign=True),
        mebibytes(score.bytes),
        number(score.latency_ms, 1) + ("" if score.disturbed is None else DISTURBED),
    ]


# --- ablation ------------------------------------------------------------------------------------


def ablation_table(record: AblationRecord) -> TableData:
    """Change of the score by each variation of a recipe, and whether it exceeds the noise."""
    rows = [_variation_cells(variation) for variation in record.variations]
    columns = [
        "recipe",
        "score",
        "change",
        "interval",
        "sd over seeds",
        "difference",
        "paper (GLUE)",
    ]
    notes = [
        # The score of a recipe is a mean over tasks; without their names it says nothing.
        f"mean of {', '.join(record.tasks)}, {len(record.seeds)} seeds; {record.interval}",
        record.agrees_with_paper,
    ]
    return TableData("Ablation", columns, rows, notes)


def _variation_cells(variation: Variation) -> list[str]:
    interval = ABSENT
    difference = ABSENT
    # The full recipe is the first row; it has no change from itself.
    if not isinstance(variation.change, NotMeasured):
        low = hundredths(variation.change_low, sign=True)
        high = hundredths(variation.change_high, sign=True)
        interval = f"{low} … {high}"
        difference = "inconclusive" if variation.within_noise else "significant"
    return [
        variation.name,
        hundredths(variation.score),
        hundredths(variation.change, sign=True),
        interval,
        hundredths(variation.spread),
        difference,
        # Of the paper's table 4, on GLUE: the order is comparable, the size is not.
        hundredths(variation.paper_change, sign=True),
    ]
