"""Density and sizes of the product's modules (scripts/style_counts.py), with bounds of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.style_counts import load_style_counts

ROOT = Path(__file__).resolve().parent.parent
style_counts = load_style_counts()
COUNTS = style_counts.count_modules(style_counts.python_files([ROOT / "edgedistil"]))
# One file that is sent to boards as it is.
LONG_MODULES = {"edgedistil/runtime/runner.py"}


def test_comments() -> None:
    assert COUNTS.comments_per_hundred >= 6


def test_conditional_expressions() -> None:
    assert COUNTS.per_thousand(COUNTS.ternaries) <= 12


def test_nested_comprehensions() -> None:
    assert COUNTS.per_thousand(COUNTS.nested_comprehensions) <= 0.7


def test_module_sizes() -> None:
    long = {name for name, lines in COUNTS.module_lines.items() if lines > 450}
    assert long <= LONG_MODULES


def test_function_sizes() -> None:
    assert COUNTS.percentile(0.9) <= 25
    assert {name: lines for name, lines in COUNTS.function_lines.items() if lines > 80} == {}


def test_parameters() -> None:
    assert {name: count for name, count in COUNTS.parameters.items() if count > 8} == {}


@pytest.mark.parametrize(
    ("source", "attribute", "value"),
    [
        ("# why\nx = 1\n# section\n", "comment_lines", 2),
        ("x = 1 if y else 2\n", "ternaries", 1),
        ("x = [[b for b in a] for a in y]\n", "nested_comprehensions", 1),
        ("x = [a for a in y]\n", "nested_comprehensions", 0),
    ],
)
def test_the_counts_count(source: str, attribute: str, value: int) -> None:
    counts = style_counts.Counts()
    style_counts.count_module(counts, "x", source)
    assert getattr(counts, attribute) == value


def test_sizes_count_lines_and_parameters() -> None:
    counts = style_counts.Counts()
    style_counts.count_module(counts, "x", "def f(self, a, /, b, *, c):\n    return a\n")
    assert (list(counts.function_lines.values()), list(counts.parameters.values())) == ([2], [3])
