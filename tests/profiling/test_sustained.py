"""`--sustained`: two windows of a long series, their change, and what the machine reports."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.profiling import sustained
from edgedistil.profiling.sustained import measure_sustained
from edgedistil.profiling.workload import Workload, Workloads
from edgedistil.report.profile_tables import main_tables
from edgedistil.runtime.protocol import Reply
from tests.profiling.conftest import make_artefact, make_record, make_reply, profile_latest

MS = 1_000_000
STUDENT = make_artefact("student")


class Board:
    """A target that answers with a reply: only what is made of it is looked at."""

    name, method, source = "rpi4", "measured", "pi@board"


def times(**changes: Any) -> dict[str, Any]:
    calm = {
        "first_ns": [4 * MS] * 20,
        "last_ns": [5 * MS] * 20,
        "window_seconds": 60,
        "calls": 70_000,
        "wall_ns": 300_000 * MS,
        "cpu_ns": 300_000 * MS,
        "before": {"temperature_c": {"cpu": 41.0}, "throttled_bits": 0},
        "after": {"temperature_c": {"cpu": 82.0}, "throttled_bits": 0, "clock_mhz": [1500]},
    }
    return {**calm, **changes}


def measure(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    reply = make_reply(STUDENT.label, models={STUDENT.label: {"sustained": times(**changes)}})
    jobs: list[Any] = []

    def run_job(_target: Any, _artefacts: Any, job: Any, _workload: Any, **_: Any) -> Reply:
        jobs.append(job)
        return reply

    monkeypatch.setattr(sustained, "run_job", run_job)
    board: Any = Board()
    workload = Workload({}, {16: ["a"], 64: ["b"], 256: ["c"]}, [], "a test")
    workloads = Workloads({STUDENT.tokenizer: workload})
    artefacts = [make_artefact("teacher"), STUDENT]
    (row,) = measure_sustained(board, artefacts, workloads, threads=4, seconds=300)
    assert [case.keys for case in jobs[0].cases] == [["b"]], "closest to 128 tokens"
    assert (jobs[0].threads, jobs[0].sustained_seconds) == (4, 300)
    assert jobs[0].timeout_seconds > 300
    return row


def test_a_device_that_slows_down_shows_both_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure(monkeypatch)
    assert (row.first_p50_ms, row.last_p50_ms) == (4.0, 5.0)
    assert row.change == pytest.approx(0.25)
    assert (row.throttled, row.disturbed) == (None, None), "slowing down is what is measured"
    assert row.conditions["temperature"] == "41 °C → 82 °C"
    record = make_record().model_copy(update={"sustained": [row]})
    (table,) = main_tables(record)
    assert table.title == "host: calls without a pause, first against last 60 s"
    assert table.rows[0][4:8] == ["300", "4.00", "5.00", "+25%"]
    assert table.notes == []


def test_throttling_and_other_work_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure(
        monkeypatch,
        after={"throttled_bits": 0x40000},
        interference={"throttled_periods": 7},
    )
    assert row.throttled.startswith("the machine throttled during the measurement")
    assert row.disturbed == "stopped 7 times by a CPU quota"
    record = make_record().model_copy(update={"sustained": [row]})
    (table,) = main_tables(record)
    assert table.rows[0][5:8] == ["4.00 †", "5.00 †", "+25% †"]
    assert len(table.notes) == 2


def test_a_window_with_few_calls_has_no_median(monkeypatch: pytest.MonkeyPatch) -> None:
    row = measure(monkeypatch, last_ns=[MS] * 4)
    assert isinstance(row.last_p50_ms, NotMeasured) and isinstance(row.change, NotMeasured)


def test_this_host_is_measured_without_a_pause(exported: RunDir) -> None:
    graph = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    _, (record,) = profile_latest(model=graph, lengths=[5], sentence_pairs=3, sustained=2)
    (row,) = record.sustained
    assert row.seconds >= 2 and row.window_s == 1 and row.length == 5
    assert isinstance(row.first_p50_ms, float) and isinstance(row.last_p50_ms, float)
    assert row.change == pytest.approx(row.last_p50_ms / row.first_p50_ms - 1)
    assert row.calls > 10


def test_a_series_of_a_run_is_stored_with_its_record(exported: RunDir) -> None:
    run, (record,) = profile_latest(lengths=[5], sentence_pairs=0, sustained=2)
    assert run is not None
    stored = read_record(run.profile("host", "measured"), ProfileRecord)
    assert stored.sustained == record.sustained
    assert {row.role for row in record.sustained} == {"student"}


@pytest.mark.parametrize("options", [{"device": "rpi4"}, {"device": "rpi4", "emulate": True}])
def test_only_a_device_that_runs_can_be_heated(exported: RunDir, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--sustained has to measure"):
        profile_latest(sustained=5, **options)
