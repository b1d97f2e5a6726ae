"""Progress lines, tables and messages."""

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


def test_without_a_terminal_a_bar_prints_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress("reading", None, unit="bytes") as bar:
        bar.advance(10)
        assert capsys.readouterr().err == ""
        now += 20
        bar.advance(50_000)
    assert capsys.readouterr().err == "reading: 50.0K bytes, 2500/s\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (3, "3"), (9999, "9999"), (10_000, "10.0K"), (2.5e6, "2.5M"), (3e9, "3.0G")],
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert console._amount(value) == text


def test_columns_of_figures_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(
        "t", ["name", "ms", "note"], [["a", "1.5", "x"], ["b", "–", "y"], ["c", "12", "zz"]]
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["", "t", "name   ms  note", "a     1.5  x", "b       –  y", "c      12  zz"]


def test_brackets_in_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("[bold]text[/]")
    console.warn("[x]")
    console.result("[dim]")
    printed = capsys.readouterr()
    assert printed.err == "[bold]text[/]\nwarning: [x]\n"
    assert printed.out == "[dim]\n"
