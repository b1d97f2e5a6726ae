"""A sample of the hostile inputs and of the kills; `make stress` runs all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from random import Random

import pytest

from tests.stress.__main__ import GROUPS
from tests.stress.case import Case, Outcome
from tests.stress.files import DAMAGES
from tests.stress.judge import problems
from tests.stress.kills import COMMANDS
from tests.stress.page import tables
from tests.stress.world import ROOT, World

CASES_PER_GROUP, KILLS = 2, 3
CASE = Case("names", "x", ("report",), expected=("runs/latest",))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sample_of_hostile_inputs_and_kills() -> None:
    command = [sys.executable, "-m", "tests.stress", "--limit", str(CASES_PER_GROUP)]
    command += ["--kills", str(KILLS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"| all | {CASES_PER_GROUP * len(GROUPS)} |" in done.stdout


# --- the cases -----------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    """As much of the sound inputs as the names of the cases depend on."""
    for name in ("corpus.json", "train/store.json", "train/shard-00000.tokens"):
        path = tmp_path / "cache" / "corpus" / "0123" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return World(tmp_path)


def all_cases(world: World, seed: int) -> list[Case]:
    modules = [import_module(f"tests.stress.{group}") for group in GROUPS]
    return [
        case
        for group, module in zip(GROUPS, modules, strict=True)
        for case in module.cases(world, Random(f"{seed}/{group}"))
    ]


def test_there_are_a_thousand_cases_of_different_names(world: World) -> None:
    names = [(case.group, case.name) for case in all_cases(world, 1)]
    assert len(names) > 1500
    assert len(set(names)) == len(names)


def test_a_seed_decides_the_cases(world: World) -> None:
    first, again, other = (all_cases(world, seed) for seed in (1, 1, 2))
    lines = [[(case.name, case.arguments) for case in cases] for cases in (first, again, other)]
    assert lines[0] == lines[1] != lines[2]
    draws = [case.random(1).random() for case in first]
    assert draws == [case.random(1).random() for case in again]


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_damage(name: str) -> None:
    data = bytes(range(1, 101))
    damaged = DAMAGES[name](data, Random(1))
    assert damaged != data
    assert damaged == DAMAGES[name](data, Random(1))


# --- the page ------------------------------------------------------------------------------------


def test_the_tables_of_the_page_are_those_of_the_counts() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text()
    (name,) = set(re.findall(r"benchmarks/results/(stress-[0-9-]+\.json)", page))
    run = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    assert tables(run) in page
    assert f"seed {run['seed']}, commit {run['commit']}" in page
    assert set(run["groups"]) == set(GROUPS)
    assert set(run["kills"]) == {command.name for command in COMMANDS}


def test_a_table_counts_problems_by_column() -> None:
    problems = {"traceback": 2, "code": 1, "echo": 1}
    groups = {"names": {"tried": 9, "passed": 5, "problems": problems}}
    kills = {"run": {"kills": {"SIGKILL": 2, "SIGINT": 1}, "passed": 3}}
    text = tables({"groups": groups, "kills": kills})
    assert "| names | 9 | 5 | 2 | 0 | 0 | 1 | 0 | 0 | 1 |" in text
    assert "| all | 3 | 2 | 0 | 1 | 3 |" in text


# --- the rules -----------------------------------------------------------------------------------


def outcome(text: str = "error: cannot read runs/latest", code: int | None = 2) -> Outcome:
    return Outcome(code, text.encode("utf-8", "surrogateescape"), 1.0)


def test_a_refusal_that_names_the_file_passes() -> None:
    assert problems(CASE, outcome()) == []


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (outcome(code=0), "code: 0 instead of 2"),
        (outcome(code=-11), "code: -11 instead of 2"),
        (outcome("Traceback (most recent call last)\n  runs/latest\nKeyError"), "traceback: "),
        (outcome("runs/latest: thread 'x' panicked at y"), "traceback: "),
        (outcome("error: no"), "message: does not contain 'runs/latest'"),
        (outcome(""), "message: there is no message"),
        (outcome("runs/latest \x1b[31m"), r"control: '\x1b' is printed"),
        (outcome("runs/latest \u202e"), r"control: '\u202e' is printed"),
        (outcome("runs/latest " + "A" * 400), "echo: 400 times 'A'"),
        (outcome("runs/latest " + "ab " * 1000), "echo: a line of "),
        (Outcome(None, b"", 60.0, ended_for="no end: after 60 s"), "no end: "),
        (Outcome(2, b"runs/latest", 1.0, outside=("/etc/x",)), "outside: wrote /etc/x"),
        (Outcome(2, b"runs/latest", 1.0, leftovers=("x",)), "TMPDIR: left x"),
        (Outcome(2, b"runs/latest", 1.0, processes=("ssh",)), "process: left ssh"),
        (Outcome(2, b"runs/latest", 1.0, wrong_files=("y",)), "files: y"),
    ],
)
def test_every_rule_can_fail(result: Outcome, kind: str) -> None:
    assert any(problem.startswith(kind) for problem in problems(CASE, result))
