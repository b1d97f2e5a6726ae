"""Plots of a distillation as inline SVG; None, and no plot, without two entries of the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgedistil.core.distill_records import DistillRecord, HeldoutMlm
from edgedistil.core.trace import TraceEntry
from edgedistil.report.canvas import FAINT, draw_svg, legend_above, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Key in metrics.jsonl → label.
LOSSES = {"soft_target": "soft targets", "mlm": "masked LM", "cosine": "cosine"}
VECTOR_LOSSES = {
    "vector": "sentence vectors",
    "similarity": "similarities",
    "states": "token states",
    "layers": "states of layers",
    "relations": "relations",
}
_VECTOR_UNITS = {
    "squared distance": ("vector",),
    "1 − cos": ("states", "layers"),
    "nats": ("similarity", "relations"),
}
HELDOUT_FIGURES = {
    "top1": "top-1 of all selected",
    "agreement": "agreement with teacher",
    "rank_correlation": "rank correlation (× 100)",
    "top10_overlap": "top-10 overlap",
}
# The moving average covers a fiftieth of the run: noise disappears, the shape stays.
_SMOOTHING_WINDOWS = 100
# Ratio of the ends of an axis between which there are two of 1, 2, 5, 10, … at least.
_WIDE_RANGE = 5
# Runs of fewer tokens have an axis in thousands.
_FEW_TOKENS = 2e5


def loss_curves(trace: Sequence[TraceEntry]) -> str | None:
    """Training losses over the tokens seen: raw values and a moving average."""
    if len(trace) < 2:
        return None

    scale, unit = _token_unit(trace)

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

        for index, (key, label) in enumerate({**LOSSES, **VECTOR_LOSSES}.items()):
            # A loss with weight 0 is not in the trace.
            entries = [entry for entry in trace if entry.get(key) is not None]
            if not entries:
                continue
            colour = series_colour(index)
            tokens = [entry["tokens"] / scale for entry in entries]
            values = [entry[key] for entry in entries]
            # Raw values stay visible behind the average, so that outliers are not hidden.
            axes.plot(tokens, values, color=colour, alpha=0.22, linewidth=0.7)
            axes.plot(tokens, moving_average(values), color=colour, linewidth=1.8, label=label)
        axes.set_yscale("log")
        # Powers of ten alone would be one number, or none; 1, 2 and 5 are rare in a small range.
        low, high = axes.get_ylim()
        is_wide = high > _WIDE_RANGE * low
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(4))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(unit)
        axes.set_ylabel(_loss_unit(trace))
        legend_above(axes)

    return draw_svg("Loss curves", draw)


def _token_unit(trace: Sequence[TraceEntry]) -> tuple[float, str]:
    """Tokens of one unit on the axis, and the axis' label."""
    if trace[-1]["tokens"] < _FEW_TOKENS:
        return 1e3, "thousand tokens seen"
    return 1e6, "million tokens seen"


def _loss_unit(trace: Sequence[TraceEntry]) -> str:
    known = {key for key, value in trace[0].items() if value is not None}
    units = [unit for unit, keys in _VECTOR_UNITS.items() if known.intersection(keys)]
    if units:
        return "; ".join(units)
    return "nats per token (cosine: 1 − cos)"


def moving_average(values: Sequence[float]) -> list[float]:
    """Mean of each value and its neighbours; fewer of them at both ends."""
    reach = max(1, len(values) // _SMOOTHING_WINDOWS)
    averages = []
    for index in range(len(values)):
        window = values[max(0, index - reach) : index + reach + 1]
        averages.append(sum(window) / len(window))
    return averages


def heldout_curves(trace: Sequence[TraceEntry], record: DistillRecord | None) -> str | None:
    """Top-1 accuracy and agreement on held-out text, with the teacher's accuracy as a line.

    Args:
        trace: Held-out evaluations of the student, each with the tokens seen.
        record: Has the teacher's evaluation; None if it is missing.
    """
    if len(trace) < 2:
        return None
    scale, unit = _token_unit(trace)

    def draw(axes: Axes) -> None:
        for index, (key, label) in enumerate(HELDOUT_FIGURES.items()):
            entries = [entry for entry in trace if isinstance(entry.get(key), int | float)]
            if not entries:
                continue
            tokens = [entry["tokens"] / scale for entry in entries]
            values = [100 * entry[key] for entry in entries]
            colour = series_colour(index)
            axes.plot(tokens, values, "o-", color=colour, linewidth=1.8, markersize=3, label=label)
        # The teacher does not train: its accuracy is a level, not a curve.
        last = trace[-1]["tokens"] / scale
        heldout = record.heldout if record is not None else []
        for model in heldout:
            if isinstance(model, HeldoutMlm) and model.model == "teacher":
                _draw_level(axes, 100 * model.top1, last, "teacher's top-1 accuracy")
        axes.set_xlabel(unit)
        of_vectors = any("rank_correlation" in entry for entry in trace)
        axes.set_ylabel("%" if of_vectors else "% of selected tokens (BERT's 80/10/10)")
        # From zero, so that a small gain looks small.
        axes.set_ylim(bottom=0)
        legend_above(axes)

    return draw_svg("Held-out figures", draw)


def _draw_level(axes: Axes, height: float, right: float, label: str) -> None:
    """Draws a dashed horizontal line with its label at the right end."""
    axes.axhline(height, color=FAINT, linestyle="--", linewidth=1)
    axes.annotate(label, (right, height), color=FAINT, va="bottom", ha="right")
