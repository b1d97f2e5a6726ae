"""Compact raw records of runs: what was printed can be computed from them again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgedistil.core.options import EvaluateOptions
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import stage

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def raw_record() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import raw_record

        yield raw_record
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_retention_is_computed_again_from_the_predictions(
    run: RunDir, own_task: Callable[..., Path], raw_record: ModuleType, tmp_path: Path
) -> None:
    options = EvaluateOptions(
        tasks=[str(own_task(epochs=2))], models=["teacher", "student"], seeds=3
    )
    record = stage.evaluate(run, options)
    path = raw_record.write_raw(tmp_path, "small", raw_record.compact_run(run))
    raw = json.loads(path.read_text())
    (printed,) = record.retentions
    again = raw_record.retention(raw, "opinion", "student")
    assert again.retention == printed.retention
    assert again.retention_interval.low == printed.retention_low
    assert again.retention_interval.high == printed.retention_high
    # Changed predictions give another figure: it is not read from the record.
    for cell in raw["evaluation"]["cells"]:
        if cell["model"] == "student":
            cell["predictions"] = [1 - label for label in raw["evaluation"]["labels"]["opinion"]]
    assert raw_record.retention(raw, "opinion", "student").retention == 0
