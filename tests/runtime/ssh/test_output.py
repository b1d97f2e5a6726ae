"""Output of a remote command, read in parts of any size."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime.ssh import output
from edgedistil.runtime.ssh.output import MarkedOutput

MARK = "edgedistil-1234"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_comes_before_the_mark_is_dropped(size: int) -> None:
    data = b"Welcome\nedgedistil-12\n\nedgedistil-1234\nresult\nedgedistil-1234 0\n"
    reader = MarkedOutput(MARK, 100, "pi")
    for start in range(0, len(data), size):
        reader.add(data[start : start + size])
    assert reader.content() == b"result\nedgedistil-1234 0\n"


def test_a_login_script_may_print_megabytes() -> None:
    reader = MarkedOutput(MARK, 100, "pi")
    for _ in range(64):
        reader.add(b"x" * 2**16)
    reader.add(b"\nedgedistil-1234\nresult")
    assert reader.content() == b"result"


def test_a_login_script_that_never_stops_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOGIN_OUTPUT_BYTES", 1000)
    reader = MarkedOutput(MARK, 100, "pi")
    reader.add(b"x" * 1000)
    with pytest.raises(TargetError, match="pi printed 1000 bytes before a command started"):
        reader.add(b"x")


def test_a_command_may_not_print_more_than_its_limit() -> None:
    reader = MarkedOutput(MARK, 100, "pi")
    reader.add(b"\nedgedistil-1234\n")
    reader.add(b"x" * 100)
    with pytest.raises(TargetError, match="pi sent more than the expected 100 bytes"):
        reader.add(b"x" * 2**17)


def test_without_a_mark_there_is_no_output() -> None:
    reader = MarkedOutput(MARK, 100, "pi")
    reader.add(b"Permission denied\n")
    assert reader.content() == b""
