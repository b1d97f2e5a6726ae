"""Rows from replies: what a method reports, when a row is invalid, sums of operator times."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.core.profile_records import LatencyStats, MemoryStats
from edgedistil.core.records import NotMeasured
from edgedistil.profiling.latency import summarize
from edgedistil.profiling.rows import (
    EMULATED_LATENCY,
    NOT_REPORTED,
    describe_conditions,
    invalid_reason,
    op_times,
    rows_from_reply,
)
from edgedistil.runtime.machine_facts import Condition
from edgedistil.runtime.protocol import NodeTime
from tests.profiling.conftest import make_artefact, make_reply

STUDENT = make_artefact("student")
STEADY = summarize([2_000_000] * 20)


def make_case(samples_ns: list[int]) -> dict[str, Any]:
    return {
        "samples_ns": samples_ns,
        "wall_ns": 7,
        "cpu_ns": 6_000_000,
        "faults": {"minor": 3, "major": 2},
        "truncated": True,
    }


def make_model(**changes: Any) -> dict[str, Any]:
    model = {
        "memory": {"import": 5, "load": 11, "first_call": 13, "anonymous": 8, "file": 3, "pss": 10}
        | {"peak_before_pass": 14, "peak": 17},
        "load_ns": 5_000_000,
        "first_call_ns": 7_000_000,
        "start_to_first_result_ns": 11_000_000,
        "cases": {"13": make_case([2_000_000] * 10), "sentence-pairs": make_case([3_000_000] * 5)},
    }
    return {STUDENT.label: {**model, **changes}}


def test_a_measured_reply_becomes_a_row_per_case() -> None:
    reply = make_reply(
        STUDENT.label,
        models=make_model(),
        identity={"onnxruntime": "1.32.0", "cores": 2, "cores_allowed": 1, "cpu_quota": 1.5},
        pinned_cores=[1],
        other_load=0.1,
    )
    at_13, pairs = rows_from_reply(
        STUDENT, reply, device="rpi4", method="measured", threads=2, conditions={"kernels": "NEON"}
    )
    assert (at_13.length, pairs.length) == (13, "sentence-pairs")
    assert (at_13.device, at_13.threads, at_13.runtime) == ("rpi4", 2, "onnxruntime 1.32.0")
    assert (at_13.latency_ms, at_13.load_ms, pairs.latency_ms) == (2.0, 5.0, 3.0)
    assert isinstance(at_13.latency, LatencyStats) and at_13.latency.calls == 10
    assert at_13.latency.window_s == pytest.approx(0.02)
    assert at_13.conditions["cores"] == "1 of 2, pinned to 1: the fastest ones, quota of 1.5"
    assert at_13.conditions["other tasks before"] == "0.10"
    assert at_13.conditions["spinning"].startswith("on")
    assert at_13.disturbed is None
    assert isinstance(at_13.memory, MemoryStats)
    assert at_13.memory.after_run_bytes == 13, "the first call's where there was no steady call"
    assert (at_13.peak_memory_bytes, pairs.peak_memory_bytes) == (14, 17), "a pass comes last"
    parts = (at_13.memory.anonymous_bytes, at_13.memory.file_bytes, at_13.memory.pss_bytes)
    assert parts == (8, 3, 10)
    assert at_13.conditions["kernels"] == "NEON"
    assert at_13.conditions["governor"] == NOT_REPORTED
    assert at_13.conditions["cpu time a call"] == "0.600 ms"
    assert at_13.conditions["page faults"] == "3 minor, 2 major in 10 calls"
    assert at_13.conditions["ended early"].startswith("after 10 calls")


def test_only_the_first_case_has_a_first_call() -> None:
    reply = make_reply(STUDENT.label, models=make_model())
    first, second = rows_from_reply(STUDENT, reply, device="host", method="measured", threads=1)
    assert (first.first_call_ms, first.start_to_first_result_ms) == (7.0, 11.0)
    for absent in (second.first_call_ms, second.start_to_first_result_ms):
        assert absent == NotMeasured(not_measured="the process's first call was at 13 tokens")


def test_an_emulated_row_has_memory_and_no_times() -> None:
    reply = make_reply(STUDENT.label, models=make_model())
    row, _ = rows_from_reply(STUDENT, reply, device="rpi4", method="emulated", threads=1)
    times = (row.latency_ms, row.latency, row.load_ms, row.first_call_ms)
    assert all(time == EMULATED_LATENCY for time in times)
    assert row.valid and row.peak_memory_bytes == 14
    assert "cpu time a call" not in row.conditions


@pytest.mark.parametrize(
    ("energy", "text"),
    [
        (
            {"counter": "RAPL", "joules": 0.5, "calls": 10},
            "50.00 mJ a call (RAPL, complete machine",
        ),
        ({"absent": "no counter"}, "not measured: no counter"),
        ({}, "not measured: no reading"),
    ],
)
def test_energy_is_described_per_call(energy: dict[str, Any], text: str) -> None:
    reply = make_reply(STUDENT.label, models=make_model(energy=energy))
    row, _ = rows_from_reply(STUDENT, reply, device="host", method="measured", threads=1)
    assert row.conditions["energy"].startswith(text)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"throttled_bits": 0x50005}, "the machine is throttling (get_throttled 0x50005)"),
        ({"throttled_bits": 0x4}, {"throttled_bits": 0}, "the machine is throttling"),
        ({"throttled_bits": 0}, {"throttled_bits": 0x40000}, "the machine throttled during"),
        ({"throttled_bits": 0x40000}, {"throttled_bits": 0x40000}, None),  # it throttled earlier
        ({"throttled_bits": 0x10000}, {"throttled_bits": 0x50000}, "the machine throttled during"),
        ({}, {"throttled_bits": 0x50000}, None),  # unknown before
        ({"throttle_count": 3}, {"throttle_count": 5}, "the processor throttled 2 times"),
        ({"throttle_count": 3}, {"throttle_count": 3}, None),
        ({}, {}, None),
    ],
)
def test_a_throttled_row_is_invalid(
    before: dict[str, Any], after: dict[str, Any], reason: str | None
) -> None:
    reply = make_reply(STUDENT.label, before=before, after=after)
    invalid = invalid_reason(reply, STEADY)
    assert invalid is None if reason is None else str(invalid).startswith(reason)


def test_an_earlier_throttling_is_a_condition() -> None:
    both = Condition(throttled_bits=0x50000)
    assert describe_conditions(both, both)["throttled"].startswith("0x50000; it throttled before")


def test_a_row_without_samples_is_invalid() -> None:
    assert invalid_reason(make_reply(STUDENT.label), summarize([])) == "no call was timed"


def test_conditions_are_described_as_reported() -> None:
    before = Condition(governor="ondemand", temperature_c={"cpu": 41.2, "gpu": 40}, load_1min=0.5)
    after = Condition(clock_mhz=[600, 1800], temperature_c={"cpu": 55.7}, throttled_bits=0)
    assert describe_conditions(before, after) == {
        "governor": "ondemand",
        "clock": "600 to 1800 MHz",
        "temperature": "41 °C → 56 °C",
        "load before": "0.50",
        "throttled": "0x0",
    }
    unknown = describe_conditions(Condition(), None)
    assert unknown == dict.fromkeys(("governor", "clock", "temperature"), NOT_REPORTED)


def test_operator_times_are_summed_longest_first() -> None:
    nodes = [
        NodeTime(node="a", op="Add", calls=5, total_us=1000),
        NodeTime(node="b", op="MatMul", calls=5, total_us=7000),
        NodeTime(node="c", op="Add", calls=5, total_us=2000),
    ]
    matmul, add = op_times(nodes)
    assert (matmul.name, matmul.calls, matmul.total_ms, matmul.share) == ("MatMul", 5, 7.0, 0.7)
    assert (add.name, add.calls, add.total_ms, add.share) == ("Add", 10, 3.0, 0.3)
