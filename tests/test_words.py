"""Wording: plain technical English in code, messages, tests and pages (scripts/style_counts.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.style_counts import load_style_counts

ROOT = Path(__file__).resolve().parent.parent
style_counts = load_style_counts()
PYTHON = sorted(
    path
    for folder in ("edgedistil", "tests", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
    if path.name not in style_counts.WORD_LISTS
)
PAGES = sorted(
    path for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks") for path in folder.glob("*.md")
)
RECIPES = sorted(
    path
    for folder in ("recipes", "devices", "edgedistil")
    for path in (ROOT / folder).rglob("*.toml")
)


def listed(findings: list[object]) -> str:
    return "\n".join(map(str, findings))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_wording_in_code(path: Path) -> None:
    findings = list(style_counts.banned_in_python(path, path.read_text(encoding="utf-8")))
    assert not findings, listed(findings)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_wording_in_pages(path: Path) -> None:
    findings = list(style_counts.banned_in_markdown(path, path.read_text(encoding="utf-8")))
    assert not findings, listed(findings)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_wording_in_toml(path: Path) -> None:
    findings = list(style_counts.banned_in_text(path, path.read_text(encoding="utf-8")))
    assert not findings, listed(findings)


def test_every_kind_of_file_is_checked() -> None:
    assert len(PYTHON) > 300
    assert {"README.md", "CHANGELOG.md", "log.md"} <= {path.name for path in PAGES}
    assert len(RECIPES) > 20


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('"""Tells what the loop eats."""', "Tells"),
        ("x = 1  # stands beside the recipe", "stands"),
        ('raise ValueError("x is no multiple of 8")', "is no multiple"),
        ('raise ValueError(f"{x} was held against PyTorch")', "held against"),
        ("for each in layers:\n    pass", "name each"),
        ("def f(given):\n    pass", "name given"),
        ("def tell_problems():\n    pass", "name tell_problems"),
        ("class TamedBoard:\n    pass", "name TamedBoard"),
    ],
)
def test_the_check_of_code_can_fail(source: str, text: str) -> None:
    findings = list(style_counts.banned_in_python(Path("x.py"), source))
    assert text in [finding.text for finding in findings]


def test_a_finding_names_the_place_and_a_replacement() -> None:
    source = 'x = 1\n"""An untold version."""'
    (finding,) = style_counts.banned_in_python(Path("x.py"), source)
    assert str(finding) == "x.py:2: 'untold': write unknown"


def test_the_check_of_pages_can_fail_and_skips_code() -> None:
    page = "It lies there.\n\n```\nit lies here\n```\nand `lies` here\n"
    (finding,) = style_counts.banned_in_markdown(Path("x.md"), page)
    assert (finding.line, finding.text) == (1, "lies")


def test_plain_wording_passes() -> None:
    source = '"""Returns the record; there is no cache."""\n# It is no longer needed.\nrecord = 1'
    assert list(style_counts.banned_in_python(Path("x.py"), source)) == []
