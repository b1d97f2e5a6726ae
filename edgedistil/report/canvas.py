"""Draws with matplotlib into inline SVG that takes its colours from CSS variables.

One picture serves the light and the dark page: matplotlib draws with placeholder colours, which are
then replaced by variables that page.html.j2 defines.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgedistil.core.echo import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Placeholders: colours that matplotlib produces nowhere else, so that replacing them is safe.
INK = "#010101"
FAINT = "#020202"
GRID = "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
# Shapes for what colour does not show, such as the task.
MARKERS = ("o", "s", "D", "^", "v", "*")

_CSS_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--line"}
_CSS_VARIABLES |= {colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)}

_WIDTH_INCHES = 5.2
# Characters of a label: longer ones leave no room for the axes.
_LONGEST_LABEL = 60
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    # Text stays text, in the page's font, and can be searched.
    "svg.fonttype": "none",
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


def series_colour(index: int) -> str:
    """Colour of a series; repeats after the last one."""
    return SERIES[index % len(SERIES)]


def draw_svg(label: str, draw: Callable[[Axes], None], *, height: float = 3.2) -> str:
    """Draws one figure as an SVG element; the same data gives the same bytes.

    Args:
        label: Name of the figure for screen readers, unique in a page.
        draw: Draws on the axes.
        height: Height in inches; the width is fixed and scales with the page.
    """
    # matplotlib takes 0.3 s to import, which commands that draw nothing should not pay.
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The page's font draws the text: what matplotlib's own font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        # Without a fixed salt, the ids in the SVG would be random.
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": label})
        # Not pyplot: it needs a display and has global state.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(buffer.getvalue(), label)


# Colours of the light page, for a picture in a file of its own.
_LIGHT = {
    "--ink": "#1b1d21",
    "--faint": "#5d636e",
    "--line": "#e3e1dc",
    "--series-1": "#1f5fbf",
    "--series-2": "#c2571a",
    "--series-3": "#178058",
    "--series-4": "#8a3fa0",
    "--series-5": "#8c6d00",
    "--series-6": "#b0305c",
}


def svg_document(svg: str) -> str:
    """Returns an SVG element of `draw_svg` as a file that needs no page, in light colours."""
    for variable, colour in _LIGHT.items():
        svg = svg.replace(f"var({variable})", colour)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def inline_svg(svg: str, label: str) -> str:
    """Makes matplotlib's SVG document an element that fits into an HTML page.

    Requires: `svg` was drawn with the placeholder colours.
    Ensures: CSS variables as colours, no size of its own, ids that no other label has.
    """
    # Drop the XML declaration and the metadata.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in _CSS_VARIABLES.items():
        svg = re.sub(rf"{colour}\b", f"var({variable})", svg, flags=re.IGNORECASE)
    # The page sets the size: width 100%, height by the view box.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Ids are unique per document, and matplotlib uses the same ones in every figure.
    prefix = re.sub(r"\W+", "-", label.lower())
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'(xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\2"', svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


# Characters of a line above the axes, and those that the line in front of a label takes.
_LEGEND_CHARACTERS, _LEGEND_LINE = 54, 5


def plain_label(text: str) -> str:
    """Returns text from a record as a label: without formulas, and short enough for a plot."""
    line = one_line(text)
    if len(line) > _LONGEST_LABEL:
        line = f"{line[:_LONGEST_LABEL]}…"
    # A legend leaves out labels that start with an underscore.
    if line.startswith("_"):
        line = f" {line}"
    return line.replace("$", r"\$")


def legend_above(axes: Axes, *, columns: int = 3) -> None:
    """Adds a legend above the axes, where it covers no data; fewer columns if labels are long."""
    _, labels = axes.get_legend_handles_labels()
    # A column is as wide as its longest label and the line in front of it. Counted in characters,
    # because the page's font is wider than the one that matplotlib measures.
    longest = max((len(label) for label in labels), default=1)
    fitting = max(1, _LEGEND_CHARACTERS // (longest + _LEGEND_LINE))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(columns, fitting),
        borderaxespad=0.3,
        handlelength=1.4,
    )


def separate(positions: Sequence[float], *, distance: float) -> list[float]:
    """Moves labels on an axis apart, as little as possible.

    Args:
        positions: Wanted positions, ascending.
        distance: Smallest distance between neighbours in the result.
    Returns:
        Positions in the same order, with the same sum.
    """
    # Labels that are too close form a group, which is spread around its mean. A group that then
    # touches the one before it is merged with it.
    groups: list[list[float]] = []
    for position in positions:
        groups.append([position])
        while len(groups) > 1 and _overlap(groups[-2], groups[-1], distance):
            last = groups.pop()
            groups[-1] += last
    separated = []
    for group in groups:
        separated += _spread_evenly(group, distance)
    return separated


def _overlap(lower: Sequence[float], upper: Sequence[float], distance: float) -> bool:
    end = _spread_evenly(lower, distance)[-1]
    start = _spread_evenly(upper, distance)[0]
    return end + distance > start


def _spread_evenly(group: Sequence[float], distance: float) -> list[float]:
    """Places a group at equal distances around its mean."""
    start = sum(group) / len(group) - distance * (len(group) - 1) / 2
    return [start + distance * index for index in range(len(group))]
