"""What a trimmed vocabulary costs: the student, and the complete teacher, trimmed and not.

    edgedistil distill recipes/tiny.toml --run trimmed
    edgedistil distill recipes/tiny.toml --run untrimmed --set student.vocabulary=null
    python benchmarks/trim_quality.py trimmed untrimmed --write benchmarks/results

Both runs are of one recipe that differs in `student.vocabulary` alone. Scores are those of
`edgedistil evaluate`: labelled tasks after fine-tuning, and nDCG@10 of the packaged collections
without. A task takes minutes for each model and seed, a collection about five minutes for each
model on two cores; `--task retrieval:manual` is the small setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from page import argument_parser, host_line, today, version_list, write_page, write_raw

import edgedistil
from edgedistil.core import markdown
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.format import hundredths
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import installed_versions

TEACHER, STUDENT = "teacher", "student"
# Model with the trimmed vocabulary → the same one without, and the points that it may lose.
PAIRS = {STUDENT: ("student-untrimmed", 1.0), "teacher-trimmed": (TEACHER, 0.5)}
TASKS = ("sentiment", "retrieval")


@dataclass(frozen=True)
class Cost:
    """Scores of one task with and without a trimmed vocabulary, 0 to 1.

    Attributes:
        task: Task or collection.
        model: The model that is trimmed.
        trimmed, untrimmed: Its score, and that of the model that is not.
        most: Points that it may lose.
    """

    task: str
    model: str
    trimmed: float
    untrimmed: float
    most: float

    @property
    def points(self) -> float:
        """Points of 100 that trimming loses; negative if it gains."""
        return 100 * (self.untrimmed - self.trimmed)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("trimmed", help="run with student.vocabulary")
    parser.add_argument("untrimmed", help="run of the same recipe without it")
    parser.add_argument("--task", action="append", help=f"default: {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning runs of a labelled task")
    parser.add_argument("--jobs", type=int, default=1, help="fine-tuning runs at the same time")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    options = EvaluateOptions(
        tasks=arguments.task or list(TASKS),
        models=[TEACHER, STUDENT],
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        untrimmed_run=arguments.untrimmed,
    )
    _, record = edgedistil.evaluate(arguments.trimmed, options)
    results = list(costs(scores_of(record)))
    page = render(results, arguments.seeds)
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "trim_quality", page)
        write_raw(arguments.write, "trim_quality", {"costs": results, "record": record})


def scores_of(record: EvaluationRecord) -> dict[str, dict[str, float]]:
    """Returns task or collection → model → mean over the seeds, or nDCG@10."""
    scores: dict[str, dict[str, float]] = {}
    for summary in record.summaries:
        if summary.artefact == "pytorch":
            scores.setdefault(summary.task, {})[summary.model] = summary.mean
    for row in record.retrieval:
        scores.setdefault(row.collection, {})[row.model] = row.metrics["ndcg@10"]
    return scores


def costs(scores: dict[str, dict[str, float]]) -> Iterator[Cost]:
    """Yields a cost for each task and each model that was scored with and without trimming."""
    for task, by_model in scores.items():
        for model, (other, most) in PAIRS.items():
            if model in by_model and other in by_model:
                yield Cost(task, model, by_model[model], by_model[other], most)


def render(results: Sequence[Cost], seeds: int) -> str:
    """Renders the result page."""
    rows = [
        (
            cost.task,
            cost.model,
            hundredths(cost.trimmed, 1),
            hundredths(cost.untrimmed, 1),
            f"{cost.points:+.2f}",
            f"at most {cost.most}: {'reached' if cost.points <= cost.most else 'missed'}",
        )
        for cost in results
    ]
    columns = ("task", "model", "trimmed", "not trimmed", "points lost", "aim")
    parts = [
        f"# Cost of a trimmed vocabulary, {today()}",
        f"{host_line()} · {version_list(installed_versions())}",
        "Command: `benchmarks/trim_quality.py`. Labelled tasks: mean of "
        f"{seeds} fine-tuning runs; collections: nDCG@10. One distillation of each student.",
        markdown.table(columns, rows),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
