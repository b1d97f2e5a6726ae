"""A reply is input: half of one, a huge one, NaN, or another program's output is refused with a sentence."""

from __future__ import annotations

import json

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime import protocol as messages
from edgedistil.runtime.protocol import Failure, Reply, parse_reply
from edgedistil.runtime.target import raise_failure

GOOD = {"format": 1, "ok": True, "phase": "done", "runner_sha256": "ab", "newer_field": 1}


def test_a_reply_of_a_newer_runner_is_read() -> None:
    assert parse_reply(json.dumps(GOOD).encode(), source="pi").phase == "done"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "sent no readable reply"),
        (b'{"format": 1, "ok"', "sent no readable reply"),
        (b"bash: python3: command not found", "begins with 'bash: python3: command not found'"),
        (b"\xff\xfe", "sent no readable reply"),
        (b'{"import_ns": NaN}', "NaN is no figure"),
        (b'{"import_ns": -Infinity}', "-Infinity is no figure"),
        (b"[" * 100_000, "sent no readable reply"),
        (b"[]", "sent a reply that is none"),
        (json.dumps({**GOOD, "format": 2}).encode(), "none: format"),
        (json.dumps({**GOOD, "import_ns": -5}).encode(), "none: import_ns"),
        (
            json.dumps({**GOOD, "models": {"m": {"load_ns": "soon"}}}).encode(),
            "none: models.m.load_ns",
        ),
    ],
)
def test_what_is_no_reply_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(TargetError) as error:
        parse_reply(data, source="pi@board")
    assert told in str(error.value) and "pi@board" in str(error.value)
    assert error.value.exit_code == 4


def test_a_huge_reply_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_REPLY_BYTES", 10)
    with pytest.raises(TargetError, match="reply of 11 bytes; at most 10"):
        parse_reply(b" " * 11, source="pi")


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            Failure(kind="signal", phase="import", message="died of SIGILL", signal="SIGILL"),
            "install another version",
        ),
        (
            Failure(kind="signal", phase="load x", message="died of SIGKILL", signal="SIGKILL"),
            "ran out of memory",
        ),
        (Failure(kind="memory", phase="load x", message="bad_alloc"), "ran out of memory"),
        (Failure(kind="timeout", phase="steady", message="still at work"), "fewer lengths"),
        (
            Failure(kind="exit", phase="import", message="status 1", details="a\nNo module"),
            "(No module)",
        ),
    ],
)
def test_every_failure_has_its_own_message(failure: Failure, told: str) -> None:
    reply = Reply(format=1, ok=False, error=failure, phase=failure.phase, runner_sha256="ab")
    with pytest.raises(TargetError) as error:
        raise_failure(reply, source="pi")
    assert told in str(error.value) and f"'{failure.phase}'" in str(error.value)


def test_an_ok_reply_passes() -> None:
    raise_failure(parse_reply(json.dumps(GOOD).encode(), source="pi"), source="pi")
