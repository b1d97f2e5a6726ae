"""Estimates of the stages' times before they ran on this machine with the same settings.

Distillation is estimated from timed steps, as `distill --plan` does it; the other stages from texts
that the teacher encodes here, and from processes that are started here. Labelled tasks are not
estimated: their time is unknown before the first run; the list then shows it as unknown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from edgedistil.core.device import HOST
from edgedistil.core.distill_records import DistillRecord, PlanRecord
from edgedistil.core.errors import EdgeDistilError
from edgedistil.core.model_source import find_model
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_stages import Profile
from edgedistil.core.records import NotMeasured, read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.text import read_lines
from edgedistil.runtime.host import usable_threads
from edgedistil.stage_times import StageTime, last_time

if TYPE_CHECKING:
    from edgedistil.core.options import EmbedSide
    from edgedistil.evaluate.retrieval.collection import Collection

# Longest micro-batch that is timed: the estimate has to be short next to the run.
_MAX_MICRO_BATCH_S = 0.5
# Texts of each side of a collection that the teacher encodes for an estimate.
_SAMPLE = 24
# Processes that are started for an estimate.
_STARTS = 3

# What export and profile take, in starts of a process and in sentences that a model encodes, and in
# seconds where they measure for a fixed time (docs/log.md#times-of-export-and-profile).
_EXPORT_STARTS = 25
_FILE_STARTS, _FILE_TEXTS = 23, 1370
_CASE_SECONDS, _CASE_STARTS = 2.0, 4
_PREDICTION_STARTS = 12
# Time of a quantized model, and of one with logits (a guess), next to the encoder in float32.
_QUANTIZED, _FILL_MASK = 0.3, 2.0
# Blocks of a speed claim, in each of which both models encode the pairs of the process.
_BLOCKS = 4


# --- distillation --------------------------------------------------------------------------------


def estimate_distillation(recipe: Recipe, run: RunDir) -> tuple[StageTime, PlanRecord | None]:
    """Estimates what is left of a distillation from a few timed steps.

    Models, assets and files are downloaded and tokenized as the run would do it; data sets of the
    hub are estimated from their sizes.

    Args:
        recipe: The recipe.
        run: The run, which may have checkpoints.
    Returns:
        The time, and the plan that it is from; None if a size is unknown before a download.
    Raises:
        EdgeDistilError: What the distillation would raise.
    """
    from edgedistil.distill.plan.estimate import UnknownSizeError
    from edgedistil.distill.plan.plan import plan

    try:
        planned = plan(_with_present_teacher(recipe, run), max_micro_batch_s=_MAX_MICRO_BATCH_S)
    except UnknownSizeError as error:
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
    if planned.fits_head:
        how += ", without fitting the MLM head, once"
    return StageTime("distill", here.seconds * (1 - done), how), planned


def _with_present_teacher(recipe: Recipe, run: RunDir) -> Recipe:
    """The recipe, with the run's copy of its teacher if the source is no longer there."""
    if not run.recipe.exists():
        return recipe
    try:
        find_model(recipe.teacher.source, revision=recipe.teacher.revision)
    except EdgeDistilError:
        copied = run.teacher_as_given if run.teacher_as_given.exists() else run.teacher
        source = {"source": str(copied.absolute()), "revision": None}
        return recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update=source)})
    return recipe


def _teacher_folder(recipe: Recipe, run: RunDir) -> Path:
    teacher = _with_present_teacher(recipe, run).teacher
    return find_model(teacher.source, revision=teacher.revision)


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
        run: The run; its record has its models if nothing was planned.
        planned: The plan of the distillation.
    """
    last = last_time("evaluate", recipe)
    if not isinstance(last.seconds, NotMeasured):
        return last
    from edgedistil.evaluate.retrieval.stage import is_retrieval, load_collections

    tasks = recipe.evaluate.tasks
    models = _planned_models(run, planned)
    if models is None or not all(is_retrieval(task) for task in tasks):
        return last
    try:
        folder = _teacher_folder(recipe, run)
        seconds = sum(_encoding_seconds(folder, texts) for texts in load_collections(tasks))
    except EdgeDistilError as error:
        # The stage itself reports the error, with its hint, after the stages before it.
        return StageTime("evaluate", NotMeasured(not_measured=f"unknown: {error.message}"))
    passes = _evaluated_passes(recipe, models)
    return StageTime("evaluate", passes * seconds, f"from {2 * _SAMPLE} encoded texts")


def _evaluated_passes(recipe: Recipe, models: _PlannedModels) -> float:
    """Time in which all evaluated models encode a collection, next to the teacher's."""
    from edgedistil.evaluate.planning import AS_GIVEN, TEACHER, TRIMMED
    from edgedistil.evaluate.retrieval.searches import UNDISTILLED

    # As `evaluate_retrieval` adds them: the reference, the undistilled student and the baseline.
    names = {AS_GIVEN if models.fits_head else TEACHER, *recipe.evaluate.models, UNDISTILLED}
    if recipe.student.vocabulary is not None:
        names.add(TRIMMED)
    student = models.student_layers / models.teacher_layers
    # The size of a model in a folder is unknown: taken to be the teacher's.
    return sum(student if name.startswith("student") else 1.0 for name in names)


@dataclass(frozen=True)
class _PlannedModels:
    """What the later stages read of a plan, or of the record of a distillation.

    Attributes:
        student_layers, teacher_layers: Depths.
        objective: What the student learns.
        fits_head: Whether the teacher gets an MLM head first.
    """

    student_layers: int
    teacher_layers: int
    objective: str
    fits_head: bool


def _planned_models(run: RunDir, planned: PlanRecord | None) -> _PlannedModels | None:
    """Models of a run; None if they are unknown."""
    if planned is not None:
        return _PlannedModels(
            planned.student.layers, planned.teacher.layers, planned.objective, planned.fits_head
        )
    if run.distill.exists():
        record = read_record(run.distill, DistillRecord)
        return _PlannedModels(
            record.student.layers,
            record.teacher.layers,
            record.objective,
            run.teacher_as_given.exists(),
        )
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


# --- export and profile --------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """How fast this machine is, in seconds.

    Attributes:
        process: Start of a process that imports onnxruntime.
        text: The teacher encodes a sentence, on all threads.
        text_alone: The same on one thread.
    """

    process: float
    text: float
    text_alone: float

    @property
    def how(self) -> str:
        """What the estimates come from."""
        return f"roughly, from {_SAMPLE} encoded texts and {_STARTS} started processes"


def estimate_export(recipe: Recipe, run: RunDir, planned: PlanRecord | None) -> StageTime:
    """Estimates an export: as long as the last time, or from encoded texts and processes.

    Args:
        recipe: The recipe.
        run: The run; its record has its models if nothing was planned.
        planned: The plan of the distillation.
    """

    def seconds(speed: Speed, files: Sequence[float]) -> float:
        starts = _EXPORT_STARTS + _FILE_STARTS * len(files)
        return starts * speed.process + _FILE_TEXTS * sum(files) * speed.text

    return _estimate_from_speed("export", recipe, run, planned, seconds)


def estimate_profile(recipe: Recipe, run: RunDir, planned: PlanRecord | None) -> StageTime:
    """Estimates a profile: as long as the last time, or from encoded texts and processes.

    Args:
        recipe: The recipe.
        run: The run; its record has its models if nothing was planned.
        planned: The plan of the distillation.
    """

    def seconds(speed: Speed, files: Sequence[float]) -> float:
        measured = _measuring_seconds(recipe.profile, speed, files)
        predicted = _PREDICTION_STARTS * speed.process
        devices = recipe.profile.devices
        return sum(measured if device == HOST else predicted for device in devices)

    return _estimate_from_speed("profile", recipe, run, planned, seconds)


def _measuring_seconds(profile: Profile, speed: Speed, files: Sequence[float]) -> float:
    """Time of a profile that is measured on this machine."""
    from edgedistil.profiling.measured import DEFAULT_BUDGET

    seconds = 0.0
    for index, count in enumerate(profile.threads or sorted({1, usable_threads()})):
        # At the first count all pairs are encoded once, and all models compared; at the others
        # teacher and student alone.
        is_first = index == 0
        pairs = profile.sentence_pairs if is_first else profile.claim_pairs
        pair = speed.text_alone if count == 1 else speed.text
        for share in files:
            one_pass = min(pairs * share * pair, DEFAULT_BUDGET.pass_seconds)
            seconds += _CASE_SECONDS + _CASE_STARTS * speed.process + one_pass
        compared = 2 * sum(files) if is_first else sum(files[:2])
        seconds += _BLOCKS * profile.claim_pairs * compared * pair
        seconds += DEFAULT_BUDGET.processes * _CASE_STARTS * speed.process
    return seconds


def _estimate_from_speed(
    stage: str,
    recipe: Recipe,
    run: RunDir,
    planned: PlanRecord | None,
    seconds: Callable[[Speed, Sequence[float]], float],
) -> StageTime:
    """Returns the last time of a stage, or what `seconds` makes of the machine's speed."""
    last, models = last_time(stage, recipe), _planned_models(run, planned)
    if not isinstance(last.seconds, NotMeasured) or models is None:
        return last
    try:
        speed = time_machine(_teacher_folder(recipe, run))
    except EdgeDistilError as error:
        return StageTime(stage, NotMeasured(not_measured=f"unknown: {error.message}"))
    return StageTime(stage, seconds(speed, _files(recipe, models)), speed.how)


def _files(recipe: Recipe, models: _PlannedModels) -> list[float]:
    """Times of the files that are exported, next to the teacher's: its own, then the student's."""
    precisions = [name for name in recipe.export.precisions if name != "fp32"]
    quantized = [_QUANTIZED if PRECISIONS[name].integer_matmul else 1.0 for name in precisions]
    student = models.student_layers / models.teacher_layers
    files = [1.0, *(share * student for share in (1.0, *quantized))]
    if models.objective == "representation":
        return files
    # A student with an MLM head is exported for both tasks, as its teacher is.
    return [*files, *(_FILL_MASK * share for share in files)]


@lru_cache(maxsize=1)
def time_machine(folder: Path) -> Speed:
    """Times the teacher in a folder, and the start of a process.

    Raises:
        ModelError: The folder has no encoder that is supported, or no tokenizer.
    """
    from edgedistil.evaluate.retrieval.embedders import torch_embedder
    from edgedistil.evaluate.task_model import torch_threads
    from edgedistil.profiling.workload import SAMPLE_TEXT

    embedder = torch_embedder("teacher", folder)
    texts = read_lines(SAMPLE_TEXT)

    def text_seconds(threads: int | None) -> float:
        with torch_threads(threads):
            # The first call loads kernels.
            embedder.embed(texts[:1], "document")
            return _seconds(lambda: embedder.embed(texts, "document")) / len(texts)

    starts = [_seconds(_start_process) for _ in range(_STARTS)]
    return Speed(median(starts), text_seconds(None), text_seconds(1))


def _start_process() -> None:
    command = [sys.executable, "-P", "-c", "import numpy, onnxruntime"]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own arguments


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
