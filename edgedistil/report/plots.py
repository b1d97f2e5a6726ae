"""Plots of the report as inline SVG; None, and no plot, if the run has nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgedistil.core.evaluation_records import ArtefactScore, EvaluationRecord, Summary
from edgedistil.core.format import milliseconds, precision_and_form
from edgedistil.core.profile_records import LatencyStats, ProfileRecord, ProfileRow
from edgedistil.core.records import NotMeasured
from edgedistil.core.task import ENCODER_TASK, short_label
from edgedistil.report.canvas import (
    FAINT,
    INK,
    MARKERS,
    SERIES,
    draw_svg,
    legend_above,
    plain_label,
    separate,
    series_colour,
)
from edgedistil.report.language_models import LanguageModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cost = Literal["latency", "size"]

# --- size ----------------------------------------------------------------------------------------

_COUNTS_HEIGHT_INCHES = 4.4
_LABEL_POINTS = 9.5
# Height of one line of text in decades, in a figure of that height over the range of the list.
_LABEL_DECADES = 0.21
_COUNT_TICKS = {6: "1M", 7: "10M", 8: "100M", 9: "1B", 10: "10B", 11: "100B", 12: "1T"}


@dataclass(frozen=True)
class _Dot:
    """A model in the plot of parameter counts."""

    name: str
    parameters: float
    colour: str


def parameter_counts(models: Sequence[LanguageModel], *, teacher: int, student: int) -> str:
    """Parameter counts of published models by year, then of a run's teacher and student.

    Args:
        models: Published models.
        teacher: Parameters of the teacher.
        student: Parameters of the student.
    """
    columns = _columns_by_year(models)
    columns["this run"] = [_Dot("teacher", teacher, SERIES[0]), _Dot("student", student, SERIES[1])]
    largest = max(teacher, student, *(model.parameters * 1e6 for model in models))

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import NullLocator

        for position, dots in enumerate(columns.values()):
            _draw_column(axes, position, dots)
        axes.set_yscale("log")
        # Room on the right for the names of the last column.
        axes.set_xlim(-0.15, len(columns) - 0.1)
        axes.set_xticks(range(len(columns)), list(columns))
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("parameters")
        # The axis ends at the first tick above the largest model.
        ticks = {e: name for e, name in _COUNT_TICKS.items() if 10**e <= 4 * largest}
        axes.set_yticks([10.0**exponent for exponent in ticks], list(ticks.values()))
        # Minor ticks of a logarithmic axis would collide with the names.
        axes.yaxis.set_minor_locator(NullLocator())

    return draw_svg("Parameter counts", draw, height=_COUNTS_HEIGHT_INCHES)


def _columns_by_year(models: Sequence[LanguageModel]) -> dict[str, list[_Dot]]:
    columns: dict[str, list[_Dot]] = {}
    for model in sorted(models, key=lambda model: model.year):
        dot = _Dot(model.name, model.parameters * 1e6, FAINT)
        columns.setdefault(str(model.year), []).append(dot)
    return columns


def _draw_column(axes: Axes, position: int, dots: Sequence[_Dot]) -> None:
    """Draws dots above one another, each connected to its name on the right."""
    ordered = sorted(dots, key=lambda dot: dot.parameters)
    # On the logarithmic axis, distances are differences of exponents.
    exponents = [math.log10(dot.parameters) for dot in ordered]
    label_exponents = separate(exponents, distance=_LABEL_DECADES)
    for dot, label_exponent in zip(ordered, label_exponents, strict=True):
        label_height = 10**label_exponent
        # The models of this run are larger and coloured.
        is_published = dot.colour == FAINT
        axes.plot(
            [position, position + 0.09], [dot.parameters, label_height], color=FAINT, linewidth=0.6
        )
        axes.plot(
            [position], [dot.parameters], "o", color=dot.colour, markersize=5 if is_published else 8
        )
        axes.text(
            position + 0.11,
            label_height,
            dot.name,
            color=INK if is_published else dot.colour,
            fontsize=_LABEL_POINTS,
            va="center",
        )


# --- profile -------------------------------------------------------------------------------------

# Teacher and student are compared at this length wherever it was measured: 128 is usual for BERT.
_COMPARED_LENGTH = 128
_ARTEFACT_COLOURS = {
    ("teacher", "fp32"): SERIES[0],
    ("student", "fp32"): SERIES[1],
    ("student", "int8"): SERIES[2],
}


def measured_rows(profiles: Sequence[ProfileRecord]) -> list[ProfileRow]:
    """Measured rows under one condition: one device, fewest threads, length nearest to 128."""
    rows = []
    for profile in profiles:
        rows += [row for row in profile.rows if _is_measured(row)]
    if not rows:
        return []
    # Rows under different conditions cannot be compared, so one condition is chosen.
    device = rows[0].device
    threads = min(row.threads for row in rows)
    lengths = [row.length for row in rows if isinstance(row.length, int)]
    length = min(lengths, key=lambda length: abs(length - _COMPARED_LENGTH))
    return [
        row for row in rows if (row.device, row.threads, row.length) == (device, threads, length)
    ]


def _is_measured(row: ProfileRow) -> bool:
    """Whether a row has undisturbed samples of an exported model at a fixed length."""
    # The plots are about the exported models in onnxruntime, not about what another runtime has.
    if row.form is not None:
        return False
    has_samples = row.method == "measured" and isinstance(row.latency, LatencyStats)
    return has_samples and row.usable and isinstance(row.length, int)


def row_label(row: ProfileRow) -> str:
    """Short name of a row's artefact."""
    return plain_label(f"{row.model} {short_label(row.task)} {precision_and_form(row)}")


def latency_distributions(profiles: Sequence[ProfileRecord]) -> str | None:
    """Latency of every call, one line of dots per artefact, with p50 and p95 marked."""
    # From bottom to top, so the first artefact is the uppermost.
    rows = list(reversed(measured_rows(profiles)))
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for height, row in enumerate(rows):
            if isinstance(row.latency, LatencyStats):
                _draw_samples(axes, height, row.latency, _artefact_colour(row))
        axes.set_yticks(range(len(rows)), [row_label(row) for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("milliseconds per call; bars: p50 and p95")
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)

    return draw_svg("Latency distributions", draw, height=1.0 + 0.4 * len(rows))


def _draw_samples(axes: Axes, height: float, latency: LatencyStats, colour: str) -> None:
    heights = [height + 0.28 * _jitter(index) for index in range(len(latency.samples_ms))]
    axes.plot(latency.samples_ms, heights, ".", color=colour, alpha=0.35, markersize=3)
    for percentile in (latency.p50_ms, latency.p95_ms):
        if isinstance(percentile, float):
            axes.plot([percentile], [height], "|", color=INK, markersize=16, markeredgewidth=1.6)


def _jitter(index: int) -> float:
    """Returns an offset in -1..1; not random, so that equal records give equal pages."""
    # Multiples of the golden ratio are spread evenly over the interval.
    return ((index * 0.618034) % 1.0) * 2 - 1


def _artefact_colour(row: ProfileRow) -> str:
    return _ARTEFACT_COLOURS.get((row.role, row.precision), SERIES[3])


def size_against_latency(profiles: Sequence[ProfileRecord]) -> str | None:
    """File size and median latency, one mark per artefact."""
    rows = measured_rows(profiles)
    latencies = [row.latency_ms for row in rows if isinstance(row.latency_ms, float)]
    if len(rows) < 2:
        return None

    def draw(axes: Axes) -> None:
        for row in rows:
            if not isinstance(row.latency_ms, float):
                continue
            size = row.file_bytes / 2**20
            label = f"{row_label(row)}: {milliseconds(row.latency_ms)} ms, {size:.0f} MiB"
            marker = "o" if row.task == ENCODER_TASK else "s"
            colour = _artefact_colour(row)
            axes.plot([row.latency_ms], [size], marker, color=colour, markersize=8, label=label)
        # Both axes start at 0, so that areas and distances show ratios.
        axes.set_xlim(0, 1.1 * max(latencies))
        axes.set_ylim(0, 1.15 * max(row.file_bytes for row in rows) / 2**20)
        legend_above(axes, columns=1)
        axes.set_xlabel("median milliseconds per call")
        axes.set_ylabel("MiB on disk")

    return draw_svg("Size against latency", draw, height=2.8 + 0.2 * len(rows))


# --- quality -------------------------------------------------------------------------------------


def scores(evaluation: EvaluationRecord) -> str | None:
    """Median scores, with the range over the seeds as a bar; None for a single model."""
    summaries = [s for s in evaluation.summaries if s.artefact == "pytorch"]
    models = list(dict.fromkeys(summary.model for summary in summaries))
    tasks = list(dict.fromkeys(summary.task for summary in summaries))
    if len(models) < 2:
        return None

    def draw(axes: Axes) -> None:
        for index, task in enumerate(tasks):
            by_model = {summary.model: summary for summary in summaries if summary.task == task}
            # Tasks are drawn next to each other within the column of a model.
            offset = 0.12 * (index - (len(tasks) - 1) / 2)
            positions = {model: models.index(model) + offset for model in by_model}
            _draw_medians(axes, positions, by_model, colour=series_colour(index), label=task)
        axes.set_xticks(range(len(models)), [plain_label(model) for model in models])
        axes.set_xlim(-0.5, len(models) - 0.5)
        axes.set_ylabel("median score × 100; bars: range")
        legend_above(axes)

    return draw_svg("Scores", draw)


def _draw_medians(
    axes: Axes,
    positions: Mapping[str, float],
    summaries: Mapping[str, Summary],
    *,
    colour: str,
    label: str,
) -> None:
    """Draws the medians of one task with error bars, one per model."""
    # matplotlib takes the bars as distances from the median.
    medians = [100 * summary.median for summary in summaries.values()]
    below = [100 * (summary.median - summary.lowest) for summary in summaries.values()]
    above = [100 * (summary.highest - summary.median) for summary in summaries.values()]
    axes.errorbar(
        [positions[model] for model in summaries],
        medians,
        [below, above],
        fmt="o",
        color=colour,
        capsize=3,
        label=plain_label(label),
    )


@dataclass(frozen=True)
class CostPoint:
    """Quality and cost of one fine-tuned model in one form.

    Attributes:
        task: Task it was scored on.
        form: Model, and pytorch or the precision of its artefact.
        cost: Milliseconds per example, or MiB on disk.
        retention: Retention above baseline, in percent.
    """

    task: str
    form: str
    cost: float
    retention: float


def score_against_cost(evaluation: EvaluationRecord, cost: Cost) -> str | None:
    """Retention above baseline against latency or size, one mark per artefact and task.

    Retention puts tasks of different scales on one axis. None if fewer than two artefacts can be
    drawn.
    """
    points = cost_points(evaluation, cost)
    if len(points) < 2:
        return None
    tasks = list(dict.fromkeys(point.task for point in points))
    forms = sorted({point.form for point in points})
    # Colour shows the form, the marker the task.
    colours = {form: series_colour(index) for index, form in enumerate(forms)}
    markers = {task: MARKERS[index % len(MARKERS)] for index, task in enumerate(tasks)}

    def draw(axes: Axes) -> None:
        for point in points:
            axes.plot(
                [point.cost], [point.retention], markers[point.task], color=colours[point.form]
            )
        # Empty lines only add entries to the legend.
        for form, colour in colours.items():
            axes.plot([], [], "o", color=colour, label=plain_label(form))
        for task, marker in markers.items():
            axes.plot([], [], marker, color=FAINT, label=plain_label(task))
        axes.set_xlim(0, 1.1 * max(point.cost for point in points))
        axes.set_xlabel(_COST_LABELS[cost])
        axes.set_ylabel("retention above baseline, %")
        legend_above(axes)

    # The legend has three columns and grows with the number of entries.
    height = 3.6 + 0.2 * ((len(forms) + len(tasks)) // 3)
    return draw_svg(f"Score against {cost}", draw, height=height)


_COST_LABELS: dict[Cost, str] = {
    "latency": "median milliseconds per example, one thread",
    "size": "MiB on disk",
}


def cost_points(evaluation: EvaluationRecord, cost: Cost) -> list[CostPoint]:
    """Points of `score_against_cost`; tasks without a useful teacher are left out."""
    # Retention needs the baseline and the teacher's score of the same task.
    baselines = {task.name: task.baseline for task in evaluation.tasks}
    teacher_scores = {
        summary.task: summary.median
        for summary in evaluation.summaries
        if (summary.model, summary.artefact) == ("teacher", "pytorch")
    }
    points = []
    for score in evaluation.artefacts:
        baseline = baselines.get(score.task, 0.0)
        teacher_gain = teacher_scores.get(score.task, 0.0) - baseline
        point_cost = _cost_of(score, cost)
        # Without a gain of the teacher, retention above baseline is not defined.
        if teacher_gain > 0 and point_cost is not None:
            retention = 100 * (score.median - baseline) / teacher_gain
            form = f"{score.model} {score.artefact}"
            points.append(CostPoint(score.task, form, point_cost, retention))
    return points


def _cost_of(score: ArtefactScore, cost: Cost) -> float | None:
    if cost == "size":
        return score.bytes / 2**20
    if isinstance(score.latency_ms, NotMeasured) or score.disturbed is not None:
        return None
    return score.latency_ms
