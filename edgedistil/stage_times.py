"""Times of the stages of `edgedistil run` on this machine, and what is left of them.

A stage takes as long as the last time on this machine with the same settings; before that it is
estimated (`stage_estimates`), or unknown; the list then shows it as unknown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import StorageError
from edgedistil.core.format import duration
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import Figure, NotMeasured, text_sha256, this_host
from edgedistil.core.rundir import read_json_object, write_json
from edgedistil.runtime.host import usable_threads

# Folders of the NVIDIA driver, one for each GPU.
_GPUS = Path("/proc/driver/nvidia/gpus")
_NEVER = NotMeasured(not_measured="unknown: never run here with these settings")


@dataclass(frozen=True)
class StageTime:
    """Expected time of a stage.

    Attributes:
        stage: Name of the stage.
        seconds: Estimate, or why it is absent.
        how: What the estimate comes from.
    """

    stage: str
    seconds: Figure
    how: str = ""

    def in_words(self) -> str:
        """Returns the time with its basis, for the list of stages."""
        if isinstance(self.seconds, NotMeasured):
            return self.seconds.not_measured
        return f"about {duration(self.seconds)} ({self.how})"


# --- times of earlier runs -----------------------------------------------------------------------


def last_time(stage: str, recipe: Recipe) -> StageTime:
    """Returns the time that a stage took the last time on this machine with the same settings."""
    file = _time_file(stage, recipe)
    if not file.is_file():
        return StageTime(stage, _NEVER)
    try:
        seconds = float(read_json_object(file, hint="remove it")["seconds"])
    except (StorageError, KeyError, TypeError, ValueError):
        # An estimate is not worth a failed run.
        return StageTime(stage, NotMeasured(not_measured=f"unknown: {file} is corrupt"))
    return StageTime(stage, seconds, "as the last time here")


def _time_file(stage: str, recipe: Recipe) -> Path:
    """File of the time that a stage took; another machine or other settings have another one."""
    # What a time depends on, as far as it is known beforehand.
    # The objective decides which files there are, and with the export what is profiled.
    sections = [stage, "teacher", "student", "objective"]
    if stage == "profile":
        sections.append("export")
    settings = [repr(getattr(recipe, section)) for section in sections]
    parts = [stage, *settings, this_host().cpu, str(usable_threads()), *_gpu_names()]
    return cache_root() / "stage-times" / f"{text_sha256(chr(10).join(parts))[:24]}.json"


def _gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs of this machine; other GPUs are not among them."""
    # The driver's own list: asking PyTorch would load it.
    names: list[str] = []
    for file in sorted(_GPUS.glob("*/information")):
        with suppress(OSError, UnicodeDecodeError):
            lines = file.read_text(encoding="utf-8").splitlines()
            names += [line for line in lines if line.startswith("Model:")]
    return names


# --- the countdown -------------------------------------------------------------------------------


class Countdown:
    """Says before each stage how long it will take, and what is left in all."""

    def __init__(self, recipe: Recipe, times: Sequence[StageTime]) -> None:
        """Prints nothing yet.

        Args:
            recipe: The recipe of the run.
            times: Expected times of the stages that are still to be run, in order.
        """
        self._recipe, self._left = recipe, list(times)
        self._count = len(self._left)

    def announce(self) -> None:
        """Prints the stages with their times; nothing if all are done."""
        if not self._left:
            return
        console.say("stages and their times on this machine, estimated; downloads are not in them:")
        for expected in self._left:
            console.say(f"  {expected.stage}: {expected.in_words()}")
        console.say(f"  in all: {_in_all(self._left)}")

    @contextmanager
    def stage(self, name: str, *, is_resumed: bool = False) -> Iterator[None]:
        """Prints the time of a stage and what is left; remembers how long it took.

        Args:
            name: Name of the stage.
            is_resumed: Whether a part of it was done before; the time of the rest is not kept.
        """
        expected = next((entry for entry in self._left if entry.stage == name), None)
        if expected is None:
            yield
            return
        number = self._count - len(self._left) + 1
        console.say(f"stage {number} of {self._count}: {name}; left in all: {_in_all(self._left)}")
        # A stage that fails leaves no time: it was not run to its end.
        began = time.monotonic()
        yield
        self._left.remove(expected)
        # Steps of a distillation are timed anyway.
        if name == "distill" or is_resumed:
            return
        # The stage is done: a cache that cannot be written costs the next estimate only.
        with suppress(StorageError):
            write_json(_time_file(name, self._recipe), {"seconds": time.monotonic() - began})


def _in_all(times: Sequence[StageTime]) -> str:
    """Sum of the known times, with the stages of unknown time."""
    known = [entry.seconds for entry in times if not isinstance(entry.seconds, NotMeasured)]
    unknown = [entry.stage for entry in times if isinstance(entry.seconds, NotMeasured)]
    parts = [f"about {duration(sum(known))}"] if known else []
    if unknown:
        parts.append(f"{', '.join(unknown)} (unknown)")
    return ", and ".join(parts)
