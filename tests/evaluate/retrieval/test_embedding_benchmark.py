"""The benchmark of embedding runs on a small collection: its page and its raw record."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.retrieval.beir import read_beir

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def embedding() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import embedding

        yield embedding
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_page_has_every_model_and_the_record_every_query(
    embedding: ModuleType,
    run: RunDir,
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "load_packaged", lambda name: read_beir(collection))
    monkeypatch.setattr(embedding, "packaged_names", lambda: ["birds"])
    monkeypatch.setattr(sys, "argv", ["embedding.py", str(run.path), "--write", str(tmp_path)])
    embedding.main()
    (raw_file,) = tmp_path.glob("embedding-*.json")
    raw = json.loads(raw_file.read_text())
    models = raw["collections"]["birds"]["models"]
    expected = {"teacher", "student", "student in teacher's index", "student-step0", "static"}
    assert set(models) == expected
    values = models["student"][0]["ndcg@10"]
    shown = {row["model"]: row["metrics"]["ndcg@10"] for row in raw["scores"]}
    assert sum(values) / 3 == pytest.approx(shown["student"], abs=1e-5)
    (page_file,) = tmp_path.glob("embedding-*.md")
    page = page_file.read_text()
    assert "| ahead of student-step0 by more than the interval |" in page
    # Untrained models of three queries are not ahead of anything.
    assert "missed" in page

    # The record as another distillation: the same students, so the same means.
    again = tmp_path / "again"
    monkeypatch.setattr(sys, "argv", [*sys.argv[:3], str(again), "--seed-record", str(raw_file)])
    embedding.main()
    (raw_file,) = again.glob("embedding-*.json")
    models = json.loads(raw_file.read_text())["collections"]["birds"]["models"]
    assert models["student"][1] == models["student"][0]
    assert len(models["student-step0"]) == 1
    assert "models of 2 distillations" in next(again.glob("embedding-*.md")).read_text()
