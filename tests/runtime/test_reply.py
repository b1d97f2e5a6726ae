"""A reply is untrusted input: corrupt, huge or false ones are rejected with a message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime import reply as module
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel
from edgedistil.runtime.reply import check_reply, parse_identity, parse_reply

GOOD = {"format": 1, "ok": True, "phase": "done", "runner_sha256": "ab", "newer_field": 1}


def test_a_reply_of_a_newer_runner_is_read() -> None:
    assert parse_reply(json.dumps(GOOD).encode(), source="pi").phase == "done"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "sent an unreadable reply"),
        (b'{"format": 1, "ok"', "sent an unreadable reply"),
        (b"bash: python3: command not found", "begins with 'bash: python3: command not found'"),
        (b"\xff\xfe", "sent an unreadable reply"),
        (b'{"import_ns": NaN}', "NaN is not a number"),
        (b'{"import_ns": -Infinity}', "-Infinity is not a number"),
        (b"[" * 100_000, "sent an unreadable reply"),
        (b"[]", "sent an invalid reply"),
        (json.dumps({**GOOD, "format": 2}).encode(), "invalid reply: format"),
        (json.dumps({**GOOD, "import_ns": -5}).encode(), "invalid reply: import_ns"),
        (
            json.dumps({**GOOD, "models": {"m": {"load_ns": "soon"}}}).encode(),
            "invalid reply: models.m.load_ns",
        ),
    ],
)
def test_an_invalid_reply_is_rejected(data: bytes, message: str) -> None:
    with pytest.raises(TargetError) as error:
        parse_reply(data, source="pi@board")
    assert message in str(error.value) and "pi@board" in str(error.value)
    assert error.value.exit_code == 4


def test_a_huge_reply_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 10)
    with pytest.raises(TargetError, match="reply of 11 bytes; the limit is 10"):
        parse_reply(b" " * 11, source="pi")


def test_texts_of_another_machine_cannot_affect_a_terminal() -> None:
    data = {
        **GOOD,
        "phase": "load\x1b[2J",
        "before": {"governor": "\x1b]0;x\x07", "temperature_c": {"\x9b": 7.0}},
        "identity": {"flags": ["\u202e"], "caches": []},
    }
    reply = parse_reply(json.dumps(data).encode(), source="pi", clean=True)
    assert reply.phase == "load?[2J"
    assert (reply.before.governor, reply.before.temperature_c) == ("?]0;x?", {"?": 7.0})
    assert reply.identity.flags == ["?"]


# --- figures that cannot be true -----------------------------------------------------------------

LABEL = "student-fill-mask.int8"
JOB = Job(
    models={LABEL: JobModel(file="m/graph.onnx")},
    cases=[Case(name="16", keys=["a"]), Case(name="32", keys=["b"])],
)
CASE = {
    "samples_ns": [5, 7],
    "wall_ns": 13,
    "cpu_ns": 11,
    "faults": {"minor": 0, "major": 0},
    "truncated": False,
}
MODEL = {"load_ns": 17, "first_call_ns": 19, "cases": {"16": CASE, "32": CASE}}
HONEST = {**GOOD, "models": {LABEL: MODEL}}


def check(data: dict[str, Any], job: Job = JOB) -> None:
    reply = parse_reply(json.dumps(data).encode(), source="pi@board")
    check_reply(reply, job, source="pi@board", elapsed_s=30)


def with_model(**changes: Any) -> dict[str, Any]:
    return {**HONEST, "models": {LABEL: {**MODEL, **changes}}}


def with_case(**changes: Any) -> dict[str, Any]:
    return with_model(cases={"16": {**CASE, **changes}, "32": CASE})


def test_the_reply_to_a_job_passes() -> None:
    check(HONEST)
    failure = {"kind": "exit", "phase": "import", "message": "status 1"}
    check({**GOOD, "ok": False, "error": failure})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD, f"it says nothing about '{LABEL}'"),
        ({**HONEST, "models": {"other": MODEL}}, "it is about 'other', which the job did not"),
        ({**HONEST, "models": {LABEL: MODEL, "other": MODEL}}, "it is about 'other'"),
        (with_model(cases={"16": CASE}), "has 1 of 2 cases"),
        (with_model(cases={"16": CASE, "32": CASE, "x": CASE}), "has the case 'x'"),
        (with_model(cases={}), "has 0 of 2 cases"),
        (with_model(load_ns=0), "load_ns: Input should be greater than 0"),
        (with_model(load_ns=10**30), "load_ns: Input should be less than or equal to"),
        (with_case(samples_ns=[]), "case '16' of '.*' has no calls"),
        (with_case(samples_ns=[0, 0]), "samples_ns.0: Input should be greater than 0"),
        (with_case(samples_ns=[10**30]), "samples_ns.0: Input should be less than or equal to"),
        (with_case(samples_ns=[5, 700]), "took 13 ns, and its calls 705 ns"),
        (with_case(samples_ns=[10**12], wall_ns=10**12), "its calls take 1000 s, and it was sent"),
        (with_model(memory={"peak": 0}), "memory.peak: Input should be greater than 0"),
        (with_model(memory={"load": -1}), "memory.load: Input should be greater than or equal"),
        (with_model(memory={"load": 2**60}), "memory.load: Input should be less than or equal"),
        (with_model(energy={"joules": 1e300}), "energy.joules: Input should be less than"),
        ({**HONEST, "phase": "x" * 5000}, "phase: String should have at most 1000 characters"),
        ({**HONEST, "identity": {"cores": 0}}, "identity.cores: Input should be greater than 0"),
        (
            {**HONEST, "error": {"kind": "exit", "phase": "p", "message": "gone"}},
            "it reports success, and a failure: gone",
        ),
    ],
)
def test_a_reply_that_cannot_be_true_is_rejected(data: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=f"pi@board sent an invalid reply: .*{message}") as error:
        check(data)
    assert error.value.exit_code == 4


def test_alternating_models_are_those_of_the_job() -> None:
    models = {"a": JobModel(file="a"), "b": JobModel(file="b")}
    turns = Alternation(name="speed", first="a", second="b", keys=["k"])
    job = JOB.model_copy(update={"models": models, "phases": [], "alternate": [turns]})
    blocks = [{"first_ns": [5], "second_ns": [7]}]
    results = {name: {"load_ns": 5, "first_call_ns": 7} for name in models}
    honest = {"name": "speed", "first": "a", "second": "b", "blocks": blocks}
    honest.update(wall_ns=12, cpu_ns=3)
    reply = {**GOOD, "models": results, "alternation": [honest]}
    check(reply, job)
    with pytest.raises(TargetError, match="it has no blocks of 'speed'"):
        check({**reply, "alternation": []}, job)
    with pytest.raises(TargetError, match="'speed' is about other models"):
        check({**reply, "alternation": [{**honest, "second": "a"}]}, job)
    with pytest.raises(TargetError, match="'speed' took 11 ns, and its calls 12 ns"):
        check({**reply, "alternation": [{**honest, "wall_ns": 11}]}, job)
    with pytest.raises(TargetError, match=r"alternation\.0\.blocks: List should have at least 1"):
        check({**reply, "alternation": [{**honest, "blocks": []}]}, job)


def test_an_identity_has_bounds_too() -> None:
    assert parse_identity({"cores": 4, "libc": "glibc 2.31"}, source="pi").cores == 4
    for facts in ({"cores": 10**9}, {"memory_bytes": -1}, {"board": "x" * 2000}, []):
        with pytest.raises(TargetError, match="pi returned an invalid identity record: "):
            parse_identity(facts, source="pi")
