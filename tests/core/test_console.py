"""Progress lines, tables and messages."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

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


HOSTILE = "a\x1b[31m\x00b\x07\u202ec\r[red]d[/nope] :fire: \\"


def test_nothing_printed_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say(HOSTILE)
    console.warn(HOSTILE)
    console.result(HOSTILE)
    printed = capsys.readouterr()
    clean = "a?[31m?b??c?[red]d[/nope] :fire: \\\n"
    assert printed.err == f"{clean}warning: {clean}"
    assert printed.out == clean


def test_a_table_shows_any_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(f"t {HOSTILE}", [f"c {HOSTILE}"], [[f"r {HOSTILE}"], ["two\nlines"]])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    clean = "a?[31m?b??c?[red]d[/nope] :fire: \\"
    assert lines == ["", f"t {clean}", f"c {clean}", f"r {clean}", "two lines"]


def test_a_progress_bar_shows_any_label_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, force_terminal=True, width=200))
    with console.progress(HOSTILE, 2, unit="x") as bar:
        bar.note(HOSTILE)
        bar.advance(1)
    printed = capsys.readouterr().err
    assert "[red]d[/nope]" in printed
    assert "\x00" not in printed
    assert "\x1b[31m\x00" not in printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_output_without_the_characters_shows_replacements(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", stream)
    console.say("loss → 2 字")
    console.warn("≥ 3")
    console.table("t", ["a"], [["−1"]])
    printed = stream.buffer.getvalue().decode(encoding)
    assert printed.startswith("loss -> 2 ?\nwarning: >= 3\n")
    assert "-1" in printed


def test_a_command_is_named_as_this_shell_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "edgedistil"
    monkeypatch.setattr("sys.argv", [str(program), "run"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert console.command_line("run", "a b") == f"{program} run 'a b'"
    program.touch(mode=0o700)
    assert console.command_line("run", "a b") == "edgedistil run 'a b'"


def lines_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch, **keywords: bool) -> list[str]:
    """What a bar with a long note leaves on a terminal, without control characters."""
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=width, soft_wrap=True)
    monkeypatch.setattr(console, "err", terminal)
    with console.progress("distilling", 36e6, unit="tokens", **keywords) as bar:
        bar.advance(12e6)
        bar.note("loss 3.474 · soft target 0.123 · MLM 3.474 · cosine 0.112")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()]


def test_a_narrow_terminal_cuts_the_note_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = lines_on_a_terminal(80, monkeypatch)
    assert len(last) <= 80
    assert "12.0M/36.0M tokens" in last and "loss 3.474" in last and last.rstrip().endswith("…")
    *_, last = lines_on_a_terminal(140, monkeypatch)
    assert last.rstrip().endswith("cosine 0.112")


def test_work_without_steps_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_on_a_terminal(80, monkeypatch, has_steps=False) == []
