"""What a person sees while a command works: progress with rate and time left on stderr, results on stdout.

Stages take no console; they call these functions. Without a terminal the bars become a line now and then.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH = 140  # a file or a pipe has no width: do not fold tables at 80
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_PLAIN_EVERY_S = 15.0
_FIGURE = re.compile(r"[-+−±<>≥≤~]?\s*\d")


def say(message: str) -> None:
    """One line on stderr: what is being done, on what."""
    err.print(escape(message))


def warn(message: str) -> None:
    err.print(f"[yellow]warning:[/] {escape(message)}")


class Bar:
    """A running progress bar. `advance` moves it; `note` shows a few words (losses, say) beside it."""

    def __init__(
        self, progress: Progress | None, task: int, label: str, total: float | None, unit: str
    ) -> None:
        self._progress, self._task = progress, task
        self._label, self._total, self._unit = label, total, unit
        self._done, self._before, self._note = 0.0, 0.0, ""
        self._started = self._told = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        if self._progress is not None:
            self._progress.advance(self._task, amount)  # type: ignore[arg-type]
        elif time.monotonic() - self._told >= _PLAIN_EVERY_S:
            self._tell()

    def note(self, text: str) -> None:
        self._note = text
        if self._progress is not None:
            self._progress.update(self._task, note=text)  # type: ignore[arg-type]

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = (self._done - self._before) / max(self._told - self._started, 1e-9)
        of, left = "", ""
        if self._total:
            of = f" of {_amount(self._total)}"
            left = f", {_span((self._total - self._done) / rate)} left" if rate > 0 else ""
        note = f" · {self._note}" if self._note else ""
        err.print(
            escape(
                f"{self._label}: {_amount(self._done)}{of} {self._unit}, {_amount(rate)}/s{left}{note}"
            ),
        )


@contextmanager
def progress(label: str, total: float | None, *, unit: str = "", start: float = 0) -> Iterator[Bar]:
    """A progress bar for anything that takes over two seconds.

    Args:
        label: What is being done.
        total: Amount at the end in `unit`; None when nobody knows.
        unit: tokens, steps, bytes, …
        start: Amount already done by an earlier process.
    """
    if not err.is_terminal:
        bar = Bar(None, 0, label, total, unit)
        bar._done = bar._before = start
        yield bar
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        _Amount(unit),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=err,
        transient=False,
    ) as shown:
        task = shown.add_task(escape(label), total=total, completed=int(start), note="")
        yield Bar(shown, task, label, total, unit)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A summary table on stdout. A column of figures is right-aligned."""
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index] not in {"", "–"}]
        figures = bool(cells) and all(_FIGURE.match(cell) for cell in cells)
        shown.add_column(column, justify="right" if figures and index else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    out.print()
    out.print(shown)


def result(message: str) -> None:
    """One line of result on stdout."""
    out.print(escape(message))


class _Amount(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        of = f"/{_amount(task.total)}" if task.total else ""
        speed = f" {_amount(task.speed)}/s" if task.speed else ""
        return Text(f"{_amount(task.completed)}{of} {self._unit}{speed}")


def _amount(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
        if value >= limit:
            return f"{value / (1e3 if suffix == 'K' else limit):.1f}{suffix}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def is_interactive() -> bool:
    return sys.stderr.isatty()
