"""Documents that state a fact are checked: help blocks are the program's, commands parse, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(kind: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == kind:
                yield page, body


def commands() -> list[tuple[str, str]]:
    """Every line in a `sh` block that calls us: page and command."""
    lines = [
        (page.name, line.split("#")[0].strip())
        for page, body in blocks("sh")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    return [(page, line) for page, line in lines if line.startswith("edgedistil ")]


def test_help_blocks_are_what_the_program_prints() -> None:
    shown = list(blocks("console"))
    assert len(shown) >= 5, "README shows the help of the commands"
    for page, body in shown:
        first, rest = body.split("\n", 1)
        assert first.startswith("$ edgedistil"), f"{page.name}: {first}"
        program = str(Path(sys.executable).with_name("edgedistil"))
        done = subprocess.run(
            [program, *shlex.split(first)[2:]],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100"},
        )
        printed = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        assert rest.strip() == printed, f"{page.name}: {first} prints something else now"


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    """Names and flags exist; nothing is run."""
    from typer.main import get_command

    from edgedistil.cli import app

    _, name, *arguments = shlex.split(line)
    group = get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, arguments) as context:
        assert context.info_name == name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_the_changelog_and_log_cite_exist() -> None:
    cited = {
        path
        for page in (ROOT / "CHANGELOG.md", ROOT / "docs" / "log.md", ROOT / "README.md")
        for path in re.findall(r"`(benchmarks/[\w./-]+)`", page.read_text(encoding="utf-8"))
    }
    assert {path for path in cited if not (ROOT / path).exists()} == set()
