"""Documents that state a fact are checked: generated pages, commands, links, cited files."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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


def update_docs() -> ModuleType:
    """The script that generates pages, imported from its file."""
    spec = importlib.util.spec_from_file_location("update_docs", ROOT / "scripts/update_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["docs/cli.md", "docs/recipe.md", "docs/families.md", "README.md"])
def test_generated_pages_are_up_to_date(page: str) -> None:
    path = ROOT / page
    generated = update_docs().PAGES[path]()
    assert path.read_text(encoding="utf-8") == generated, "run python scripts/update_docs.py"


def test_the_options_page_has_every_command() -> None:
    shown = re.findall(
        r"^\$ (edgedistil.*) --help$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE
    )
    assert {"edgedistil", "edgedistil export", "edgedistil devices show"} <= set(shown)
    assert len(shown) == len(set(shown)) >= 15


@pytest.mark.slow
def test_the_api_example_runs(tmp_path: Path) -> None:
    """The example of docs/api.md, as it is printed there."""
    (example,) = (body for page, body in blocks("python") if page.name == "api.md")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/api-example/report.html").stat().st_size > 1000
    assert "student feature-extraction fp32 True" in done.stdout


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    """Names and flags exist; nothing is run."""
    from typer.main import get_command

    from edgedistil.cli import app

    _, *arguments = shlex.split(line)
    command = get_command(app)
    # Groups such as `devices` have commands of their own.
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    with command.make_context(name, arguments) as context:
        assert context.info_name == name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_linked_files_exist(page: Path) -> None:
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
