"""`--tune` writes session.json in the format that `export` writes, with measured reasons."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgedistil.core.export_records import ExportRecord
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.session import (
    SessionAdvice,
    SessionOptions,
    read_session_file,
    write_session_file,
)
from edgedistil.export.session_advice import advise_session
from edgedistil.profiling import tune
from edgedistil.profiling.latency import Ratio
from edgedistil.runtime.protocol import JobModel
from tests.profiling.conftest import profile_latest


@pytest.fixture(autouse=True)
def few_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short comparisons; session.json of a single file goes to the working directory."""
    monkeypatch.setattr(tune, "PROCESSES", 2)
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
    assert is_judged(entry.reasons["2 threads"], "one thread")
    assert "exact int8 sums" not in entry.reasons
    note = record.notes[-1]
    assert note.startswith("session options: session.json: model-other.fp32: ")
    assert entry.session.describe() in note


def is_judged(reason: str, baseline: str) -> bool:
    """Whether a reason has a ratio, or says that other work on this machine left none."""
    return (
        f"times as fast as {baseline} (" in reason or "not decided, the machine was dist" in reason
    )


# --- decisions -----------------------------------------------------------------------------------

UNDECIDED = NotMeasured(not_measured="7 of 7 processes")


def ratio(value: float, low: float) -> Ratio:
    return Ratio(value, low, value + (value - low), processes=6)


class Measurements:
    """Takes the place of a comparison, at the seam to the processes: ratios by variant."""

    def __init__(self, ratios: Mapping[str, Ratio | NotMeasured]) -> None:
        self.ratios = ratios

    def model(self, session: SessionOptions) -> JobModel:
        return JobModel(file="m", session=session)

    def run(
        self, variants: Mapping[str, JobModel], *, threads: int
    ) -> dict[str, Ratio | NotMeasured]:
        return {name: self.ratios.get(name, ratio(1.0, 0.9)) for name in variants}


@pytest.mark.parametrize(
    ("two", "four", "threads"),
    [
        (ratio(1.7, 1.6), ratio(2.1, 1.9), 4),
        (ratio(1.7, 1.6), ratio(1.8, 0.9), 2),  # four may be slower
        (ratio(1.7, 1.6), UNDECIDED, 2),
        (UNDECIDED, UNDECIDED, 1),
    ],
)
def test_threads_are_only_more_where_they_are_faster_for_certain(
    two: Ratio | NotMeasured, four: Ratio | NotMeasured, threads: int
) -> None:
    comparison: Any = Measurements({"2 threads": two, "4 threads": four})
    best, reasons = tune.best_threads(comparison, 4)
    assert best == threads
    assert {"2 threads", "4 threads"} <= set(reasons)


def test_disturbed_processes_leave_the_defaults() -> None:
    names = ["arena off", "spinning off", "pre-packing off"]
    names += [f"graph level {level}" for level in ("extended", "basic", "disabled")]
    undecided: Any = Measurements(dict.fromkeys(names, UNDECIDED))
    session, reasons = tune._best_options(undecided, 2, exact_int8=False)
    assert session == SessionOptions(threads=2)
    assert reasons["arena off"] == "not decided, the machine was disturbed: 7 of 7 processes"
    # The same options that are faster for certain are taken.
    faster: Any = Measurements(dict.fromkeys(names, ratio(1.2, 1.1)))
    session, _ = tune._best_options(faster, 2, exact_int8=False)
    assert session == SessionOptions(
        threads=2, arena=False, spinning=False, prepacking=False, graph_level="extended"
    )


def test_a_small_loss_is_worth_the_memory_of_the_arena() -> None:
    for low, arena in ((0.985, False), (0.97, True)):
        comparison: Any = Measurements({"arena off": ratio(1.0, low)})
        session, _ = tune._best_options(comparison, 1, exact_int8=False)
        assert session.arena == arena


def test_a_decision_needs_six_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert tune.PROCESSES >= 6


def test_tune_and_export_write_the_same_format(exported: RunDir, tmp_path: Path) -> None:
    tuned, _ = tune_file(exported, "model_int8.onnx")
    entry = tuned["model_int8-other.int8"]
    # Without VNNI the outputs are wrong otherwise, whatever it costs.
    if platform.machine() == "x86_64":
        assert entry.session.exact_int8
        assert is_judged(entry.reasons["exact int8 sums"], "the defaults")
    # Only a decision changes an option from its default.
    if all("not decided" in reason for reason in entry.reasons.values()):
        assert entry.session == SessionOptions(threads=1, exact_int8=entry.session.exact_int8)
    export = exported.export("student", "feature-extraction")
    record = read_record(export / "export.int8.json", ExportRecord)
    write_session_file(tmp_path / "exported.json", {"onnx/model_int8.onnx": advise_session(record)})
    advised = read_session_file(tmp_path / "exported.json")
    assert list(advised) == ["onnx/model_int8.onnx"]
    for entry in (*tuned.values(), *advised.values()):
        assert isinstance(entry, SessionAdvice)
        assert entry.session.to_onnxruntime().inter_op_num_threads == 1
