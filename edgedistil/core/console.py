"""Terminal output: progress and messages on stderr, results on stdout.

Stages take no console object; they call these functions. Where stderr is not a terminal, a progress
bar prints a line from time to time instead.

Names, titles and records may hold anything: whatever is printed has no markup, no character that
controls a terminal, and none that the output's encoding lacks.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from edgedistil.core.echo import UNENCODABLE, bounded, one_line, printable

# A file or a pipe has no width, and rich would then fold tables at 80 columns.
_PLAIN_WIDTH = 140
# Often enough to show that a command is working, rare enough for the log of a long run.
_PLAIN_INTERVAL_S = 15.0
# Start of a cell that is a figure, such as "−0.5" or "≥ 3".
_FIGURE = re.compile(r"[-+−±<>≥≤~]?\s*\d")
# Cells without a figure, which do not decide a column's alignment.
_EMPTY_CELLS = {"", "–"}


def _plain_width() -> int | None:
    # A closed descriptor (`>&-`) makes stdout None.
    if sys.stdout is not None and sys.stdout.isatty():
        return None
    return _PLAIN_WIDTH


out = Console(highlight=False, soft_wrap=True, width=_plain_width())
err = Console(stderr=True, highlight=False, soft_wrap=True)

# --- messages ------------------------------------------------------------------------------------


def command_line(*arguments: str) -> str:
    """Returns one of our commands as a shell takes it, here and now.

    A program that is not on the search path, as in an environment that is not activated, is named
    as it was for this process.
    """
    program = "edgedistil"
    started_as = sys.argv[0]
    if Path(started_as).name == program and shutil.which(program) is None:
        program = started_as
    return shlex.join([program, *arguments])


def say(message: str) -> None:
    """Prints one line about the present step on stderr."""
    err.print(_text(err, printable(message)))


def warn(message: str) -> None:
    """Prints a warning on stderr."""
    err.print(Text.assemble(("warning: ", "yellow"), _text(err, bounded(message))))


def result(message: str) -> None:
    """Prints one line of result on stdout."""
    out.print(_text(out, printable(message)))


# Characters of a name that a column is kept wide enough for.
_LONGEST_NAME = 40


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table on stdout; columns of figures are right-aligned, except the first."""
    rich_table = Table(
        title=_cell(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] not in _EMPTY_CELLS]
        are_figures = bool(cells) and all(_FIGURE.match(cell) for cell in cells)
        justify: JustifyMethod = "right" if are_figures and index > 0 else "left"
        # Names are not divided inside a word, as long as the word is not half a line.
        words = [word for row in rows for word in row[0].split()] if index == 0 else []
        longest = max(map(len, words), default=0)
        least = longest if longest <= _LONGEST_NAME else None
        rich_table.add_column(_cell(column), justify=justify, overflow="fold", min_width=least)
    for row in rows:
        rich_table.add_row(*(_cell(cell) for cell in row))
    out.print()
    out.print(rich_table)


def _cell(text: str) -> Text:
    """Text of a table: on one line, so that it cannot imitate a row."""
    return _text(out, one_line(text))


def _text(console: Console, text: str) -> Text:
    """Text without markup or emoji codes, in characters that the console's output can encode."""
    encoding = console.encoding
    return Text(text.encode(encoding, UNENCODABLE).decode(encoding))


# --- progress ------------------------------------------------------------------------------------


class Bar:
    """A running progress bar."""

    def __init__(
        self, progress: Progress | None, task: int, label: str, total: float | None, unit: str
    ) -> None:
        self._progress, self._task = progress, task
        self._label, self._total, self._unit = label, total, unit
        # `_before` is the amount of an earlier process, which does not count in the rate.
        self._done, self._before, self._note = 0.0, 0.0, ""
        self._started = self._printed = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """Adds to the amount that is done."""
        self._done += amount
        if self._progress is not None:
            self._progress.advance(self._task, amount)  # type: ignore[arg-type]
        elif time.monotonic() - self._printed >= _PLAIN_INTERVAL_S:
            self._print_line()

    def note(self, text: str) -> None:
        """Sets the text after the bar, such as the present loss."""
        self._note = text
        if self._progress is not None:
            self._progress.update(self._task, note=one_line(text))  # type: ignore[arg-type]

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        rate = (self._done - self._before) / max(self._printed - self._started, 1e-9)
        line = f"{self._label}: {_amount(self._done)}"
        if self._total:
            line += f" of {_amount(self._total)}"
        line += f" {self._unit}, {_amount(rate)}/s"
        if self._total and rate > 0:
            line += f", {_clock((self._total - self._done) / rate)} left"
        if self._note:
            line += f" · {self._note}"
        say(line)


@contextmanager
def progress(
    label: str, total: float | None, *, unit: str = "", start: float = 0, has_steps: bool = True
) -> Iterator[Bar]:
    """Shows a progress bar, for anything that takes over two seconds.

    Args:
        label: The activity.
        total: Amount at the end, in `unit`; None if it is not known.
        unit: tokens, steps, bytes, ...
        start: Amount already done by an earlier process.
        has_steps: False if all is done at once: a terminal then shows no bar.
    """
    if not err.is_terminal or not has_steps:
        bar = Bar(None, 0, label, total, unit)
        bar._done = bar._before = start
        yield bar
        return
    with Progress(
        # The default spinner is made of characters that only UTF has.
        SpinnerColumn("dots" if err.encoding.startswith("utf") else "line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        _AmountColumn(unit),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        _NoteColumn(),
        console=err,
        transient=False,
    ) as display:
        task = display.add_task(one_line(label), total=total, completed=int(start), note="")
        yield Bar(display, task, label, total, unit)


class _AmountColumn(ProgressColumn):
    """Column of a progress bar: `3.2M/8.0M tokens 51.0K/s`."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self._unit = unit

    def render(self, task: Task) -> Text:
        text = _amount(task.completed)
        if task.total:
            text += f"/{_amount(task.total)}"
        text += f" {self._unit}"
        if task.speed:
            text += f" {_amount(task.speed)}/s"
        return Text(text)


class _NoteColumn(ProgressColumn):
    """Column of the note, which is cut where the line has no room for it."""

    def render(self, task: Task) -> Text:
        # The column may shrink, the text has one line.
        return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


def _amount(value: float) -> str:
    """Formats an amount in a width that hardly changes while it grows: `9999`, `10.0K`."""
    if value >= 1e9:
        return f"{value / 1e9:.1f}G"
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.1f}K"
    if value >= 10 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}"


def _clock(seconds: float) -> str:
    """Formats a time as `1:20` or `2:03:04`."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"
