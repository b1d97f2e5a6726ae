"""Retention of the long run's student, compared with the same layers without distillation.

    edgedistil evaluate --run serious       the recipe's tasks, models and seeds: hours on two cores
    edgedistil evaluate --run serious --task benchmarks/tasks/sentiment-5k.toml \\
        --model student-d --artefact int8
    python benchmarks/retention.py runs/serious --write benchmarks/results

Single cells can run on other cores or machines: `--cell benchmarks/tasks/topics.toml:student:3`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import stdev

from page import argument_parser, host_line, today, version_list, write_page, write_raw
from raw_record import compact_run

from edgedistil.core.evaluation_records import Cell, EvaluationRecord, Retention, Summary, TaskFacts
from edgedistil.core.format import ABSENT, hundredths, percent, with_interval
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.retention import estimate_difference, seed_scores
from edgedistil.evaluate.stage import predictions_of_record

# (better model, reference, description of the difference).
COMPARISONS = (
    ("student", "student-step0", "distilled minus undistilled"),
    (
        "student-d",
        "student-step0",
        "distilled, with soft targets on text without labels, minus undistilled",
    ),
    ("student-d", "student", "with soft targets minus without, both distilled"),
    ("student-d", "student-step0-d", "distilled minus undistilled, both with soft targets"),
)
COLUMNS = (
    "model",
    "learning rate",
    "median",
    "range",
    "seeds",
    "retention",
    "retention above baseline",
)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path, help="run directory with an evaluation")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    page = render(run, read_record(run.evaluation, EvaluationRecord))
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "retention", page)
        write_raw(arguments.write, "retention", compact_run(run))


def render(run: RunDir, record: EvaluationRecord) -> str:
    """Renders the result page, one section per task."""
    lines = [
        f"# Retention of the long run's student, {today()}",
        "",
        f"{host_line()} · {version_list(record.provenance.versions)}",
        "Commands: `benchmarks/retention.py`; recipe `benchmarks/serious.toml`;"
        " tasks `benchmarks/tasks`.",
        "",
    ]
    for task in record.tasks:
        lines += [*task_lines(task, record), "", *comparison_lines(run, record, task.name), ""]
    return "\n".join(lines)


def task_lines(task: TaskFacts, record: EvaluationRecord) -> list[str]:
    """Description of a task and its table of scores."""
    retentions = {r.model: r for r in record.retentions if r.task == task.name}
    intervals = dict.fromkeys(retention.interval for retention in retentions.values())
    lines = [
        f"## {task.title}",
        "",
        f"{task.train_examples:,} training and {task.dev_examples:,} dev examples; {task.metric};"
        f" baseline {hundredths(task.baseline, 1)} ({task.baseline_rule}).",
        *(f"Intervals: {interval}." for interval in intervals),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for summary in record.summaries:
        if summary.task == task.name:
            cells = row_cells(summary, record, retentions.get(summary.model))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def cells_of(record: EvaluationRecord, task: str, model: str) -> list[Cell]:
    """Cells of a model that were scored in PyTorch, one per seed."""
    key = (task, model, "pytorch")
    return [cell for cell in record.cells if (cell.task, cell.model, cell.artefact) == key]


def row_cells(summary: Summary, record: EvaluationRecord, retention: Retention | None) -> list[str]:
    """Cells of a model's row; the teacher has no retention."""
    cells = cells_of(record, summary.task, summary.model)
    scores = [cell.scores[cell.metric] for cell in cells]
    rates = sorted({f"{cell.hyper_parameters['learning_rate']:g}" for cell in cells})
    return [
        summary.model,
        ", ".join(rates),
        hundredths(summary.median),
        f"{hundredths(min(scores))}–{hundredths(max(scores))}",
        str(len(scores)),
        *retention_cells(retention),
    ]


def retention_cells(retention: Retention | None) -> list[str]:
    if retention is None:
        return [ABSENT, ABSENT]
    return [
        with_interval(
            retention.retention, retention.retention_low, retention.retention_high, percent
        ),
        with_interval(
            retention.retention_above_baseline,
            retention.retention_above_baseline_low,
            retention.retention_above_baseline_high,
            percent,
        ),
    ]


def comparison_lines(run: RunDir, record: EvaluationRecord, task: str) -> Iterator[str]:
    """Yields the difference of two models: paired by seed, bootstrap over seeds and examples."""
    tasks = [facts for facts in record.tasks if facts.name == task]
    record_of_task = record.model_copy(update={"tasks": tasks})
    for better, reference, description in COMPARISONS:
        better_scores = _scores_by_seed(record, task, better)
        reference_scores = _scores_by_seed(record, task, reference)
        seeds = sorted(better_scores.keys() & reference_scores.keys())
        # A standard deviation needs two seeds.
        if len(seeds) < 2:
            continue
        changes = [100 * (better_scores[seed] - reference_scores[seed]) for seed in seeds]
        before, after = (
            [seed_scores(p) for p in predictions_of_record(run, record_of_task, model)]
            for model in (reference, better)
        )
        change, interval, _ = estimate_difference(before, after, [1.0])
        yield (
            f"- {description}: {100 * change:+.2f}, standard deviation over {len(seeds)} seeds"
            f" {stdev(changes):.2f}, interval {hundredths(interval.low)} …"
            f" {hundredths(interval.high)}."
        )


def _scores_by_seed(record: EvaluationRecord, task: str, model: str) -> dict[int, float]:
    return {cell.seed: cell.scores[cell.metric] for cell in cells_of(record, task, model)}


if __name__ == "__main__":
    main()
