"""Text in records reaches terminal and Markdown as text, whichever field it is in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from edgedistil.core.errors import EdgeDistilError
from edgedistil.core.rundir import RunDir
from edgedistil.report import terminal
from edgedistil.report.load import load_results
from edgedistil.report.stage import report, show_report

MARK = (
    "_<script>x</script>[a](javascript:x)![i](http://x)`|\n\n# h\n"
    "\x1b[31m\x00\u202e **b** &lt; $\\frac$ $x"
)
EFFECTS = {"html_block", "html_inline", "link_open", "image", "code_inline", "fence", "code_block"}


def string_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all strings in parsed JSON."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from string_places(item, (*place, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from string_places(item, (*place, key))


def set_mark(value: Any, place: tuple[Any, ...]) -> None:
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] += MARK


def poison(run: RunDir, path: Path) -> int:
    """Adds the mark to every string of a record that still can be read with it."""
    original = path.read_text(encoding="utf-8")
    data = json.loads(original)
    # One place for each key is enough: the items of a list are shown alike.
    places = {re.sub(r"\d+", "", str(place)): place for place in string_places(data)}
    poisoned = 0
    for place in places.values():
        changed = json.loads(path.read_text(encoding="utf-8"))
        before = path.read_text(encoding="utf-8")
        set_mark(changed, place)
        path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            load_results(run)
            poisoned += 1
        # The value is one of a fixed set.
        except EdgeDistilError:
            path.write_text(before, encoding="utf-8")
    return poisoned


def token_types(text: str) -> list[str]:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    types: list[str] = []
    for token in parser.parse(text):
        types += [token.type, *(child.type for child in token.children or [])]
    return types


@pytest.fixture
def poisoned_run(full_run: RunDir) -> RunDir:
    count = sum(poison(full_run, path) for path in sorted(full_run.path.rglob("*.json")))
    assert count > 50
    return full_run


def test_a_poisoned_run(poisoned_run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """The Markdown report has our headings only, and the terminal no control character."""
    report(poisoned_run)
    text = poisoned_run.report.with_suffix(".md").read_text(encoding="utf-8")
    assert "javascript:x" in text
    types = token_types(text)
    assert EFFECTS & set(types) == set()
    assert types.count("heading_open") == 7
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)

    show_report(poisoned_run, against=poisoned_run)
    results = load_results(poisoned_run)
    assert results.distill is not None
    assert results.evaluation is not None
    terminal.show_distill(poisoned_run, results.distill)
    terminal.show_evaluation(poisoned_run, results.evaluation)
    terminal.show_profiles(poisoned_run, results.profiles)
    printed = capsys.readouterr()
    assert "javascript:x" in printed.out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", printed.out + printed.err)
