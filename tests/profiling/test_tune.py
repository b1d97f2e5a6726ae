"""`--tune` writes session.json in the format that `export` writes, with measured reasons."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgedistil.core.records import ExportRecord, ProfileRecord, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.session import SessionAdvice, read_session_file, write_session_file
from edgedistil.export.session_advice import advise_session
from edgedistil.profiling import tune
from tests.profiling.conftest import profile_latest


@pytest.fixture(autouse=True)
def few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short comparisons; session.json of a single file goes to the working directory."""
    monkeypatch.setattr(tune, "_BLOCKS", 5)
    monkeypatch.chdir(tmp_path)


def tune_file(run: RunDir, file: str) -> tuple[dict[str, SessionAdvice], ProfileRecord]:
    """Tunes one file of the student's export."""
    model = run.export("student", "feature-extraction") / "onnx" / file
    options = {"model": model, "threads": [2], "lengths": [5], "sentence_pairs": 6}
    _, (record,) = profile_latest(tune=True, **options)
    return read_session_file(Path("session.json")), record


def test_tuning_writes_a_session_with_its_reasons(exported: RunDir) -> None:
    advice, record = tune_file(exported, "model.onnx")
    assert list(advice) == ["model-other.fp32"]
    entry = advice["model-other.fp32"]
    assert (entry.precision, entry.target_device) == ("fp32", "host")
    assert entry.session.threads in (1, 2)
    assert not entry.session.exact_int8
    assert {"arena off", "pre-packing off", "graph level basic", "2 threads"} <= set(entry.reasons)
    assert "times as fast as one thread" in entry.reasons["2 threads"]
    assert "exact int8 sums" not in entry.reasons
    note = record.notes[-1]
    assert note.startswith("session options: session.json: model-other.fp32: ")
    assert entry.session.describe() in note


@pytest.mark.skipif(platform.machine() != "x86_64", reason="exact_int8 is about x86-64")
def test_exact_int8_sums_are_set_for_integers_on_x86(exported: RunDir) -> None:
    advice, _ = tune_file(exported, "model_int8.onnx")
    entry = advice["model_int8-other.int8"]
    assert entry.session.exact_int8
    assert "times as fast as the defaults" in entry.reasons["exact int8 sums"]


def test_tune_and_export_write_the_same_format(exported: RunDir, tmp_path: Path) -> None:
    tuned, _ = tune_file(exported, "model_int8.onnx")
    export = exported.export("student", "feature-extraction")
    record = read_record(export / "export.int8.json", ExportRecord)
    write_session_file(tmp_path / "exported.json", {"onnx/model_int8.onnx": advise_session(record)})
    advised = read_session_file(tmp_path / "exported.json")
    assert list(advised) == ["onnx/model_int8.onnx"]
    for entry in (*tuned.values(), *advised.values()):
        assert isinstance(entry, SessionAdvice)
        assert entry.session.to_onnxruntime().inter_op_num_threads == 1
