"""Times of the stages of `edgedistil run` on this machine, and what is left of them.

Distillation is estimated from timed steps, as `distill --plan` does it, and search quality from
texts that the teacher encodes. Other stages take as long as the last time on this machine with the
same settings; before that their time is unknown, and is said to be.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistil.core import console
from edgedistil.core.distill_records import DistillRecord, PlanRecord
from edgedistil.core.errors import EdgeDistilError, StorageError
from edgedistil.core.format import duration
from edgedistil.core.model_source import find_model
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import Figure, NotMeasured, read_record, text_sha256, this_host
from edgedistil.core.rundir import RunDir, read_json_object, write_json

if TYPE_CHECKING:
    from edgedistil.core.options import EmbedSide
    from edgedistil.evaluate.retrieval.collection import Collection

# Longest micro-batch that is timed: the estimate has to be short next to the run.
_MAX_MICRO_BATCH_S = 0.5
# Texts of each side of a collection that the teacher encodes for an estimate.
_SAMPLE = 24
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


# --- estimates -----------------------------------------------------------------------------------


def estimate_distillation(recipe: Recipe, run: RunDir) -> tuple[StageTime, PlanRecord | None]:
    """Estimates what is left of a distillation from a few timed steps.

    Downloads what the run needs, and tokenizes its text, as the run would do.

    Args:
        recipe: The recipe.
        run: The run, which may have checkpoints.
    Returns:
        The time, and the plan that it is from; None if the recipe cannot be planned.
    """
    from edgedistil.distill.plan.plan import plan

    try:
        planned = plan(recipe, max_micro_batch_s=_MAX_MICRO_BATCH_S)
    except EdgeDistilError as error:
        # The stage itself reports the error, with its hint.
        unknown = NotMeasured(not_measured=f"unknown: {error.message}")
        return StageTime("distill", unknown), None
    here = planned.devices[0]
    assert isinstance(here.seconds, float)
    # A resumed run continues from there.
    done = _steps_done(run) / planned.steps
    how = "from timed steps"
    if done > 0:
        how += f", {done:.0%} is done"
    # Its time is unknown, and the fitted head stays in the cache for later runs.
    if any(note.startswith("before the first run, an MLM head") for note in planned.notes):
        how += ", without fitting the MLM head, once"
    return StageTime("distill", here.seconds * (1 - done), how), planned


def _steps_done(run: RunDir) -> int:
    """Steps up to the newest checkpoint; 0 without one."""
    if not run.checkpoints.is_dir():
        return 0
    # The name suffices: resuming checks the files.
    names = [path.name for path in run.checkpoints.glob("step-*")]
    steps = [name.removeprefix("step-") for name in names]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def estimate_evaluation(recipe: Recipe, run: RunDir, planned: PlanRecord | None) -> StageTime:
    """Estimates an evaluation: as long as the last time, or from texts that the teacher encodes.

    Args:
        recipe: The recipe.
        run: The run; its record has the depths if nothing was planned.
        planned: The plan of the distillation.
    """
    last = last_time("evaluate", recipe)
    if not isinstance(last.seconds, NotMeasured):
        return last
    from edgedistil.evaluate.retrieval.stage import is_retrieval, load_collections

    tasks = recipe.evaluate.tasks
    depths = _depths(run, planned)
    if depths is None or not all(is_retrieval(task) for task in tasks):
        return last
    student, teacher = depths
    # The student and its undistilled layers; the teacher, also with the trimmed vocabulary.
    passes = 2 * student / teacher + (1 if recipe.student.vocabulary is None else 2)
    folder = find_model(recipe.teacher.source, revision=recipe.teacher.revision)
    seconds = sum(_encoding_seconds(folder, texts) for texts in load_collections(tasks))
    return StageTime("evaluate", passes * seconds, f"from {2 * _SAMPLE} encoded texts")


def _depths(run: RunDir, planned: PlanRecord | None) -> tuple[int, int] | None:
    """Layers of student and teacher; None if they are unknown."""
    if planned is not None:
        return planned.student.layers, planned.teacher.layers
    if run.distill.exists():
        record = read_record(run.distill, DistillRecord)
        return record.student.layers, record.teacher.layers
    return None


def _encoding_seconds(folder: Path, collection: Collection) -> float:
    """Time in which a model encodes a collection, from a sample of its texts."""
    from edgedistil.evaluate.retrieval.embedders import torch_embedder

    embedder = torch_embedder("teacher", folder)
    seconds = 0.0
    sides: tuple[tuple[EmbedSide, list[str]], ...] = (
        ("query", list(collection.queries.values())),
        ("document", list(collection.documents.values())),
    )
    for side, texts in sides:
        # Evenly over the collection: neighbours are of similar length.
        sample = texts[:: max(1, len(texts) // _SAMPLE)][:_SAMPLE]
        # The first call loads kernels.
        embedder.embed(sample[:1], side)
        began = time.monotonic()
        embedder.embed(sample, side)
        seconds += (time.monotonic() - began) * len(texts) / len(sample)
    return seconds


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
    host = this_host()
    parts = [
        stage,
        repr(getattr(recipe, stage)),
        repr(recipe.teacher),
        repr(recipe.student),
        host.cpu,
        str(host.cores),
    ]
    return cache_root() / "stage-times" / f"{text_sha256(chr(10).join(parts))[:24]}.json"


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
