"""Writes the compact raw record of a run, from which quoted figures can be computed again.

    edgedistil run tiny --run demo
    python benchmarks/raw_record.py runs/demo --name demo

Writes benchmarks/results/NAME-DATE.json: sizes, held-out figures, search quality, the predictions
of every cell, rows of profiles without their samples, and claims. README and docs quote figures of
such files only; tests/test_quotes.py computes every quoted figure from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from page import RESULTS, argument_parser, write_raw

from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.export_records import ExportRecord
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, Record, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.cells import read_cell
from edgedistil.evaluate.retention import (
    Predictions,
    RetentionEstimate,
    estimate_retention,
    seed_scores,
)

# More decimals of a predicted value change no printed figure.
_DECIMALS = 4


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--name", required=True, help="beginning of the file's name")
    arguments = parser.parse_args()
    path = write_raw(RESULTS, arguments.name, compact_run(RunDir(arguments.run)))
    print(path)


def compact_run(run: RunDir) -> dict[str, Any]:
    """Returns what the figures of a run are computed from; stages that have not run are absent."""
    content: dict[str, Any] = {}
    if run.distill.exists():
        record = read_record(run.distill, DistillRecord)
        content["distill"] = _dump(record, without={"files"})
    if run.evaluation.exists():
        content["evaluation"] = _evaluation(run, read_record(run.evaluation, EvaluationRecord))
    exports = [read_record(p, ExportRecord) for p in sorted(run.exports.glob("*/export.*.json"))]
    content["exports"] = [
        {
            "model": export.model,
            "task": export.task,
            "precision": export.precision,
            "bytes": sum(file.bytes for file in export.files),
            "parameters": export.parameters,
        }
        for export in exports
    ]
    profiles = [read_record(path, ProfileRecord) for path in sorted(run.profiles.glob("*.json"))]
    content["profiles"] = [_profile(profile) for profile in profiles]
    return content


def _dump(record: Record, *, without: set[str]) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude=without)


def _evaluation(run: RunDir, record: EvaluationRecord) -> dict[str, Any]:
    """Tasks, and for each task the labels and the predictions of every cell."""
    labels: dict[str, list[float]] = {}
    cells = []
    for cell in record.cells:
        if cell.artefact != "pytorch":
            continue
        file = read_cell(run.cells / cell.task / f"{cell.model}-{cell.seed}.json")
        labels.setdefault(cell.task, _rounded(file.labels))
        cells.append(
            {
                "task": cell.task,
                "model": cell.model,
                "seed": cell.seed,
                "metric": cell.metric,
                "score": file.score,
                "hyper_parameters": cell.hyper_parameters,
                "predictions": _rounded(file.predictions),
                "per_question": _rounded(file.per_question.get(cell.metric, [])),
            }
        )
    return {
        "tasks": [_dump(task, without=set()) for task in record.tasks],
        "retentions": [_dump(retention, without=set()) for retention in record.retentions],
        "labels": labels,
        "cells": cells,
        "retrieval": [_dump(score, without=set()) for score in record.retrieval],
        "provenance": _dump(record.provenance, without=set()),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    # Classes are written as integers.
    return [int(value) if value == int(value) else round(value, _DECIMALS) for value in values]


def _profile(profile: ProfileRecord) -> dict[str, Any]:
    content = _dump(profile, without={"op_times", "layer_times"})
    for row in content["rows"]:
        if isinstance(row["latency"], dict):
            row["latency"].pop("samples_ms", None)
    return content


# --- figures -------------------------------------------------------------------------------------


def retention(raw: Mapping[str, Any], task: str, model: str) -> RetentionEstimate:
    """Computes a retention from the predictions in a raw record, without its baseline.

    Args:
        raw: Content of a raw record.
        task: Name of the task.
        model: Name of the model.
    """
    evaluation = raw["evaluation"]
    (entry,) = (r for r in evaluation["retentions"] if (r["task"], r["model"]) == (task, model))
    reference, other = (
        seed_scores(_predictions(evaluation, task, name)) for name in (entry["reference"], model)
    )
    absent = NotMeasured(not_measured="not computed from a raw record")
    return estimate_retention(reference, other, absent)


def _predictions(evaluation: Mapping[str, Any], task: str, model: str) -> Predictions:
    cells = [c for c in evaluation["cells"] if (c["task"], c["model"]) == (task, model)]
    metric = cells[0]["metric"]
    if cells[0]["per_question"]:
        by_seed = {cell["seed"]: np.array(cell["per_question"]) for cell in cells}
        return Predictions(metric, by_seed[cells[0]["seed"]], by_seed, holds_scores=True)
    by_seed = {cell["seed"]: np.array(cell["predictions"], float) for cell in cells}
    return Predictions(metric, np.array(evaluation["labels"][task], float), by_seed)


if __name__ == "__main__":
    main()
