"""A profile of this host, and how much time a measurement gets."""

from __future__ import annotations

import pytest

from edgedistil.core.records import LatencyStats, MemoryStats, ProfileRecord, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.measured import DEFAULT_BUDGET
from tests.profiling.conftest import profile_latest


def test_this_host_is_measured(exported: RunDir) -> None:
    run, (record,) = profile_latest()
    assert run is not None and run.name == "small"
    assert read_record(run.profile("host", "measured"), ProfileRecord) == record
    assert {(row.device, row.method, row.length) for row in record.rows} == {
        ("host", "measured", length) for length in (5, 17, "sentence-pairs")
    }
    assert len(record.rows) == 4 * 3
    for row in record.rows:
        assert isinstance(row.latency, LatencyStats) and row.latency.calls >= 20 and row.valid
        assert row.latency_ms == row.latency.p50_ms
        assert isinstance(row.memory, MemoryStats) and row.peak_memory_bytes
        assert {"kernels", "governor", "energy"} <= row.conditions.keys()
        assert isinstance(row.first_call_ms, float) == (row.length == 5)

    claims = {claim.claim: claim for claim in record.claims}
    assert set(claims) == {"speed", "deploy", "int8-pays", "size"}
    assert claims["size"].value == pytest.approx(
        1 - record.rows[-1].parameters / record.rows[0].parameters
    )
    speed = claims["speed"]
    assert isinstance(speed.value, float)
    assert isinstance(speed.low, float) and isinstance(speed.high, float)
    assert speed.low <= speed.value <= speed.high
    assert "30 sentence pairs, batch 1; median of" in speed.conditions
    assert "alternating blocks in 3 processes" in speed.conditions

    label = "teacher-feature-extraction.fp32"
    assert sum(time.share for time in record.op_times[label]) == pytest.approx(1)
    assert [time.name for time in record.layer_times[label]] == [
        "embeddings",
        *(f"layer {i}" for i in range(4)),
    ]


def test_cases_share_the_time_that_one_model_has_for_itself() -> None:
    assert DEFAULT_BUDGET.share_seconds(1) == DEFAULT_BUDGET.max_share_seconds
    assert 60 * DEFAULT_BUDGET.share_seconds(60) == pytest.approx(DEFAULT_BUDGET.steady_seconds)
    assert DEFAULT_BUDGET.desired_calls >= 100, "p99 needs as many"
