"""Search quality of an embedding run: teacher, student, baselines, artefacts, and both indexes.

    edgedistil distill recipes/embedding.toml --run small
    edgedistil export --run small --quantize int8
    python benchmarks/embedding.py runs/small --precision int8 --write benchmarks/results

Every packaged collection is searched by the teacher, the student, the student before distillation
(layers cut), the static floor (the teacher's word vectors, weighted mean), and each artefact; the
student and its artefacts also search in the teacher's vectors. `--seed-run` adds runs of other
seeds, and `--seed-record` the raw record of one, which the intervals then include. About five
minutes for each model on two cores.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from page import argument_parser, host_line, today, version_list, write_page, write_raw

from edgedistil.core import markdown
from edgedistil.core.evaluation_records import RetrievalDifference, RetrievalScore
from edgedistil.core.format import hundredths, percent, with_interval
from edgedistil.core.records import installed_versions
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import ENCODER_TASK
from edgedistil.evaluate.retrieval.embedders import (
    Embedder,
    artefact_embedder,
    static_embedder,
    torch_embedder,
)
from edgedistil.evaluate.retrieval.packaged import load_packaged, packaged_names
from edgedistil.evaluate.retrieval.ranking import MAIN_METRIC, METRICS, RetrievalScores
from edgedistil.evaluate.retrieval.searches import (
    STATIC,
    STUDENT,
    UNDISTILLED,
    Rankings,
    Searcher,
    Searches,
    compare,
    rank_all,
)
from edgedistil.report.embedding_tables import difference_table, retrieval_table
from edgedistil.report.table import TableData

TEACHER = "teacher"
IN_INDEX = f"{STUDENT} in {TEACHER}'s index"
# Aims of the three-layer student: shares of the teacher's nDCG@10, and points of nDCG@10.
AIM_ON_TWO = 0.97
AIM_ON_THIRD = 0.94
AIM_IN_INDEX = 0.98
AIM_INT8_POINTS = 0.3
ON_TWO = 2


@dataclass(frozen=True)
class Aim:
    """One aim with its figures by collection."""

    text: str
    figures: tuple[str, ...]
    is_reached: bool


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path, help="run directory with a student and exports")
    parser.add_argument("--precision", action="append", default=[], help="artefact to search with")
    parser.add_argument("--seed-run", action="append", default=[], type=Path, metavar="RUN")
    parser.add_argument("--seed-record", action="append", default=[], type=Path, metavar="JSON")
    parser.add_argument("--collection", action="append", choices=packaged_names())
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    results = dict(measure(arguments))
    page = render(results, RunDir(arguments.run).name)
    print(page)
    if arguments.write is not None:
        write_page(arguments.write, "embedding", page)
        write_raw(arguments.write, "embedding", raw_content(results))


# --- measuring -----------------------------------------------------------------------------------


def measure(arguments: Namespace) -> Iterator[tuple[str, Searches]]:
    """Yields each collection's name and its results."""
    run = RunDir(arguments.run)
    students = [run, *(RunDir(path) for path in arguments.seed_run)]
    searchers = [
        Searcher([torch_embedder(TEACHER, run.teacher)]),
        Searcher([torch_embedder(STUDENT, folder.student) for folder in students], in_index=True),
        Searcher([torch_embedder(UNDISTILLED, run.student_step0)]),
    ]
    exports = [folder.export(STUDENT, ENCODER_TASK) for folder in students]
    searchers += [
        Searcher(
            [artefact_embedder(STUDENT, export, precision) for export in exports], in_index=True
        )
        for precision in arguments.precision
    ]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.seed_record]
    for name in arguments.collection or packaged_names():
        collection = load_packaged(name)
        floor: Embedder = static_embedder(run.teacher, list(collection.documents.values()))
        rankings = rank_all(collection, [*searchers, Searcher([floor])])
        for record in records:
            add_recorded(rankings, record["collections"][name])
        yield name, compare(collection, rankings)


def add_recorded(rankings: Rankings, recorded: dict[str, Any]) -> None:
    """Adds the student and its artefacts of another distillation.

    Args:
        rankings: Of the same collection; they get one distillation more.
        recorded: A collection's part of a raw record of this script.
    """
    for model, by_seed in rankings.by_model.items():
        if not model.startswith(STUDENT) or model == UNDISTILLED:
            continue
        queries = by_seed[0].queries
        if tuple(recorded["queries"]) != queries:
            raise SystemExit(f"the record of {model} has other queries; expected the same ones")
        by_seed += [
            RetrievalScores(queries, {name: np.array(values) for name, values in metrics.items()})
            for metrics in recorded["models"][model]
        ]


def raw_content(results: dict[str, Searches]) -> dict[str, object]:
    """Every metric of every query, from which all figures of the page follow."""
    collections = {}
    for name, searches in results.items():
        models = {}
        for model, by_seed in searches.rankings.items():
            models[model] = [
                {metric: ranking.by_metric[metric].round(6).tolist() for metric in METRICS}
                for ranking in by_seed
            ]
        queries = next(iter(searches.rankings.values()))[0].queries
        collections[name] = {"queries": list(queries), "models": models}
    scores = [score for searches in results.values() for score in searches.scores]
    differences = [row for searches in results.values() for row in searches.differences]
    return {"collections": collections, "scores": scores, "differences": differences}


# --- page ----------------------------------------------------------------------------------------


def render(results: dict[str, Searches], run_name: str) -> str:
    """Renders the result page."""
    scores = [score for searches in results.values() for score in searches.scores]
    differences = [row for searches in results.values() for row in searches.differences]
    aims = list(judge(scores, differences))
    rows = [(aim.text, *aim.figures, "reached" if aim.is_reached else "missed") for aim in aims]
    parts = [
        f"# Search quality of an embedding run, {today()}",
        f"{host_line()} · {version_list(installed_versions())}",
        f"Run `{run_name}`. Command: `benchmarks/embedding.py`. One row of the raw record is one"
        " query.",
        "## Aims",
        markdown.table(("aim", *results, "result"), rows),
        *table_lines(retrieval_table(scores)),
        *table_lines(difference_table(differences)),
    ]
    return "\n\n".join(parts) + "\n"


def table_lines(table: TableData) -> Iterator[str]:
    """Yields heading, table and notes."""
    yield f"## {table.title}"
    yield markdown.table(table.columns, table.rows)
    yield "\n".join(f"- {note}" for note in table.notes)


def judge(
    scores: Sequence[RetrievalScore], differences: Sequence[RetrievalDifference]
) -> Iterator[Aim]:
    """Yields the aims that the results have figures for.

    The figure decides, as the aims are stated; its interval is shown.
    """
    shares = [score.retention for score in scores if score.model == STUDENT]
    if shares:
        reached = sum(share >= AIM_ON_TWO for share in shares) >= min(ON_TWO, len(shares))
        yield Aim(
            f"student at least {AIM_ON_TWO:.0%} of the teacher's {MAIN_METRIC} on two collections,"
            f" {AIM_ON_THIRD:.0%} on the third",
            _shares(scores, STUDENT),
            reached and all(share >= AIM_ON_THIRD for share in shares),
        )
    for other in (UNDISTILLED, STATIC):
        rows = [row for row in differences if (row.model, row.other) == (STUDENT, other)]
        yield Aim(
            f"ahead of {other} by more than the interval",
            tuple(_points(row) for row in rows),
            all(row.low > 0 for row in rows),
        )
    in_index = [score.retention for score in scores if score.model == IN_INDEX]
    yield Aim(
        f"queries of the student in the teacher's index: at least {AIM_IN_INDEX:.0%}",
        _shares(scores, IN_INDEX),
        bool(in_index) and all(share >= AIM_IN_INDEX for share in in_index),
    )
    artefacts = [f"{STUDENT} int8"]
    rows = [row for row in differences if row.model in artefacts and row.other == STUDENT]
    if rows:
        yield Aim(
            f"int8 loses at most {AIM_INT8_POINTS} points",
            tuple(_points(row) for row in rows),
            all(100 * row.difference >= -AIM_INT8_POINTS for row in rows),
        )


def _shares(scores: Sequence[RetrievalScore], model: str) -> tuple[str, ...]:
    return tuple(
        with_interval(score.retention, score.retention_low, score.retention_high, percent)
        for score in scores
        if score.model == model
    )


def _points(row: RetrievalDifference) -> str:
    return with_interval(row.difference, row.low, row.high, hundredths)


if __name__ == "__main__":
    main()
