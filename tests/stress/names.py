"""Names of runs: `--run`, `--against`, and what `runs/latest` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.stress.case import DONE, INPUT, Case, Prepare
from tests.stress.files import both, copies, writes
from tests.stress.values import ESCAPE, LONG
from tests.stress.world import RUN, World

GROUP = "names"
_NAMES = {
    "parent": "../outside",
    "parent twice": "../../etc",
    "absolute": "/etc",
    "the folder itself": ".",
    "above": "..",
    "slash": "a/b",
    "blank": " ",
    "empty": "",
    "dash": "-x",
    "hidden": ".hidden",
    "latest": "latest",
    "long": LONG,
    "101 letters": "a" * 101,
    "escape": ESCAPE,
    "lines": "a\nb",
    "shell": "$(touch pwned)",
    "tilde": "~root",
    "backslash": "a\\b",
    "emoji": "\U0001f600",
    "direction": "a\u202eb",
    "markup": "[/red]",
    "unknown": "nope",
    "scratch": ".small.abcdefgh",
}
_LATEST: dict[str, str | bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\0",
    "parent": "../small",
    "absolute": "/etc\n",
    "escape": ESCAPE,
    "long": LONG,
    "ten megabytes": b"a" * 10_000_000,
    "two lines": "small\nsmall\n",
    "nul": b"small\0",
    "removed run": "gone\n",
    "a file": "afile\n",
}


def cases(world: World, _random: Random) -> Iterator[Case]:
    """Yields the cases of this group."""
    run = copies(world, "runs")
    inputs = copies(world, "recipe.toml", "teacher", "corpus.txt")
    for name, value in _NAMES.items():
        # A new run may have a name that no run has yet.
        codes = (DONE,) if name == "unknown" else (INPUT,)
        report_codes = (DONE,) if name == "latest" else (INPUT,)
        yield Case(GROUP, f"report {name}", ("report", f"--run={value}"), report_codes, run)
        # An empty name is the recipe's own, if it comes from an unset variable of a shell.
        arguments = ("distill", "recipe.toml", f"--run={value}")
        yield Case(GROUP, f"distill {name}", arguments, codes, inputs)
    for name in ("parent", "unknown", "escape", "long", "empty"):
        arguments = ("report", f"--run={RUN}", f"--against={_NAMES[name]}")
        yield Case(GROUP, f"against {name}", arguments, (INPUT,), run)
    for name, content in _LATEST.items():
        prepare = both(run, writes({"runs/latest": content, "runs/afile": "x"}))
        yield Case(GROUP, f"latest {name}", ("report",), (INPUT,), prepare)
    for name, damage in (
        ("a folder", _latest_folder),
        ("a pipe", _latest_pipe),
        ("a loop", _latest_loop),
    ):
        yield Case(GROUP, f"latest is {name}", ("report",), (INPUT,), both(run, damage))
    yield from _recipe_names(inputs)
    missing = {"EDGEDISTIL_RUNS": "{work}/nope/runs"}
    yield Case(GROUP, "no runs", ("report",), (INPUT,), environment=missing)
    is_file = {"EDGEDISTIL_RUNS": "{work}/runs"}
    yield Case(
        GROUP, "runs is a file", ("report",), (INPUT,), writes({"runs": "x"}), environment=is_file
    )


def _recipe_names(inputs: Prepare) -> Iterator[Case]:
    """Yields recipes whose own name is not a name of a run."""
    for name in ("parent", "absolute", "long", "escape", "shell", "lines"):
        arguments = ("distill", "recipe.toml", "--set", f"name={_NAMES[name]!r}")
        yield Case(GROUP, f"recipe named {name}", arguments, (INPUT,), inputs)


def _latest_folder(work: Path, _random: Random) -> None:
    (work / "runs" / "latest").unlink()
    (work / "runs" / "latest").mkdir()


def _latest_pipe(work: Path, _random: Random) -> None:
    (work / "runs" / "latest").unlink()
    os.mkfifo(work / "runs" / "latest")


def _latest_loop(work: Path, _random: Random) -> None:
    (work / "runs" / "latest").unlink()
    (work / "runs" / "latest").symlink_to("latest")
