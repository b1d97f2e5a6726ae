"""Runs hostile inputs and prints a table: `python -m tests.stress --help`.

Every case is judged by the same rules (judge.py). A failure is printed with the line that runs it
again. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TextIO

from tests.stress.case import Case, Outcome
from tests.stress.engine import Engine
from tests.stress.judge import kind, problems
from tests.stress.kills import print_kills, run_kills
from tests.stress.page import describe_run
from tests.stress.session import open_session

GROUPS = (
    "recipes",
    "overrides",
    "names",
    "devices",
    "tasks",
    "models",
    "graphs",
    "texts",
    "flags",
    "ssh",
    "records",
)
# Columns of the table, in the order in which problems are counted.
KINDS = (
    "prepare",
    "traceback",
    "no end",
    "memory",
    "code",
    "message",
    "control",
    "echo",
    "files",
    "outside",
    "TMPDIR",
    "process",
)


@dataclass
class Tally:
    """Counts of one group."""

    tried: int = 0
    passed: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Runs the selected cases; returns 1 if any failed."""
    options = _read_options()
    with open_session(options.world, keep=options.keep) as (engine, terminal):
        started = time.monotonic()
        tallies, failures = _run(options, engine, terminal)
        kills = run_kills(
            engine, terminal, seed=options.seed, number=options.kills, only=options.kill
        )
        if tallies:
            _print_table(tallies, terminal)
        if options.kills or options.kill:
            print_kills(kills, terminal)
        seconds = time.monotonic() - started
        terminal.write(f"{seconds:.0f} s\n")
    if options.json:
        report = describe_run(
            seed=options.seed,
            seconds=seconds,
            groups={name: vars(tally) for name, tally in tallies.items()},
            kills={name: vars(tally) for name, tally in kills.items()},
            failures=failures,
        )
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    lost = any(tally.passed < tally.kills.total() for tally in kills.values())
    return 1 if failures or lost else 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of all cases")
    parser.add_argument("--only", action="append", choices=GROUPS, help="a group; repeatable")
    parser.add_argument("--limit", type=int, help="cases of each group, at random; 0 runs none")
    parser.add_argument("--case", help="run only the case of this name")
    parser.add_argument("--kills", type=int, default=0, help="number of kills after the cases")
    parser.add_argument("--kill", metavar="COMMAND:NUMBER", help="run only this kill")
    parser.add_argument("--keep", action="store_true", help="keep the folders of failed cases")
    parser.add_argument("--json", type=Path, help="also write counts and failures to this file")
    parser.add_argument("--world", type=Path, help="reuse the sound inputs of this folder")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    return parser.parse_args()


def _run(
    options: argparse.Namespace, engine: Engine, terminal: TextIO
) -> tuple[dict[str, Tally], list[dict[str, object]]]:
    tallies: dict[str, Tally] = {}
    failures: list[dict[str, object]] = []
    groups = [] if options.kill or options.limit == 0 else options.only or GROUPS
    for group in groups:
        tally = tallies[group] = Tally()
        for index, case in enumerate(_select(engine, group, options)):
            outcome = engine.run(case, options.seed, engine.root / "case")
            wrong = problems(case, outcome)
            tally.tried += 1
            tally.passed += not wrong
            # The first problem is the cause, the others mostly follow from it.
            tally.problems.update([kind(problem) for problem in wrong[:1]])
            if wrong or options.verbose:
                terminal.write(_describe(case, outcome, wrong, options.seed))
            if wrong:
                failures.append({"group": group, "case": case.name, "problems": wrong})
                if options.keep:
                    shutil.move(engine.root / "case", engine.root / f"failed-{group}-{index}")
        terminal.write(f"{group}: {tally.passed} of {tally.tried} passed\n")
    return tallies, failures


def _select(engine: Engine, group: str, options: argparse.Namespace) -> Sequence[Case]:
    module = import_module(f"tests.stress.{group}")
    cases: list[Case] = list(module.cases(engine.world, Random(f"{options.seed}/{group}")))
    names = Counter(case.name for case in cases)
    repeated = [name for name, count in names.items() if count > 1]
    assert not repeated, f"{group}: names of several cases: {repeated}"
    if options.case is not None:
        return [case for case in cases if case.name == options.case]
    if options.limit is not None and options.limit < len(cases):
        cases = Random(f"{options.seed}/limit/{group}").sample(cases, options.limit)
    return cases


def _describe(case: Case, outcome: Outcome, wrong: list[str], seed: int) -> str:
    words = " ".join(
        word[:80] if word.isprintable() else ascii(word[:80]) for word in case.arguments
    )
    lines = [
        f"{'FAILED' if wrong else 'passed'} {case.group}: {case.name}"
        f" ({outcome.seconds:.1f} s, {outcome.peak_bytes / 2**20:.0f} MiB, exit {outcome.code})",
        f"    edgedistil {words}",
    ]
    if wrong:
        lines += [f"    {problem}" for problem in wrong]
        lines.append(
            f"    again: python -m tests.stress --seed {seed} --only {case.group}"
            f" --keep --case {case.name!r}"
        )
        text = outcome.output.decode("utf-8", "replace").strip().splitlines()[-4:]
        lines += [f"    | {line[:300]!a}" for line in text]
    return "\n".join(lines) + "\n"


def _print_table(tallies: dict[str, Tally], terminal: TextIO) -> None:
    columns = [kind for kind in KINDS if any(t.problems[kind] for t in tallies.values())]
    terminal.write("\n| " + " | ".join(["group", "tried", "passed", *columns]) + " |\n")
    terminal.write("|---" * (len(columns) + 3) + "|\n")
    total = Tally()
    for tally in tallies.values():
        total.tried += tally.tried
        total.passed += tally.passed
        total.problems += tally.problems
    for name, tally in [*tallies.items(), ("all", total)]:
        cells = [name, str(tally.tried), str(tally.passed)]
        cells += [str(tally.problems[kind] or "") for kind in columns]
        terminal.write("| " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    sys.exit(main())
