"""Plots as inline SVG whose colours are CSS variables, so that one picture serves light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from edgedistil.core.format import milliseconds
from edgedistil.core.records import (
    DistillRecord,
    EvaluationRecord,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.task import ENCODER_TASK, short_label
from edgedistil.report.language_models import LanguageModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stand-ins that matplotlib draws with; each becomes a CSS variable of the page.
INK, FAINT, GRID = "#010101", "#020202", "#030303"
SERIES = ["#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006"]
_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--line"} | {
    c: f"--series-{i + 1}" for i, c in enumerate(SERIES)
}

_SMOOTH_OVER = 100
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be found
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def _draw(label: str, draw: Callable[[Axes], None], *, height: float = 3.2) -> str:
    """One figure as an SVG element: `label` is what a screen reader says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": label})
        from matplotlib.figure import Figure  # no pyplot: no display, no global state

        figure = Figure(figsize=(5.2, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = re.sub(rf"{colour}\b", f"var({variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Ids are per document: several inline pictures must not share them.
    prefix = re.sub(r"\W+", "-", label.lower())
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\2"', svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


# --- training -------------------------------------------------------------------------------------------


def loss_curves(trace: Sequence[dict[str, Any]]) -> str | None:
    """Each loss over the tokens seen, smoothed, with the raw values faint behind."""
    if len(trace) < 2:
        return None
    names = [
        (key, label) for key, label in LOSSES if any(entry.get(key) is not None for entry in trace)
    ]

    def draw(axes: Axes) -> None:
        for index, (key, label) in enumerate(names):
            points = [
                (entry["tokens"] / 1e6, entry[key]) for entry in trace if entry.get(key) is not None
            ]
            tokens, values = zip(*points, strict=True)
            axes.plot(tokens, values, color=SERIES[index], alpha=0.22, linewidth=0.7)
            axes.plot(tokens, _smooth(values), color=SERIES[index], linewidth=1.8, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("million tokens seen")
        axes.set_ylabel("nats per token (cosine: 1 − cos)")
        _legend_above(axes)

    return _draw("Loss curves", draw)


def _legend_above(axes: Axes, *, columns: int = 3) -> None:
    """Where no curve can run through it."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.3, handlelength=1.4
    )


LOSSES = (("soft_target", "soft targets"), ("mlm", "masked words"), ("cosine", "cosine"))


def _smooth(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // _SMOOTH_OVER)
    return [
        sum(part) / len(part)
        for part in (values[max(0, i - window) : i + window + 1] for i in range(len(values)))
    ]


def heldout_curves(trace: Sequence[dict[str, Any]], record: DistillRecord | None) -> str | None:
    """Top-1 and agreement on held-out text over the tokens seen, with the teacher's top-1 as a line."""
    if len(trace) < 2:
        return None

    def draw(axes: Axes) -> None:
        tokens = [entry["tokens"] / 1e6 for entry in trace]
        for index, (key, label) in enumerate(
            (("top1", "right word"), ("agreement", "agrees with teacher"))
        ):
            values = [100 * entry[key] for entry in trace]
            axes.plot(
                tokens,
                values,
                color=SERIES[index],
                linewidth=1.8,
                marker="o",
                markersize=3,
                label=label,
            )
        for model in record.heldout if record else []:
            if model.model == "teacher":
                axes.axhline(100 * model.top1, color=FAINT, linestyle="--", linewidth=1)
                axes.annotate(
                    "teacher, right word",
                    (tokens[-1], 100 * model.top1),
                    color=FAINT,
                    va="bottom",
                    ha="right",
                )
        axes.set_xlabel("million tokens seen")
        axes.set_ylabel("% of held-out masked tokens")
        axes.set_ylim(bottom=0)
        _legend_above(axes)

    return _draw("Held-out masked words", draw)


# --- size -----------------------------------------------------------------------------------------------

_COUNTS_HEIGHT = 4.4
_LABEL_POINTS = 9.5
_LABEL_APART = 0.21  # decades: what a line of text takes up in a picture of that height


def parameter_counts(models: Sequence[LanguageModel], *, teacher: int, student: int) -> str:
    """Parameters of published models by year, with a run's teacher and student beside them."""
    years = sorted({m.year for m in models})
    columns = [
        [(m.name, m.parameters * 1e6, FAINT) for m in models if m.year == year] for year in years
    ]
    columns.append([("teacher", float(teacher), SERIES[0]), ("student", float(student), SERIES[1])])

    def draw(axes: Axes) -> None:
        for place, column in enumerate(columns):
            _labelled_column(axes, place, column)
        axes.set_yscale("log")
        axes.set_xlim(-0.15, len(columns) - 0.1)
        axes.set_xticks(range(len(columns)), [*map(str, years), "this run"])
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("parameters")
        exponents = [
            e for e in range(6, 13) if 10**e <= 4 * max(count for c in columns for _, count, _ in c)
        ]
        axes.set_yticks([10.0**e for e in exponents], [_COUNT_NAMES[e] for e in exponents])
        axes.yaxis.set_minor_locator(_no_ticks())

    return _draw("Parameter counts", draw, height=_COUNTS_HEIGHT)


_COUNT_NAMES = {6: "1M", 7: "10M", 8: "100M", 9: "1B", 10: "10B", 11: "100B", 12: "1T"}


def _labelled_column(axes: Axes, place: int, column: Sequence[tuple[str, float, str]]) -> None:
    """Dots above one another, each with its name to the right, led there where names had to move apart."""
    ordered = sorted(column, key=lambda each: each[1])
    heights = spread([math.log10(count) for _, count, _ in ordered], apart=_LABEL_APART)
    for (name, count, colour), height in zip(ordered, heights, strict=True):
        at = 10**height
        axes.plot([place, place + 0.09], [count, at], color=FAINT, linewidth=0.6)
        axes.plot([place], [count], "o", color=colour, markersize=5 if colour == FAINT else 8)
        ink = INK if colour == FAINT else colour
        axes.text(place + 0.11, at, name, color=ink, fontsize=_LABEL_POINTS, va="center")


def spread(values: Sequence[float], *, apart: float) -> list[float]:
    """Ascending values moved as little as it takes to have `apart` between neighbours."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while (
            len(groups) > 1
            and _placed(groups[-2], apart)[-1] + apart > _placed(groups[-1], apart)[0]
        ):
            last = groups.pop()
            groups[-1] += last
    return [place for group in groups for place in _placed(group, apart)]


def _placed(group: Sequence[float], apart: float) -> list[float]:
    """A run of neighbours, evenly apart around where they would like to be."""
    start = sum(group) / len(group) - apart * (len(group) - 1) / 2
    return [start + apart * index for index in range(len(group))]


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


# --- profile --------------------------------------------------------------------------------------------


def label_of(row: ProfileRow) -> str:
    return f"{row.model} {short_label(row.task)} {row.precision}"


def measured_rows(profiles: Sequence[ProfileRecord]) -> list[ProfileRow]:
    """Valid measured rows at the smallest thread count and the length nearest to 128 that all of them have."""
    rows = [
        r
        for p in profiles
        for r in p.rows
        if r.method == "measured" and r.valid and isinstance(r.length, int)
    ]
    rows = [r for r in rows if not isinstance(r.latency, NotMeasured)]
    if not rows:
        return []
    device = rows[0].device
    threads = min(r.threads for r in rows)
    length = min(
        (r.length for r in rows if isinstance(r.length, int)), key=lambda at: abs(at - 128)
    )
    return [r for r in rows if (r.device, r.threads, r.length) == (device, threads, length)]


def latency_distributions(profiles: Sequence[ProfileRecord]) -> str | None:
    """Every call's latency, one row of dots an artefact, with p50 and p95 marked."""
    rows = measured_rows(profiles)
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for index, row in enumerate(reversed(rows)):
            if isinstance(row.latency, NotMeasured):
                continue
            samples = row.latency.samples_ms
            heights = [index + 0.28 * _jitter(i) for i in range(len(samples))]
            axes.plot(samples, heights, ".", color=_colour(row), alpha=0.35, markersize=3)
            for value, mark in ((row.latency.p50_ms, "|"), (row.latency.p95_ms, "|")):
                if not isinstance(value, NotMeasured):
                    axes.plot([value], [index], mark, color=INK, markersize=16, markeredgewidth=1.6)
        axes.set_yticks(range(len(rows)), [label_of(row) for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("milliseconds a call; bars: p50 and p95")
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)

    return _draw("Latency distributions", draw, height=1.0 + 0.4 * len(rows))


def _jitter(index: int) -> float:
    """A spread in -1..1 that looks random and is not, so that the same records give the same page."""
    return ((index * 0.618034) % 1.0) * 2 - 1


def _colour(row: ProfileRow) -> str:
    order = [("teacher", "fp32"), ("student", "fp32"), ("student", "int8")]
    key = (row.role, row.precision)
    return SERIES[order.index(key)] if key in order else SERIES[3]


def size_against_latency(profiles: Sequence[ProfileRecord]) -> str | None:
    """One dot an artefact: the file's size and the median latency."""
    rows = measured_rows(profiles)
    if len(rows) < 2:
        return None

    def draw(axes: Axes) -> None:
        for row in rows:
            if not isinstance(row.latency_ms, float):
                continue
            marker = "o" if row.task == ENCODER_TASK else "s"
            size = row.file_bytes / 2**20
            label = f"{label_of(row)}: {milliseconds(row.latency_ms)} ms, {size:.0f} MiB"
            axes.plot(
                [row.latency_ms], [size], marker, color=_colour(row), markersize=8, label=label
            )
        axes.set_xlim(0, 1.1 * max(r.latency_ms for r in rows if isinstance(r.latency_ms, float)))
        axes.set_ylim(0, 1.15 * max(r.file_bytes for r in rows) / 2**20)
        _legend_above(axes, columns=1)
        axes.set_xlabel("median milliseconds a call")
        axes.set_ylabel("MiB on disk")

    return _draw("Size against latency", draw, height=2.8 + 0.2 * len(rows))


# --- quality --------------------------------------------------------------------------------------------


def scores(evaluation: EvaluationRecord | None) -> str | None:
    """One dot a model and task: the median score with all seeds as a bar; None where only one model was scored."""
    if evaluation is None or len({s.model for s in evaluation.summaries}) < 2:
        return None
    summaries = [s for s in evaluation.summaries if s.artefact == "pytorch"]
    models = list(dict.fromkeys(s.model for s in summaries))
    tasks = list(dict.fromkeys(s.task for s in summaries))

    def draw(axes: Axes) -> None:
        for index, task in enumerate(tasks):
            of_task = {s.model: s for s in summaries if s.task == task}
            there = [m for m in models if m in of_task]
            medians = [100 * of_task[m].median for m in there]
            below = [100 * (of_task[m].median - of_task[m].lowest) for m in there]
            above = [100 * (of_task[m].highest - of_task[m].median) for m in there]
            places = [models.index(m) + 0.12 * (index - (len(tasks) - 1) / 2) for m in there]
            axes.errorbar(
                places, medians, [below, above], fmt="o", color=SERIES[index], capsize=3, label=task
            )
        axes.set_xticks(range(len(models)), models)
        axes.set_xlim(-0.5, len(models) - 0.5)
        axes.set_ylabel("median score x 100, bars: all seeds")
        _legend_above(axes)

    return _draw("Scores", draw)


def score_against(
    evaluation: EvaluationRecord | None, cost: Literal["latency", "size"]
) -> str | None:
    """One mark an artefact and task: how much of the teacher's lead over a constant is left, and what it costs.

    So tasks of different scales share an axis. None where no artefact was scored, or no teacher beside them.
    """
    marks = _priced(evaluation, cost) if evaluation is not None else []
    if len(marks) < 2:
        return None
    tasks = list(dict.fromkeys(task for task, *_ in marks))
    kinds = sorted({(model, form) for _, model, form, *_ in marks})

    def draw(axes: Axes) -> None:
        for task, model, form, price, share in marks:
            of_kind = kinds.index((model, form))
            axes.plot(
                [price],
                [share],
                "osD^v*"[tasks.index(task) % 6],
                color=SERIES[of_kind % len(SERIES)],
            )
        for of_kind, (model, form) in enumerate(kinds):
            axes.plot([], [], "o", color=SERIES[of_kind % len(SERIES)], label=f"{model} {form}")
        for index, task in enumerate(tasks):
            axes.plot([], [], "osD^v*"[index % 6], color=FAINT, label=task)
        axes.set_xlim(0, 1.1 * max(price for *_, price, _ in marks))
        axes.set_xlabel(
            "median milliseconds an example, one thread" if cost == "latency" else "MiB on disk"
        )
        axes.set_ylabel("% of the teacher's score\nabove a constant prediction")
        _legend_above(axes)

    return _draw(f"Score against {cost}", draw, height=3.6 + 0.2 * ((len(kinds) + len(tasks)) // 3))


def _priced(
    evaluation: EvaluationRecord, cost: Literal["latency", "size"]
) -> list[tuple[str, str, str, float, float]]:
    """(task, model, form, cost, percent of the teacher's score above the baseline) of every artefact scored."""
    baselines = {task.name: task.baseline for task in evaluation.tasks}
    teacher = {
        s.task: s.median
        for s in evaluation.summaries
        if (s.model, s.artefact) == ("teacher", "pytorch")
    }
    found = []
    for score in evaluation.artefacts:
        lead = teacher.get(score.task, 0.0) - baselines.get(score.task, 0.0)
        price = score.latency_ms if cost == "latency" else score.bytes / 2**20
        if lead > 0 and not isinstance(price, NotMeasured):
            share = 100 * (score.median - baselines[score.task]) / lead
            found.append((score.task, score.model, score.artefact, float(price), share))
    return found
