"""Messages of failed jobs."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime.protocol import Failure, Reply
from edgedistil.runtime.target import raise_failure


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            Failure(kind="signal", phase="import", message="was killed", signal="SIGILL"),
            "install another version",
        ),
        (
            Failure(kind="signal", phase="load x", message="was killed", signal="SIGKILL"),
            "ran out of memory",
        ),
        (Failure(kind="memory", phase="load x", message="bad_alloc"), "ran out of memory"),
        (Failure(kind="timeout", phase="steady", message="did not finish"), "fewer lengths"),
        (
            Failure(kind="exit", phase="import", message="status 1", details="a\nNo module"),
            "(No module)",
        ),
    ],
)
def test_every_failure_has_its_own_message(failure: Failure, message: str) -> None:
    reply = Reply(format=1, ok=False, error=failure, phase=failure.phase, runner_sha256="ab")
    with pytest.raises(TargetError) as error:
        raise_failure(reply, source="pi")
    assert message in str(error.value) and f"during '{failure.phase}'" in str(error.value)


def test_a_failure_without_a_reason_names_the_phase() -> None:
    reply = Reply(format=1, ok=False, phase="load x", runner_sha256="ab")
    with pytest.raises(TargetError, match="pi failed during 'load x' and did not report a reason"):
        raise_failure(reply, source="pi")


def test_an_ok_reply_passes() -> None:
    raise_failure(Reply(format=1, ok=True, phase="done", runner_sha256="ab"), source="pi")
