"""What the long run's student keeps of its teacher on labelled tasks, beside the same layers without distillation.

    edgedistil evaluate --run serious                      the recipe's tasks, models and seeds, hours on two cores
    edgedistil evaluate --run serious --task benchmarks/tasks/sentiment-5k.toml --model student-d --artefact int8
    python benchmarks/retention.py runs/serious --write benchmarks/results

Cells run one by one too (`--cell benchmarks/tasks/topics.toml:student:3`), on as many cores or machines as there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, stdev

from edgedistil.core.records import EvaluationRecord, Retention, Summary, read_record, this_host
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.retention import confidence_interval, score_differences
from edgedistil.evaluate.stage import predictions_of_record

COMPARED = (
    ("student", "student-step0", "distilled minus undistilled"),
    (
        "student-d",
        "student-step0",
        "distilled, with soft targets on text without labels, minus undistilled",
    ),
    ("student-d", "student", "with soft targets minus without, both distilled"),
    ("student-d", "student-step0-d", "distilled minus undistilled, both with soft targets"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    run = RunDir(asked.run)
    page = told(run, read_record(run.evaluation, EvaluationRecord))
    print(page)
    if asked.write is not None:
        (asked.write / f"retention-{datetime.now(UTC):%Y-%m-%d}.md").write_text(
            page, encoding="utf-8"
        )


def told(run: RunDir, record: EvaluationRecord) -> str:
    host = this_host()
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(record.provenance.versions.items())
    )
    lines = [
        f"# What the student of the long run keeps, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{host.cpu}, {host.cores} cores · {versions}",
        "Commands: `benchmarks/retention.py`; recipe `benchmarks/serious.toml`; tasks `benchmarks/tasks`.",
        "",
    ]
    for task in record.tasks:
        lines += [
            f"## {task.title}",
            "",
            f"{task.train_examples:,} training and {task.dev_examples:,} dev examples; {task.metric}; "
            f"a constant prediction has {100 * task.baseline:.1f} ({task.baseline_rule}).",
            *(
                f"Intervals: {each}."
                for each in dict.fromkeys(
                    r.interval for r in record.retentions if r.task == task.name
                )
            ),
            "",
            "| model | learning rate | median | range | seeds | of the teacher | of what lies above the constant |",
            "|---|---|---|---|---|---|---|",
            *(row(each, record) for each in record.summaries if each.task == task.name),
            "",
            *ahead(run, record, task.name),
            "",
        ]
    return "\n".join(lines)


def row(summary: Summary, record: EvaluationRecord) -> str:
    kept = [r for r in record.retentions if (r.task, r.model) == (summary.task, summary.model)]
    cells = [
        c
        for c in record.cells
        if (c.task, c.model, c.artefact) == (summary.task, summary.model, "pytorch")
    ]
    scores = [100 * cell.scores[cell.metric] for cell in cells]
    rates = sorted({f"{cell.hyper_parameters['learning_rate']:g}" for cell in cells})
    return (
        f"| {summary.model} | {', '.join(rates)} | {100 * summary.median:.2f} | {min(scores):.2f}–{max(scores):.2f} "
        f"| {len(scores)} | " + (shares(kept[0]) if kept else "– | –") + " |"
    )


def shares(kept: Retention) -> str:
    whole = (
        f"{percent(kept.retention)} ({percent(kept.retention_low)}–{percent(kept.retention_high)})"
    )
    above = f"{percent(kept.retention_above_baseline)} ({percent(kept.retention_above_baseline_low)}–{percent(kept.retention_above_baseline_high)})"
    return f"{whole} | {above}"


def percent(value: object) -> str:
    return f"{100 * value:.1f}%" if isinstance(value, float) else "–"


def ahead(run: RunDir, record: EvaluationRecord, task: str) -> Sequence[str]:
    """One model against another: paired by seed, with a bootstrap over seeds and examples."""
    of_task = record.model_copy(
        update={"tasks": [each for each in record.tasks if each.name == task]}
    )
    lines = []
    for better, worse, words in COMPARED:
        by_seed = [
            {
                c.seed: c.scores[c.metric]
                for c in record.cells
                if (c.task, c.model, c.artefact) == (task, m, "pytorch")
            }
            for m in (worse, better)
        ]
        seeds = sorted(set(by_seed[0]) & set(by_seed[1]))
        if len(seeds) < 2:
            continue
        changes = [100 * (by_seed[1][seed] - by_seed[0][seed]) for seed in seeds]
        values, _ = score_differences(
            *(predictions_of_record(run, of_task, model) for model in (worse, better))
        )
        low, high = confidence_interval(values)
        lines.append(
            f"- {words}: median over {len(seeds)} seeds {median(changes):+.2f}, standard deviation "
            f"{stdev(changes):.2f}, interval {100 * low:+.2f} … {100 * high:+.2f}."
        )
    return lines


if __name__ == "__main__":
    main()
