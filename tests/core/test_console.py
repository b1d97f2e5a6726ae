from __future__ import annotations

import pytest

from edgedistil.core import console


def test_the_rate_of_a_resumed_bar_counts_what_this_process_did(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress("distilling", 100, unit="steps", start=50) as bar:
        bar.note("loss 2.5")
        now += 20
        bar.advance(10)
    assert capsys.readouterr().err == "distilling: 60 of 100 steps, 0.5/s, 1:20 left · loss 2.5\n"
