"""README's table of results: every figure follows from the raw records."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgedistil.core.evaluation_records import RetrievalScore
from edgedistil.core.rundir import RunDir
from tests.report.conftest import full_run as full_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in ("page", "raw_record"):
        sys.modules.pop(name, None)


@pytest.fixture
def readme_results() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "readme_results", ROOT / "scripts/readme_results.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(full_run: RunDir, scripts: None, tmp_path: Path, monkeypatch: Any) -> dict[str, Any]:
    """Raw record of a run, without predictions: its cells are made up, too."""
    import raw_record

    monkeypatch.setattr(raw_record, "_evaluation", evaluation_without_cells)
    path = raw_record.write_raw(tmp_path, "demo", raw_record.compact_run(full_run))
    record: dict[str, Any] = json.loads(path.read_text())
    record["measured"] = {"machine": "Test CPU", "cores": 2, "date": "2026-12-01"}
    return record


def evaluation_without_cells(_run: RunDir, record: Any) -> dict[str, Any]:
    scores = {"teacher": [0.80, 0.82], "student": [0.78, 0.79]}
    cells = [
        {"task": "sentiment", "model": model, "metric": "accuracy", "score": score}
        for model, of_seeds in scores.items()
        for score in of_seeds
    ]
    content: dict[str, Any] = record.model_dump(mode="json", include={"retentions", "tasks"})
    return {**content, "cells": cells, "provenance": record.provenance.model_dump(mode="json")}


def turns(student_ms: float = 14.5) -> tuple[str, dict[str, Any]]:
    """Eight processes of two blocks, in which the teacher's calls take 29 ms."""
    ratio = {"first_ns": [29_000_000] * 3, "second_ns": [round(student_ms * 1e6)] * 3}
    pair = {"first": "teacher", "second": "student", "processes": [[ratio] * 2] * 8}
    settings = {"length": 128, "threads": 1, "processes": 8, "calls_per_block": 3}
    return "latency.json", {"settings": settings, "pairs": {"speed encoders": pair}}


def test_the_table_has_the_reports_verdicts_and_the_records_figures(
    readme_results: ModuleType, demo: dict[str, Any]
) -> None:
    table = readme_results.results_table(("demo.json", demo), turns())
    assert table.startswith("`edgedistil run tiny` on Test CPU, 2 cores, 2026-12-01 ([record](")
    assert "| 40% smaller | does not hold | 24.2% fewer encoder parameters |" in table
    assert "| 60% faster on host | holds | 1.96x (1.91–2.02) |" in table
    assert "| 97% as good | holds | 98.8% (97.5%–100.2%) of the accuracy of teacher |" in table
    assert "| parameters of the encoder | 22.6M | 17.1M | 17.1M |" in table
    assert "| p50 at 128 tokens, one thread | 29.0 ms | 14.5 ms | – |" in table
    scores = "81.0 (2 seeds: 80.0–82.0) | 78.5 (2 seeds: 78.0–79.0) | –"
    assert f"| sentiment, accuracy × 100 | {scores} |" in table
    assert "| teacher, student | 29.0 ms | 14.5 ms | 2.00 (2.00–2.00) |" in table


def test_another_record_gives_another_table(
    readme_results: ModuleType, demo: dict[str, Any]
) -> None:
    demo["distill"]["student"]["encoder_parameters"] = 10_000_000
    table = readme_results.results_table(("demo.json", demo), turns(student_ms=10.0))
    # 10.00M of 22.57M.
    assert "| 40% smaller | holds | 55.7% fewer encoder parameters |" in table
    assert "| 29.0 ms | 10.0 ms | – |" in table and "| 2.90 (2.90–2.90) |" in table


def test_search_is_shown_with_the_layers_before_distillation(
    readme_results: ModuleType, demo: dict[str, Any]
) -> None:
    def score(model: str, value: float) -> dict[str, Any]:
        share = value / 0.71
        return RetrievalScore(
            collection="manual",
            origin="",
            queries=9,
            documents=9,
            model=model,
            metrics={"ndcg@10": value},
            low=value - 0.02,
            high=value + 0.02,
            reference="teacher",
            retention=share,
            retention_low=share,
            retention_high=share,
            interval="95%",
        ).model_dump(mode="json")

    def heldout(model: str, step: int, value: float) -> dict[str, Any]:
        figures = {"rank_correlation": value, "top10_overlap": 0.5, "cosine": 0.9}
        other = {"asymmetric_top10_overlap": 0.6, "texts": 9}
        return {"model": model, "step": step, **figures, **other}

    figures = {"teacher": 0.71, "student": 0.68, "student-step0": 0.52, "static": 0.61}
    demo["evaluation"]["retrieval"] = [score(*pair) for pair in figures.items()]
    trace = (("teacher", 0, 1.0), ("student", 0, 0.493), ("student", 50, 0.871))
    demo["distill"]["heldout"] = [heldout(*entry) for entry in trace]
    table = readme_results.results_table(("demo.json", demo), None)
    scores = "71.0 (69.0–73.0) | 68.0 (66.0–70.0) | –"
    assert f"| search in `manual`, nDCG@10 × 100 | {scores} |" in table
    assert "| &emsp;the same layers, not distilled | – | 52.0 (50.0–54.0) | – |" in table
    assert "word vectors alone, weighted mean | 61.0 (59.0–63.0) | – | – |" in table
    assert "| similarities of held-out texts, rank correlation | 1.000 | 0.871 | – |" in table
    assert "| &emsp;the same layers, not distilled | – | 0.493 | – |" in table


def test_too_few_processes_give_no_ratio(readme_results: ModuleType, demo: dict[str, Any]) -> None:
    name, raw = turns()
    raw["pairs"]["speed encoders"]["processes"] = raw["pairs"]["speed encoders"]["processes"][:7]
    table = readme_results.results_table(("demo.json", demo), (name, raw))
    assert "| too few undisturbed processes |" in table


def test_without_a_record_there_is_no_table(readme_results: ModuleType) -> None:
    assert readme_results.results_table(None, turns()) == ""
