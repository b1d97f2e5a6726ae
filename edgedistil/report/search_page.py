"""Files of a trained search: its table in Markdown, and quality against time as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.rundir import RunDir, write_text
from edgedistil.core.search_records import TrainedSearch, TrainedStudent
from edgedistil.report.canvas import (
    FAINT,
    draw_svg,
    legend_above,
    plain_label,
    series_colour,
    svg_document,
)
from edgedistil.report.search_tables import trained_table
from edgedistil.report.text import render_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_search_page(run: RunDir, record: TrainedSearch) -> None:
    """Writes `search.md` and `search.svg` next to the record of a trained search."""
    lines = [
        "# Students under a budget",
        render_table(trained_table(record)),
        "![Score against time](search.svg)",
    ]
    write_text(run.path / "search.md", "\n\n".join(lines) + "\n")
    write_text(run.path / "search.svg", svg_document(draw_search(record)))


def draw_search(record: TrainedSearch) -> str:
    """Draws score against time of the trained students, one mark each; ranges are lines."""

    def draw(axes: Axes) -> None:
        for student in record.students:
            low, high = _range_ms(student)
            colour = series_colour(student.round - 1)
            axes.plot([low, high], [student.score] * 2, color=FAINT, linewidth=1)
            # A hollow mark: another student of the round is at least as good and cheaper.
            fill = colour if student.is_pareto else "none"
            axes.plot([(low + high) / 2], [student.score], "o", color=colour, markerfacecolor=fill)
        # Empty lines only add entries to the legend.
        for number in range(1, record.rounds + 1):
            axes.plot([], [], "o", color=series_colour(number - 1), label=f"round {number}")
        if record.budget.latency_ms is not None:
            axes.axvline(record.budget.latency_ms, color=FAINT, linestyle="--", label="limit")
        # One length and one device: other figures are not comparable.
        axes.set_xlabel(f"milliseconds a call of {record.length} tokens on {record.device}")
        axes.set_ylabel(plain_label(record.metric))
        legend_above(axes)

    return draw_svg("Score against time", draw, height=3.8)


def _range_ms(student: TrainedStudent) -> tuple[float, float]:
    """Time of a student's artefact, or of what was predicted of it."""
    latency = student.latency_ms
    if latency is None or isinstance(latency, NotMeasured):
        latency = student.candidate.latency_ms
    return (latency.low, latency.high) if isinstance(latency, Band) else (latency, latency)
