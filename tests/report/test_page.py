"""The HTML page: self-contained, well-formed, escaped, with a style for every verdict."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from typing import get_args

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.report.load import RunResults, load_results
from edgedistil.report.page import is_figure, render
from edgedistil.report.table import TableData
from edgedistil.report.verdicts import Word, judge_claims


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


@pytest.fixture
def page(results: RunResults) -> str:
    return render(results, judge_claims(results), None)


def test_page_is_self_contained(page: str) -> None:
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert addresses, "the page has links to its own sections"
    assert all(address.startswith("#") for address in addresses)
    assert "<script" not in page
    assert "url(http" not in page
    assert "@import" not in page


def test_page_is_well_formed(page: str) -> None:
    checker = _Nesting()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids)) > 10


def test_text_of_records_is_escaped(page: str) -> None:
    assert "&lt;b&gt;hostile&lt;/b&gt;" in page
    assert "<b>hostile" not in page


def test_control_characters_of_records_are_replaced(results: RunResults) -> None:
    page = render(replace(results, name="a\x1b[31mb\x07"), [], None)
    assert "a?[31mb?" in page
    assert "\x1b" not in page


def test_every_link_leads_to_a_section(page: str) -> None:
    links = set(re.findall(r'<a href="#([^"]+)"', page))
    assert links == set(re.findall(r'<h2 id="([^"]+)"', page))


def test_every_verdict_has_a_style() -> None:
    template = resources.files("edgedistil.report").joinpath("page.html.j2").read_text()
    for word in get_args(Word):
        assert f".verdict.{word.replace(' ', '-')}" in template, word


def test_the_comparison_is_shown(results: RunResults) -> None:
    comparison = TableData("a compared with b", ["figure"], [["x"]])
    assert "<figcaption>a compared with b</figcaption>" in render(results, [], comparison)


def test_folded_tables_are_counted(page: str) -> None:
    size = page[page.index('<h2 id="size">') : page.index('<h2 id="quality">')]
    assert "Details: 1 more table<" in size
    assert re.search(r"Details: \d+ more tables<", page)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("–", True),
        ("1.96x (1.91–2.02)", True),
        ("97.5% (92.9%–101.3%)", True),
        ("+1.13", True),
        ("-1.71 … -0.53", True),
        ("3.1e-05", True),
        ("66.4M", True),
        ("int8", False),
        ("", False),
        ("passed", False),
    ],
)
def test_figures_are_right_aligned(cell: str, expected: bool) -> None:
    assert is_figure(cell) is expected


class _Nesting(HTMLParser):
    """Records elements that were opened and not closed, and all ids."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
