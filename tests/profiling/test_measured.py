"""A profile of this host, next to a busy process too, and how much time a measurement gets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistil.core.errors import ClaimError
from edgedistil.core.format import DISTURBED
from edgedistil.core.profile_records import LatencyStats, MemoryStats, ProfileRecord, ProfileRow
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.measured import DEFAULT_BUDGET, MeasurementBudget, measure
from edgedistil.profiling.requirements import read_requirements, require_claims
from edgedistil.profiling.workload import build_workloads
from edgedistil.report.profile_tables import latency_table, profile_table
from edgedistil.runtime.local import LocalTarget
from tests.fixtures.exported_run import SENTENCES
from tests.profiling.conftest import letter_tokenizer, profile_latest


def test_this_host_is_measured(exported: RunDir) -> None:
    run, (record,) = profile_latest()
    assert run is not None and run.name == "small"
    assert read_record(run.profile("host", "measured"), ProfileRecord) == record
    assert {(row.device, row.method, row.length) for row in record.rows} == {
        ("host", "measured", length) for length in (5, 17, "sentence-pairs")
    }
    assert len(record.rows) == 4 * 3
    for row in record.rows:
        assert isinstance(row.latency, LatencyStats) and row.latency.calls >= 15 and row.valid
        assert row.latency_ms == row.latency.p50_ms
        assert isinstance(row.memory, MemoryStats) and row.peak_memory_bytes
        assert {"kernels", "governor", "energy", "cores"} <= row.conditions.keys()
        assert isinstance(row.first_call_ms, float) == (row.length == 5)

    claims = {claim.claim: claim for claim in record.claims}
    assert set(claims) == {"speed", "deploy", "int8-pays", "size"}
    assert claims["size"].value == pytest.approx(
        1 - record.rows[-1].parameters / record.rows[0].parameters
    )
    speed = claims["speed"]
    assert "30 sentence pairs, batch 1" in speed.conditions
    # Other work on this machine may leave the claim without a figure, and then without a verdict.
    if isinstance(speed.value, NotMeasured):
        assert speed.verdict == "inconclusive" and "disturbed" in speed.sentence
    else:
        assert isinstance(speed.low, float) and isinstance(speed.high, float)
        assert speed.low <= speed.value <= speed.high
        assert "geometric mean of 8 processes" in speed.conditions

    label = "teacher-feature-extraction.fp32"
    assert sum(time.share for time in record.op_times[label]) == pytest.approx(1)
    assert [time.name for time in record.layer_times[label]] == [
        "embeddings",
        *(f"layer {i}" for i in range(4)),
    ]


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keeps every core busy with another process, which ends with the block."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def test_a_busy_machine_leaves_no_verdict(exported: RunDir) -> None:
    with busy_machine():
        run, (record,) = profile_latest(lengths=[5], sentence_pairs=6)
    disturbed = [row for row in record.rows if row.disturbed]
    assert disturbed, "every core has another process"
    assert all("first measurement" in row.conditions for row in disturbed), "measured once more"
    # What is marked decides nothing, whether it keeps a bound or breaks it.
    for row in disturbed:
        alone = record.model_copy(
            update={"rows": [row.model_copy(update={"role": "student"})], "claims": []}
        )
        for bound in ("p50_ms<=0.001", "p50_ms<=1000000", "p90_ms<=1000000"):
            with pytest.raises(ClaimError, match="is inconclusive"):
                require_claims([alone], read_requirements([bound]))
    for claim in record.claims:
        if claim.claim != "size":
            assert claim.verdict == "inconclusive"
            assert isinstance(claim.value, NotMeasured)
            assert claim.disturbed is not None
            assert "undisturbed ones are needed" in claim.disturbed
    with pytest.raises(ClaimError, match=r"speedup>=0\.01 is inconclusive"):
        require_claims([record], read_requirements(["speedup>=0.01"]))

    # The mark and its reasons are in the record's file and in both tables.
    assert run is not None
    stored = read_record(run.profile("host", "measured"), ProfileRecord)
    assert [row.disturbed for row in stored.rows] == [row.disturbed for row in record.rows]
    table = latency_table(record)
    assert sum(DISTURBED in cell for cells in table.rows for cell in cells) == len(disturbed)
    assert any(str(disturbed[0].disturbed) in note for note in table.notes)
    reasons = [cells[2] for cells in profile_table(record).rows]
    assert ["DISTURBED: " in cell for cell in reasons] == [not row.usable for row in record.rows]


def test_models_take_turns_on_the_same_texts_in_their_own_tokens(
    exported: RunDir, tmp_path: Path
) -> None:
    artefacts = [a for a in run_artefacts(exported) if a.precision == "fp32"]
    letters = letter_tokenizer(artefacts[0].tokenizer, tmp_path)
    mixed = [replace(a, tokenizer=letters) if a.role == "student" else a for a in artefacts]
    workloads = build_workloads(
        [a.tokenizer for a in mixed],
        SENTENCES,
        source="a test",
        lengths=[5],
        pairs=4,
        claim_pairs=4,
    )
    budget = MeasurementBudget(min_seconds=0.01, steady_seconds=0.01, energy_seconds=0.01)
    record = measure(LocalTarget(), mixed, workloads, threads=[1], budget=budget)
    tokens = {row.role: row.tokens_per_pair for row in record.rows if row.length != 5}
    assert tokens == {a.role: workloads.of(a).tokens_per_pair for a in mixed}
    assert tokens["student"] > 1.5 * tokens["teacher"]
    speed = next(claim for claim in record.claims if claim.claim == "speed")
    described = f"({tokens['teacher']:.1f} and {tokens['student']:.1f} tokens a pair"
    assert described in speed.conditions
    notes = latency_table(record).notes
    assert any(f"{tokens['student']:.1f} for student" in note for note in notes)


def test_two_threads_are_compared_with_one_measured_before(exported: RunDir) -> None:
    _, (record,) = profile_latest(
        model=exported.export("student", "feature-extraction") / "onnx" / "model.onnx",
        threads=[2, 1],
        lengths=[5],
        sentence_pairs=3,
    )
    assert [row.threads for row in record.rows] == [1, 1, 2, 2]
    one, _, two, _ = record.rows
    assert "energy" in two.conditions and "energy" not in one.conditions, "the first that was asked"
    if one.usable and _p50(two) > 1.1 * _p50(one):
        assert "with 2 threads as with one" in str(two.disturbed)


def _p50(row: ProfileRow) -> float:
    assert isinstance(row.latency_ms, float)
    return row.latency_ms


def test_cases_share_the_time_that_one_model_has_for_itself() -> None:
    assert DEFAULT_BUDGET.share_seconds(1) == DEFAULT_BUDGET.max_share_seconds
    assert 60 * DEFAULT_BUDGET.share_seconds(60) == pytest.approx(DEFAULT_BUDGET.steady_seconds)
    assert DEFAULT_BUDGET.desired_calls >= 300, "p99 needs as many"
    assert DEFAULT_BUDGET.min_calls >= 15, "drift needs as many"
    assert DEFAULT_BUDGET.processes >= 8
