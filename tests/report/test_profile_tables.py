"""Tables of profiles: methods, absent percentiles, emulation and memory limits."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.paper import SPEED_ROW
from edgedistil.core.profile_records import (
    Claim,
    MemoryFit,
    MemoryStats,
    ProfileRecord,
    ProfileRow,
    RuntimeComparison,
)
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.profiling.latency import summarize
from edgedistil.report.profile_tables import (
    claims_table,
    emulation_table,
    latency_table,
    main_tables,
    memory_limit_table,
    profile_table,
    runtimes_table,
)

ABSENT = NotMeasured(not_measured="an emulator's time says nothing about the device's")


def row(**changes: Any) -> ProfileRow:
    standard: dict[str, Any] = {
        "model": "student",
        "role": "student",
        "task": "feature-extraction",
        "precision": "int8",
        "file_bytes": 11,
        "parameters": 13,
        "artefact_sha256": "ab",
        "device": "rpi4",
        "method": "measured",
        "runtime": "onnxruntime 9",
        "threads": 1,
        "batch": 1,
        "length": 17,
        "latency_ms": 19.0,
        "latency": summarize([19_000_000] * 23),
        "load_ms": 29.0,
        "first_call_ms": 31.0,
        "start_to_first_result_ms": 37.0,
        "memory": MemoryStats(
            after_import_bytes=1, after_load_bytes=41 << 20, after_run_bytes=43 << 20, peak_bytes=1
        ),
        "peak_memory_bytes": 47 << 20,
        "valid": True,
        "conditions": {},
    }
    return ProfileRow.model_validate({**standard, **changes})


def record(*rows: ProfileRow, **changes: Any) -> ProfileRecord:
    standard = {"device": "rpi4", "method": rows[0].method if rows else "measured", "claims": []}
    return ProfileRecord.model_validate(
        {**standard, "rows": list(rows), "provenance": provenance(), **changes}
    )


def cells(table: Any, column: str) -> list[str]:
    return [row[list(table.columns).index(column)] for row in table.rows]


def test_every_row_names_its_method() -> None:
    assert cells(latency_table(record(row())), "method") == ["measured"]
    assert cells(profile_table(record(row())), "method") == ["measured"]


def test_a_disturbed_row_has_a_mark_with_its_reason() -> None:
    disturbed = row(threads=2, disturbed="5% stolen by the hypervisor; drift")
    table = latency_table(record(row(), disturbed))
    length = str(disturbed.length)
    assert cells(table, length) == ["19.0", "19.0 †"]
    (note,) = table.notes
    assert note.startswith("† 1 of 2 rows disturbed by other work in two measurements")
    assert note.endswith("2 threads, 17: 5% stolen by the hypervisor; drift")
    assert cells(profile_table(record(disturbed)), "method") == [
        "measured, DISTURBED: 5% stolen by the hypervisor; drift"
    ]
    # The total of a pass is compared with the paper's, so a disturbed one is left out.
    long = disturbed.model_copy(update={"length": "sentence-pairs"})
    assert not any("in the paper" in note for note in latency_table(record(long)).notes)


def test_a_percentile_with_few_calls_is_a_bound_with_its_reason() -> None:
    table = profile_table(record(row(), row(latency=summarize([5_000_000] * 300))))
    assert cells(table, "calls") == ["23", "300"]
    assert cells(table, "p99 ms") == ["≥ 19.0", "5.00"]
    assert table.notes == [
        f"≥: {name} is at least this (95%) in 1 of 2 rows, for example: "
        f"{name} needs {needed} samples, got 23"
        for name, needed in (("p95", 60), ("p99", 300))
    ]


def test_the_longest_pass_of_each_artefact_is_compared_with_the_papers() -> None:
    long = row(length="sentence-pairs", latency=summarize([5_000_000] * 1500))
    short = row(length="sentence-pairs", threads=2, latency=summarize([3_000_000] * 60))
    notes = latency_table(record(row(), long, short)).notes
    assert notes[0] == "student feature-extraction int8, 1 thread: 7.5 s for 1,500 sentence pairs"
    assert notes[1:] == [f"in the paper: {SPEED_ROW}"]
    assert latency_table(record(row())).notes == []
    other = long.model_copy(update={"task": "text-classification"})
    assert len(latency_table(record(long, other)).notes) == 3, "each task has its own pass"


def test_emulation_shows_kernels_and_memory_and_no_latency() -> None:
    conditions = {
        "parity": "passed under these kernels: 39 sequences, largest error 0.15",
        "int8 kernels": "signed widening multiplies (smlal, smull)",
    }
    fields = ("latency_ms", "latency", "load_ms", "first_call_ms", "start_to_first_result_ms")
    emulated = row(method="emulated", conditions=conditions, **dict.fromkeys(fields, ABSENT))
    died = row(method="emulated", valid=False, invalid_reason="it died of SIGILL", memory=ABSENT)
    (table,) = main_tables(record(emulated, died))
    assert table == emulation_table(record(emulated, died))
    assert cells(table, "method") == ["emulated", "emulated"]
    assert cells(table, "starts") == ["starts", "NO: it died of SIGILL"]
    assert cells(table, "parity")[0] == "passed"
    assert cells(table, "int8 kernels")[0] == "signed widening multiplies (smlal, smull)"
    assert (cells(table, "loaded"), cells(table, "after a run")) == (["41", "–"], ["43", "–"])
    assert "milliseconds" not in table.title and not {"load", "first call"} & set(table.columns)


@pytest.mark.parametrize("fits", [True, False])
def test_a_memory_limit_is_shown_with_its_outcome(fits: bool) -> None:
    killed = "the kernel killed it (out of memory) in the phase 'load'"
    fit = MemoryFit(
        model="student",
        role="student",
        task="fill-mask",
        precision="fp32",
        artefact_sha256="ab",
        device="host",
        method="measured",
        limit_bytes=53 << 20,
        enforced_by="cgroup v2",
        threads=1,
        length=59,
        fits=fits,
        peak_memory_bytes=51 << 20 if fits else NotMeasured(not_measured=killed),
        ended=None if fits else killed,
    )
    limited = record(fits=[fit])
    assert main_tables(limited) == [memory_limit_table(limited)], "no empty table of latencies"
    assert cells(memory_limit_table(limited), "outcome") == [
        "fits" if fits else f"does not fit: {killed}"
    ]
    assert cells(memory_limit_table(limited), "peak MiB") == ["51" if fits else "–"]
    assert cells(memory_limit_table(limited), "enforced by") == ["cgroup v2"]


def test_an_invalid_row_shows_its_reason_instead_of_a_figure() -> None:
    invalid = record(row(valid=False, invalid_reason="throttled"))
    assert cells(latency_table(invalid), "17") == ["invalid"]
    assert cells(profile_table(invalid), "method") == ["measured, INVALID: throttled"]


def test_one_row_per_artefact_and_thread_count_with_a_column_per_length() -> None:
    table = latency_table(record(row(), row(length=128, latency_ms=151.0), row(threads=4)))
    assert table.columns[4:6] == ["17", "128"]
    assert cells(table, "threads") == ["1", "4"]
    assert cells(table, "128") == ["151", "–"]


def test_claims_have_their_interval_and_the_papers_figure() -> None:
    speed = Claim(
        claim="speed",
        verdict="holds",
        sentence="twice as fast",
        method="measured",
        device="rpi4",
        conditions="1 thread",
        figure="speed ratio",
        value=1.96,
        low=1.91,
        high=2.02,
        threshold=1.6,
        paper=SPEED_ROW,
    )
    other = speed.model_copy(update={"value": ABSENT, "paper": "not in the paper"})
    table = claims_table([speed, other, speed])
    assert cells(table, "figure") == ["1.96 (1.91–2.02)", "–", "1.96 (1.91–2.02)"]
    assert table.notes == [f"in the paper: {SPEED_ROW}"]


# --- other runtimes ------------------------------------------------------------------------------


def comparison(**changes: Any) -> RuntimeComparison:
    standard: dict[str, Any] = {
        "model": "student",
        "role": "student",
        "task": "feature-extraction",
        "precision": "int8",
        "artefact_sha256": "ab",
        "device": "openvino",
        "form": "OpenVINO NNCF",
        "runtimes": "OpenVINO 7, onnxruntime 9",
        "against": "int8",
        "threads": 1,
        "length": 17,
        "ratio": 1.25,
        "low": 1.2,
        "high": 1.3,
    }
    return RuntimeComparison.model_validate({**standard, **changes})


def test_forms_of_one_artefact_have_rows_of_their_own() -> None:
    rows = [row(form=form) for form in (None, "OpenVINO", "OpenVINO NNCF")]
    precisions = [cells[1] for cells in latency_table(record(*rows)).rows]
    assert precisions == ["int8", "int8, OpenVINO", "int8, OpenVINO NNCF"]
    assert [cells[1] for cells in profile_table(record(*rows)).rows] == precisions


def test_a_runtime_is_compared_at_every_length() -> None:
    reason = NotMeasured(not_measured="9 of 9 processes were disturbed")
    undecided = {"length": 19, "ratio": reason, "low": reason, "high": reason}
    entries = [comparison(), comparison(**undecided), comparison(threads=2)]
    table = runtimes_table(record(device="openvino", runtimes=entries))
    assert table.columns == ["artefact in another runtime", "against our", "threads", "17", "19"]
    name = "student feature-extraction int8, OpenVINO NNCF"
    assert table.rows == [
        [name, "int8", "1", "1.25 (1.20–1.30)", "–"],
        [name, "int8", "2", "1.25 (1.20–1.30)", "–"],
    ]
    assert table.notes == [
        "above 1, ours is faster; OpenVINO 7, onnxruntime 9; models that took turns, 95% intervals",
        "–: not decided: 9 of 9 processes were disturbed",
    ]
