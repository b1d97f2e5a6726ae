"""Signals are deferred once."""

from __future__ import annotations

import os
import signal

import pytest

from edgedistil.distill.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_recorded_and_the_second_interrupts(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert (
        f"{signal.Signals(number).name}: saving a checkpoint; "
        "press Ctrl-C again to stop without saving"
    ) in capsys.readouterr().err
