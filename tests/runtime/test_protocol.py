"""A reply is untrusted input: truncated, huge or invalid ones are rejected with a message."""

from __future__ import annotations

import json

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime import protocol
from edgedistil.runtime.protocol import parse_reply

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
    monkeypatch.setattr(protocol, "MAX_REPLY_BYTES", 10)
    with pytest.raises(TargetError, match="reply of 11 bytes; the limit is 10"):
        parse_reply(b" " * 11, source="pi")
