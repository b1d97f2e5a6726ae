"""The counts of a stress run: as JSON, and as the tables of docs/robustness.md.

`python -m tests.stress.page FILE.json` prints the tables of a file that `--json` wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedistil.core.records import this_host
from tests.stress.world import ROOT

# Column → the kinds of problems that it counts; the first problem of a case is counted.
COLUMNS: dict[str, tuple[str, ...]] = {
    "traceback": ("traceback",),
    "no end in 60 s": ("no end",),
    "over 4 GiB": ("memory",),
    "wrong code": ("code",),
    "left process": ("process",),
    "left scratch": ("TMPDIR", "outside"),
    "other": ("prepare", "message", "control", "echo", "files"),
}
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


def describe_run(
    *,
    seed: int,
    seconds: float,
    groups: Mapping[str, Mapping[str, Any]],
    kills: Mapping[str, Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns what the JSON file of a run holds.

    Args:
        seed: Seed of the cases and of the moments of the kills.
        seconds: Duration of the run.
        groups: Group → tried, passed, and problems by kind.
        kills: Command → number of kills by signal, and passed.
        failures: What was wrong, case by case.
    """
    host = this_host()
    return {
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "seed": seed,
        "host": {"cpu": host.cpu, "cores": host.cores, "system": host.system},
        "seconds": round(seconds),
        "groups": groups,
        "kills": kills,
        "failures": failures,
    }


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def tables(run: Mapping[str, Any]) -> str:
    """Returns the two tables of a run as Markdown."""
    return f"{_case_table(run['groups'])}\n\n{_kill_table(run['kills'])}"


def _case_table(groups: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, group in groups.items():
        problems = group["problems"]
        counts = [sum(problems.get(kind, 0) for kind in kinds) for kinds in COLUMNS.values()]
        rows.append((name, [group["tried"], group["passed"], *counts]))
    return _table(["group", "cases", "passed", *COLUMNS], rows)


def _kill_table(kills: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, tally in kills.items():
        counts = [tally["kills"].get(signal, 0) for signal in SIGNALS]
        rows.append((name, [sum(counts), *counts, tally["passed"]]))
    return _table(["command", "kills", *SIGNALS, "passed"], rows)


def _table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[int]]]) -> str:
    """A table with a last row of sums."""
    sums = [sum(column) for column in zip(*(counts for _, counts in rows), strict=True)]
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for name, counts in [*rows, ("all", sums)]:
        lines.append("| " + " | ".join([name, *map(str, counts)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
