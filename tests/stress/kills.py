"""Kills commands at random moments.

After every kill no process may be left, no earlier file may be lost or damaged, the second call has
to succeed, and what the killed call left behind has to be gone then. A distillation has to end with
the weights of one that was not killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TextIO

from tests.stress import processes
from tests.stress.case import Case
from tests.stress.engine import Engine, Folders
from tests.stress.world import RUN, World

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# A command that was asked to end, or whose parent was killed, has this long to end.
_END_S = 10.0
# For sound commands on a loaded machine.
_TIMEOUT_S = 900.0
# A fork hits the work more often, an interpreter of its own also the start: one in so many.
_ALONE_EVERY = 4
# Scratch folders of replaced files, and other unfinished files.
_SCRATCH = re.compile(r"\..+\.[a-z0-9_]{8}|edgedistil-tmp-.*|.*\.(?:part|tmp|incomplete)")
# Files that equal inputs make equal, byte for byte.
_DETERMINISTIC = {".onnx", ".onnx_data", ".safetensors"}
_PREFIX = ("distill", "recipe.toml", "--run", "killed")
_LONGER = ("--set", "train.steps=30", "--set", "train.evaluate_every=10")

Prepare = Callable[[World, Path], None]


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        name: Name in the table.
        arguments: The call that is killed.
        again: The call after it.
        prepare: Writes the working folder.
        compared: Files that have to be the same as after a call that was not killed.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...]
    prepare: Prepare
    compared: tuple[str, ...] = ()


def _inputs(world: World, work: Path) -> None:
    world.copy(work, "recipe.toml", "teacher", "corpus.txt", "task.toml", "train.csv", "dev.csv")


def _with_run(world: World, work: Path) -> None:
    world.copy_run(work)
    world.copy(work, "recipe.toml")


_DISTILL = (*_PREFIX, *_LONGER)
_EVALUATE = ("evaluate", "--run", RUN, "--task", "task.toml", "--seeds", "2", "--jobs", "2")
_EXPORT = ("export", "--run", RUN)
_PROFILE = ("profile", "--run", RUN, "--length", "8", "--threads", "1")
_REPORT = ("report", "--run", RUN)
_RUN = ("run", "recipe.toml", "--run", "killed")
# The quick ones first: `make test` kills only those.
COMMANDS = (
    Command(
        "distill",
        _DISTILL,
        (*_DISTILL, "--resume"),
        _inputs,
        ("runs/killed/student/model.safetensors", "runs/killed/metrics.jsonl"),
    ),
    Command(
        "export",
        _EXPORT,
        _EXPORT,
        _with_run,
        (f"runs/{RUN}/export/student-fill-mask/onnx/model_int8.onnx",),
    ),
    Command("report", _REPORT, _REPORT, _with_run),
    Command("profile", _PROFILE, _PROFILE, _with_run),
    Command("evaluate", _EVALUATE, _EVALUATE, _with_run),
    Command("run", _RUN, _RUN, _inputs, ("runs/killed/student/model.safetensors",)),
)


@dataclass
class Tally:
    """Counts of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    passed: int = 0


class Killer:
    """Kills commands and examines what remains."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.seed = engine, seed
        # Seconds of a call that is not killed, and the digests of its compared files.
        self._references: dict[tuple[str, bool], tuple[float, dict[str, str]]] = {}

    def kill(self, command: Command, number: int) -> tuple[str, list[str]]:
        """Kills a command once.

        Returns:
            Name of the signal and the moment; problems.
        """
        random = Random(f"{self.seed}/{command.name}/{number}")
        chosen_signal = SIGNALS[number % len(SIGNALS)]
        alone = number % _ALONE_EVERY == _ALONE_EVERY - 1
        duration, reference = self._reference(command, alone)
        # A machine that was busy before may be quick now: earlier until the command is hit.
        for attempt in range(20):
            moment = duration * random.uniform(0, 1.0) * 0.8**attempt
            folders = self._prepared(command)
            before = digests(folders.work)
            code = self._call_and_kill(command, folders, alone, chosen_signal, moment)
            if code != 0:
                break
        description = f"{chosen_signal.name} after {moment:.2f} s" + (" (alone)" if alone else "")
        return description, list(
            self._problems(command, folders, before, reference, code=code, alone=alone)
        )

    def _reference(self, command: Command, alone: bool) -> tuple[float, dict[str, str]]:
        key = (command.name, alone)
        if key not in self._references:
            folders = self._prepared(command)
            case = Case("kills", command.name, command.arguments, (0,), alone=alone)
            outcome = self.engine.run_in(case, folders, timeout_s=_TIMEOUT_S)
            if outcome.code != 0:
                text = outcome.output.decode("utf-8", "replace")[-2000:]
                raise RuntimeError(f"{command.name} failed without a kill: {text}")
            self._references[key] = outcome.seconds, _compared(command, folders.work)
        return self._references[key]

    def _prepared(self, command: Command) -> Folders:
        folders = Folders.create(self.engine.root / "killed")
        command.prepare(self.engine.world, folders.work)
        return folders

    def _call_and_kill(
        self, command: Command, folders: Folders, alone: bool, number: signal.Signals, moment: float
    ) -> int | None:
        """Returns the exit code, negative for a signal; None if it did not end."""
        case = Case("kills", command.name, command.arguments, alone=alone)
        pid = self.engine.start(case, folders, folders.base / "output")
        limit = 2**62
        status, _peak, _cpu = processes.wait_for(pid, timeout_s=moment, limit_bytes=limit)
        if status is None:
            # Ctrl-C reaches the processes of a terminal's group, other signals one process.
            if number is signal.SIGINT:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
            status, _peak, _cpu = processes.wait_for(pid, timeout_s=_END_S, limit_bytes=limit)
        return None if status is None else os.waitstatus_to_exitcode(status)

    def _problems(
        self,
        command: Command,
        folders: Folders,
        before: Mapping[str, str],
        reference: Mapping[str, str],
        *,
        code: int | None,
        alone: bool,
    ) -> Iterator[str]:
        remaining = processes.survivors(os.getpid(), within_s=_END_S)
        yield from (f"process: {processes.command_line(pid)} remained" for pid in remaining)
        processes.end_descendants(os.getpid())
        output = (folders.base / "output").read_text(errors="replace")
        # Before the first line of ours runs, Python itself answers a signal.
        if not alone and code not in (130, -signal.SIGKILL):
            yield f"code: {code} instead of 130: {output[-300:]}"
        if not alone and "Traceback" in output:
            yield f"traceback: {output[-300:]}"

        # Nothing earlier may be lost; what was replaced has to be complete.
        after = digests(folders.work)
        yield from _losses(before, after, folders.work)

        case = Case("kills", command.name, command.again, (0,))
        outcome = self.engine.run_in(case, folders, timeout_s=_TIMEOUT_S)
        if outcome.code != 0:
            # A distillation that was killed before its run existed cannot be resumed.
            text = outcome.output.decode("utf-8", "replace")[-400:]
            yield f"second call: exit code {outcome.code}: {text}"
            return
        yield from (f"scratch: {name} remained" for name in _scratch(folders))
        yield from (f"TMPDIR: {name} remained" for name in outcome.leftovers)
        yield from (f"outside: wrote {path}" for path in outcome.outside)
        yield from (f"process: {line} remained" for line in outcome.processes)
        final = digests(folders.work)
        yield from _losses(before, final, folders.work)
        replaced = [name for name in before if after.get(name) not in (None, before[name])]
        for name in replaced:
            is_new = final.get(name) == after[name]
            if Path(name).suffix in _DETERMINISTIC and not is_new:
                yield f"half: {name} was neither the old nor the new version"
        for name, digest in _compared(command, folders.work).items():
            if digest != reference[name]:
                yield f"differs: {name} is not what a call without a kill writes"


def digests(folder: Path) -> dict[str, str]:
    """Returns relative path → sha256 of all files in a folder, scratch excluded."""
    result = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(_SCRATCH.fullmatch(part) for part in Path(name).parts):
            result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def _losses(before: Mapping[str, str], after: Mapping[str, str], work: Path) -> Iterator[str]:
    """Yields earlier files that are missing, or that were replaced by half a file."""
    for name, digest in before.items():
        # Old checkpoints are removed when newer ones are complete.
        if name not in after and "checkpoints" not in name:
            yield f"loss: {name} is gone"
        if after.get(name) in (None, digest) or not name.endswith(".json"):
            continue
        try:
            json.loads((work / name).read_text())
        except ValueError:
            yield f"loss: {name} is not complete"


def _compared(command: Command, work: Path) -> dict[str, str]:
    result = {}
    for name in command.compared:
        text = (work / name).read_bytes()
        if name.endswith(".jsonl"):
            # Times differ; losses and steps may not.
            text = re.sub(rb'"(?:seconds|tokens_per_s|time)": [0-9.e+-]+', b"", text)
        result[name] = hashlib.sha256(text).hexdigest()
    return result


def _scratch(folders: Folders) -> list[str]:
    """Returns unfinished files in the working folder and the cache."""
    paths = [*folders.work.rglob("*"), *folders.cache.rglob("*")]
    return sorted(
        str(path.relative_to(folders.base)) for path in paths if _SCRATCH.fullmatch(path.name)
    )


def run_kills(
    engine: Engine, terminal: TextIO, *, seed: int, number: int, only: str | None = None
) -> dict[str, Tally]:
    """Kills the commands in turn and prints what was wrong.

    Args:
        engine: With its sound inputs.
        terminal: For the lines that are printed.
        seed: Seed of all moments.
        number: Number of kills, over all commands.
        only: A single kill, as `command:number`.
    """
    killer = Killer(engine, seed)
    tallies = {command.name: Tally() for command in COMMANDS}
    for command, index in _selected(number, only):
        description, problems = killer.kill(command, index)
        tally = tallies[command.name]
        tally.kills.update([description.split()[0]])
        tally.passed += not problems
        if problems:
            lines = [f"FAILED kill {command.name} {index}: {description}"]
            lines += [f"    {problem[:600]}" for problem in problems]
            again = f"python -m tests.stress --seed {seed} --kill {command.name}:{index} --keep"
            terminal.write("\n".join([*lines, f"    again: {again}", ""]))
    return tallies


def print_kills(tallies: Mapping[str, Tally], terminal: TextIO) -> None:
    """Prints a table of the kills."""
    terminal.write("\n| command | kills | SIGKILL | SIGTERM | SIGINT | passed |\n")
    terminal.write("|---" * 6 + "|\n")
    total = Tally()
    for tally in tallies.values():
        total.kills += tally.kills
        total.passed += tally.passed
    for name, tally in [*tallies.items(), ("all", total)]:
        counts = [str(tally.kills[number.name]) for number in SIGNALS]
        cells = [name, str(tally.kills.total()), *counts, str(tally.passed)]
        terminal.write(f"| {' | '.join(cells)} |\n")


def _selected(number: int, only: str | None) -> list[tuple[Command, int]]:
    if only is not None:
        name, _, index = only.partition(":")
        return [(command, int(index)) for command in COMMANDS if command.name == name]
    count = len(COMMANDS)
    # Command after command, so that the durations of a command were measured under like load. The
    # shift gives all signals to the first kills of every command.
    return [
        (command, index)
        for position, command in enumerate(COMMANDS)
        for index in range(position, position + len(range(position, number, count)))
    ]
