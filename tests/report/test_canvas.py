"""Inline SVG: colours are CSS variables, ids are unique, equal data gives equal bytes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistil.report import canvas
from edgedistil.report.canvas import FAINT, SERIES, draw_svg, legend_above, separate, series_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(axes: Axes) -> None:
    axes.plot([1, 2], [3, 5], color=SERIES[0], label="a label")
    axes.axhline(4, color=FAINT)
    axes.legend()


def test_placeholder_colours_become_css_variables() -> None:
    svg = draw_svg("A plot", draw)
    assert "var(--series-1)" in svg
    assert "var(--faint)" in svg
    assert not re.search(r"#0[0-9a]{1}0[0-9]{3}\b", svg), "a placeholder is left"


def test_a_picture_of_its_own_has_the_colours_of_the_light_page() -> None:
    template = Path(canvas.__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    # The first block of variables is the light one; the dark one overrides it.
    light = template[template.index(":root") :]
    light = light[: light.index("}")]
    colours = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6});", light))
    assert {name: colours.get(name) for name in canvas._LIGHT} == canvas._LIGHT
    assert set(canvas._CSS_VARIABLES.values()) <= set(canvas._LIGHT)


def test_the_element_has_a_name_and_no_size() -> None:
    svg = draw_svg("A plot", draw)
    assert svg.startswith('<svg role="img" aria-label="A plot"')
    opening = svg[: svg.index(">")]
    assert " width=" not in opening
    assert " height=" not in opening
    assert "<metadata>" not in svg


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (["soft targets", "masked LM", "cosine"], 3),
        (["sentence vectors", "token states", "states of layers"], 2),
        (["a label that is as long as a line above the axes may be, or more"], 1),
    ],
)
def test_a_legend_of_long_labels_has_fewer_columns(labels: list[str], columns: int) -> None:
    seen = []

    def draw_lines(axes: Axes) -> None:
        for number, label in enumerate(labels):
            axes.plot([0, 1], [number, number + 1], label=label)
        legend_above(axes)
        seen.append(axes.get_legend())

    draw_svg("A plot", draw_lines)
    assert [legend._ncols for legend in seen] == [columns]


def test_text_stays_text() -> None:
    assert ">a label</text>" in draw_svg("A plot", draw)


def test_equal_data_gives_equal_bytes() -> None:
    assert draw_svg("A plot", draw) == draw_svg("A plot", draw)


def test_two_pictures_share_no_id() -> None:
    ids = [
        set(re.findall(r'\bid="([^"]+)"', draw_svg(label, draw))) for label in ("A plot", "B plot")
    ]
    assert ids[0] and ids[1]
    assert ids[0].isdisjoint(ids[1])


def test_references_lead_to_ids_of_the_same_picture() -> None:
    svg = draw_svg("A plot", draw)
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    references = re.findall(r'href="#([^"]+)"', svg) + re.findall(r"url\(#([^)]+)\)", svg)
    assert references
    assert set(references) <= ids


def test_colours_repeat_after_the_last_one() -> None:
    assert series_colour(0) == series_colour(len(SERIES))


@given(st.lists(st.floats(0, 3), min_size=1, max_size=11), st.floats(0.05, 0.4))
def test_separated_labels_keep_their_order_and_distance(
    positions: list[float], distance: float
) -> None:
    separated = separate(sorted(positions), distance=distance)
    assert all(b - a >= distance - 1e-9 for a, b in pairwise(separated))
    assert sum(separated) == pytest.approx(sum(positions), abs=1e-6)


def test_labels_that_are_far_apart_do_not_move() -> None:
    assert separate([1.0, 2.0, 5.0], distance=0.5) == [1.0, 2.0, 5.0]
