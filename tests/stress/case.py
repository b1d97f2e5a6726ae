"""One hostile input: a command line, the folder that it runs in, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

# Exit codes of README.md.
DONE, UNEXPECTED, INPUT, CHECK, DEVICE = 0, 1, 2, 3, 4

Prepare = Callable[[Path, Random], None]
# Looks at the working folder afterwards; returns problems.
Check = Callable[[Path], list[str]]


def nothing(_work: Path, _random: Random) -> None:
    """Prepares nothing."""


@dataclass(frozen=True)
class Case:
    """One command line with a folder that is prepared for it.

    Attributes:
        group: Kind of input, the name of a module of this package.
        name: Unique within its group.
        arguments: Arguments of `edgedistil`.
        codes: Exit codes that are right.
        prepare: Writes files into the working folder; gets random numbers of the case's own seed.
        expected: Texts that the output contains if the exit code is not 0.
        check: Looks at the files that a successful command wrote.
        environment: Further environment variables; `{work}` in a value is the working folder, and
            `{path}` the PATH.
        alone: Whether the case needs a fresh process instead of a fork of the warm one.
    """

    group: str
    name: str
    arguments: tuple[str, ...]
    codes: tuple[int, ...] = (INPUT,)
    prepare: Prepare = nothing
    expected: tuple[str, ...] = ()
    check: Check | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False

    def random(self, seed: int) -> Random:
        """Returns random numbers that depend on the seed and the case's name only."""
        return Random(f"{seed}/{self.group}/{self.name}")


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        code: Exit code; negative for a signal; None if it had to be ended.
        output: stdout and stderr.
        seconds: Wall-clock time.
        cpu_seconds: CPU time.
        peak_bytes: Largest resident memory of one process.
        ended_for: Why it had to be ended; empty if it ended by itself.
        wrong_files: Problems that the case's own check reported.
        outside: Paths outside of the working folder, the cache and TMPDIR that were written.
        leftovers: Names that remained in TMPDIR.
        processes: Command lines of processes that remained.
    """

    code: int | None
    output: bytes
    seconds: float
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    ended_for: str = ""
    wrong_files: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
