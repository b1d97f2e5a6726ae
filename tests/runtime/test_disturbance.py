"""Each sign of other work, on both sides of its bound."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistil.runtime.disturbance import (
    TimedSeries,
    case_disturbances,
    drift,
    load_disturbances,
    series_disturbances,
    turns_disturbances,
)
from edgedistil.runtime.protocol import AlternationResult, CaseTimes, Interference, Reply

MS = 1_000_000


def reasons(**changes: Any) -> list[str]:
    """Signs in 100 calls of 1 ms each, undisturbed apart from the changes."""
    calm: dict[str, Any] = {
        "wall_ns": 100 * MS,
        "cpu_ns": 100 * MS,
        "calls": 100,
        "threads": 1,
        "samples_ns": [MS] * 100,
    }
    facts = {name: changes.pop(name) for name in list(changes) if name not in calm}
    return series_disturbances(
        TimedSeries(**{**calm, **changes}, interference=Interference(**facts))
    )


def test_a_calm_series_has_no_sign() -> None:
    assert reasons() == []
    zero = dict.fromkeys(Interference.model_fields, 0)
    assert reasons(**zero) == [], "and so where every count is reported"


@pytest.mark.parametrize(
    ("calm", "disturbed", "reason"),
    [
        ({"cpu_ns": 92 * MS}, {"cpu_ns": 90 * MS}, "1.11 times its processor time"),
        (
            {"involuntary_switches": 20},
            {"involuntary_switches": 21},
            "0.2 involuntary context switches a call",
        ),
        ({"stolen_ns": MS}, {"stolen_ns": 2 * MS}, "2% stolen by the hypervisor"),
        ({"throttled_periods": 0}, {"throttled_periods": 3}, "stopped 3 times by a CPU quota"),
        (
            {"samples_ns": [MS] * 80 + [15 * MS // 10] * 20},
            {"samples_ns": ([MS] * 4 + [16 * MS // 10]) * 20},
            "p90 is 1.6 times the fastest call",
        ),
    ],
)
def test_signs_of_one_thread(calm: dict[str, Any], disturbed: dict[str, Any], reason: str) -> None:
    if "samples_ns" not in calm:
        assert reasons(**calm) == []
    assert reasons(**disturbed) == [reason]


def test_p90_of_calm_calls_is_near_the_fastest() -> None:
    assert reasons(samples_ns=([MS] * 4 + [14 * MS // 10]) * 20) == []


def test_waiting_threads_count_where_processor_time_says_nothing() -> None:
    # Two threads with half of the processor time: one of them waits for the other one.
    assert reasons(threads=2, cpu_ns=90 * MS) == []
    assert reasons(threads=2, waiting_ns=10 * MS) == []
    assert reasons(threads=2, waiting_ns=11 * MS) == ["threads waited 11% of the time for a core"]


def test_long_calls_are_interrupted_now_and_then() -> None:
    # Ten calls of a second: three switches a call are what timers cost.
    calls = {"wall_ns": 10_000 * MS, "cpu_ns": 10_000 * MS, "calls": 10, "samples_ns": []}
    assert reasons(**calls, involuntary_switches=100) == []
    assert reasons(**calls, involuntary_switches=101) == [
        "10.1 involuntary context switches a call"
    ]


@pytest.mark.parametrize(("last", "word"), [(116, "slower"), (84, "faster")])
def test_drift_counts_in_both_directions(last: int, word: str) -> None:
    samples = [MS] * 10 + [last * MS // 100] * 5
    assert drift(samples) == pytest.approx(last / 100 - 1)
    assert reasons(samples_ns=samples) == [f"calls became 16% {word} during the series"]
    calm = [MS] * 10 + [int(MS * (1 + (last / 100 - 1) * 0.9))] * 5
    assert reasons(samples_ns=calm) == []
    assert drift([1.0] * 14) is None


# --- complete cases ------------------------------------------------------------------------------


def make_reply(other_load: float | None = None) -> Reply:
    return Reply.model_validate(
        {
            "format": 1,
            "ok": True,
            "phase": "done",
            "runner_sha256": "ab",
            "identity": {"cores": 2},
            "other_load": other_load,
        }
    )


@pytest.mark.parametrize(
    ("load", "cores", "threads", "is_disturbed"),
    [
        (0.2, 2, 2, False),
        (0.3, 2, 2, True),
        (1.2, 2, 1, False),
        (1.3, 2, 1, True),
        (5.0, 64, 4, False),
        (0.2, 1, 4, False),  # more threads than cores
        (None, 2, 2, False),
        (9.0, None, 2, False),
    ],
)
def test_the_load_before_has_to_leave_cores_for_the_threads(
    load: float | None, cores: int | None, threads: int, is_disturbed: bool
) -> None:
    assert bool(load_disturbances(load, cores=cores, threads=threads)) == is_disturbed


def make_case(samples_ns: list[int]) -> CaseTimes:
    total = sum(samples_ns)
    return CaseTimes.model_validate(
        {
            "samples_ns": samples_ns,
            "wall_ns": total,
            "cpu_ns": total,
            "faults": {"minor": 0, "major": 0},
            "truncated": False,
        }
    )


def test_a_pass_over_texts_of_all_lengths_is_not_judged_by_its_spread() -> None:
    mixed = make_case([MS, 5 * MS] * 50)
    reply = make_reply()
    assert case_disturbances(mixed, reply, threads=1, one_length=False) == []
    assert case_disturbances(mixed, reply, threads=1, one_length=True) != []


def test_the_drift_of_a_pass_needs_many_calls() -> None:
    slowing = [[MS] * count + [2 * MS] * count for count in (300, 450)]
    judged = [
        case_disturbances(make_case(samples), make_reply(), threads=1, one_length=False)
        for samples in slowing
    ]
    assert judged == [[], ["calls became 100% slower during the series"]]


def test_turns_are_judged_over_all_their_calls() -> None:
    turns = {
        "name": "speed",
        "first": "a",
        "second": "b",
        "blocks": [{"first_ns": [MS] * 5, "second_ns": [MS] * 5}] * 4,
        "wall_ns": 40 * MS,
        "cpu_ns": 40 * MS,
    }
    calm = AlternationResult.model_validate({**turns, "interference": {"involuntary_switches": 8}})
    hit = AlternationResult.model_validate({**turns, "interference": {"involuntary_switches": 9}})
    assert turns_disturbances(calm, make_reply(), threads=1) == []
    assert turns_disturbances(hit, make_reply(), threads=1) == [
        "0.2 involuntary context switches a call"
    ]
    assert turns_disturbances(calm, make_reply(9.0), threads=1) == [
        "other load before: 9.0 tasks on 2 cores"
    ]
