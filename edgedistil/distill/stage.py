"""`edgedistil distill`: distils a recipe's student into a run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator, PartialState

from edgedistil.core import console
from edgedistil.core.digests import run_digests
from edgedistil.core.distill_records import (
    DistillRecord,
    HeldoutFigures,
    ModelFacts,
    PrecisionRecord,
)
from edgedistil.core.errors import RunError, StorageError, TrainingDiverged
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import Count, provenance, read_record, write_record
from edgedistil.core.rundir import RunDir, mark_latest
from edgedistil.distill import memory
from edgedistil.distill.checkpoint import Checkpoints, TrainingProgress, read_progress, step_of
from edgedistil.distill.distributed import (
    Precision,
    build_accelerator,
    process_group,
    resolve_precision,
    run_on_main,
)
from edgedistil.distill.initialize import (
    PreparedRun,
    claim_run,
    lock_run,
    prepare_run,
    update_recipe,
    with_resume_hint,
)
from edgedistil.distill.learning import Learning, open_learning, trial_objective
from edgedistil.distill.metrics import Metrics
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.precision_trial import TriedShape, faster, has_choice, try_precisions
from edgedistil.distill.state_cache import remove_folder
from edgedistil.distill.train import Trainer, TrainingOutputs
from edgedistil.models.facts import model_facts

__all__ = ["distill", "plan"]

# File of a run whose precision was chosen by a trial: a PrecisionRecord.
PRECISION_FILE = "precision.json"


def distill(recipe: Recipe, *, run_name: str | None, resume: bool) -> tuple[RunDir, DistillRecord]:
    """Distils the student of a recipe into a run directory.

    Under torchrun or `accelerate launch` all processes call this. The main one writes, and all
    return the same record.

    Args:
        recipe: The recipe.
        run_name: Name of the run; None: the recipe's.
        resume: Continue the run of that name. A finished one is returned as it is.
    Raises:
        RunError: The run exists (and `resume` is off), is in use, or had another recipe.
        InputError: Something in the recipe does not fit the teacher, the corpus or the machine.
        Interrupted: SIGINT or SIGTERM; a checkpoint was saved.
        TrainingDiverged: A loss is NaN or infinite.
        StorageError: Something cannot be written.
    """
    name = recipe.name if run_name is None else run_name
    with process_group() as state:
        run = run_on_main(state, lambda: claim_run(name, resume=resume))
        with lock_run(run, state), with_resume_hint(run, processes=state.num_processes):
            run_on_main(state, lambda: update_recipe(recipe, run))
            if run.distill.exists():
                console.say(f"run {run.name} is finished already; this is its record")
                record = read_record(run.distill, DistillRecord)
                # A kill after the record may have left them.
                run_on_main(state, lambda: remove_folder(run.teacher_states))
                return run, record
            prepared = prepare_run(recipe, run, state)
            try:
                record = _train(recipe, run, prepared, state)
            except TrainingDiverged:
                # No later session of the run gets past the step, and they may be many GiB.
                if state.is_main_process:
                    remove_folder(run.teacher_states)
                raise
    return run, record


# --- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Session:
    """Models, batches and outputs of one session of a run, on the device of this process."""

    precision: Precision
    accelerator: Accelerator
    learning: Learning
    outputs: TrainingOutputs


def _train(
    recipe: Recipe, run: RunDir, prepared: PreparedRun, state: PartialState
) -> DistillRecord:
    """Trains the student of a prepared run, saves it and writes the record."""
    # The facts come first: a session casts the teacher's weights in place.
    teacher = prepared.full_teacher.model
    if prepared.kind == "representation":
        # Without the untrained head that it is loaded with.
        teacher = teacher.base_model
    teacher_facts = model_facts(teacher, name=prepared.teacher.name)
    session = _open_session(recipe, run, prepared, state)

    # Find the checkpoint to resume from; a new run starts with the figures of both models.
    checkpoint = _checkpoint_to_resume(session, state)
    if checkpoint is None:
        session.outputs.metrics.write_heldout(session.learning.evaluate("teacher", 0))
        session.outputs.metrics.write_heldout(session.outputs.evaluate(0))

    # Train the student.
    memory.reset_peak(state.device)
    trainer = Trainer(
        session.learning.objective,
        recipe.train,
        length=prepared.length,
        seed=recipe.seed,
        accelerator=session.accelerator,
        outputs=session.outputs,
    )
    if checkpoint is not None:
        trainer.resume(checkpoint)
    progress = trainer.train(
        session.learning.batches.training(
            recipe.train, world_size=state.num_processes, rank=state.process_index
        )
    )
    peak = memory.peak_bytes(state.device)
    _finish_trackers(session.accelerator)

    # Save the student and the record.
    student_facts = model_facts(session.learning.objective.student, name=f"{run.name} student")
    record = _record(
        recipe, prepared, progress, session, facts=(teacher_facts, student_facts), peak_bytes=peak
    )
    return run_on_main(state, lambda: _finish_run(run, session.learning, record))


def _open_session(
    recipe: Recipe, run: RunDir, prepared: PreparedRun, state: PartialState
) -> _Session:
    """Moves the models to the device, and computes the teacher's outputs on held-out text."""
    settings = recipe.train
    precision = run_on_main(state, lambda: _run_precision(recipe, run, prepared, state))
    accelerator = build_accelerator(
        precision,
        trackers=settings.trackers,
        folder=run.path,
        # With losses on states alone, the layers behind the states have no gradient.
        unused_parameters=_leaves_parameters(recipe, prepared),
    )
    learning = open_learning(
        recipe, prepared, accelerator=accelerator, precision=precision, device=state.device
    )
    outputs = TrainingOutputs(
        metrics=Metrics(run.metrics, writes=accelerator.is_main_process),
        checkpoints=Checkpoints(run.checkpoints, keep=settings.keep_checkpoints),
        diverged=run.path / "diverged",
        evaluate=lambda step: learning.evaluate("student", step),
    )
    return _Session(precision, accelerator, learning, outputs)


def _run_precision(
    recipe: Recipe, run: RunDir, prepared: PreparedRun, state: PartialState
) -> Precision:
    """The recipe's precision, or the one that a trial at the start of the run chose."""
    requested = recipe.train.precision
    # A run keeps its first choice on any machine: a checkpoint is of one precision.
    file = run.path / PRECISION_FILE
    if requested == "auto" and file.exists():
        return read_record(file, PrecisionRecord).precision
    if requested != "auto" or not has_choice(state.device):
        return resolve_precision(requested, state.device)
    # Also one from before there were trials.
    if any(run.checkpoints.glob("step-*")):
        return resolve_precision(requested, state.device)

    length = prepared.length.tokens_per_step / recipe.train.global_batch
    shape = TriedShape(recipe.train.micro_batch, max(1, round(length)), recipe.masking.share)
    seconds = try_precisions(
        lambda tried: trial_objective(recipe, prepared, tried, rows=shape.rows), shape
    )
    fastest = faster(seconds)
    times = ", ".join(f"{1000 * took:.0f} ms in {name}" for name, took in seconds.items())
    uncompiled = " (without train.compile)" if recipe.train.compile else ""
    console.say(
        f"precision {fastest}: a pass of {shape.rows} × {shape.length} tokens takes "
        f"{times}{uncompiled}"
    )
    record = PrecisionRecord(
        precision=fastest,
        seconds=seconds,
        rows=shape.rows,
        length=shape.length,
        provenance=provenance(),
    )
    write_record(file, record)
    return fastest


def _leaves_parameters(recipe: Recipe, prepared: PreparedRun) -> bool:
    """Whether some of the trained parameters have no gradient with the recipe's losses."""
    if prepared.kind == "mlm":
        return recipe.loss.soft_target == recipe.loss.mlm == 0
    return recipe.objective.vector == recipe.objective.similarity == 0


def _checkpoint_to_resume(session: _Session, state: PartialState) -> Path | None:
    """Returns the newest intact checkpoint, with the trace truncated to it; None for a new run."""

    def find() -> Path | None:
        checkpoints, metrics = session.outputs.checkpoints, session.outputs.metrics
        checkpoints.remove_unfinished()
        checkpoint = checkpoints.newest_intact()
        if checkpoint is None:
            metrics.truncate_after(-1)
            return None
        _check_same_precision(checkpoint, session.precision)
        metrics.truncate_after(step_of(checkpoint))
        console.say(f"resuming from {checkpoint}")
        return checkpoint

    # The main process truncates the trace; all resume from the checkpoint that it found.
    return run_on_main(state, find)


def _check_same_precision(checkpoint: Path, precision: Precision) -> None:
    """Raises RunError if a checkpoint was computed in another precision."""
    # `auto` can resolve to another precision on another machine.
    before = read_progress(checkpoint).precision
    if before != precision:
        raise RunError(
            f"the run was computed in {before} up to {checkpoint}, "
            f"and would continue in {precision}",
            hint=f'set train.precision = "{before}", or start another run with --run NEW-NAME',
        )


def _finish_trackers(accelerator: Accelerator) -> None:
    # Not `end_training`: it also ends the process group, which other processes still need
    # (docs/log.md#ending-the-process-group).
    for tracker in accelerator.trackers:
        tracker.finish()


# --- the result ----------------------------------------------------------------------------------


def _record(
    recipe: Recipe,
    prepared: PreparedRun,
    progress: TrainingProgress,
    session: _Session,
    *,
    facts: tuple[ModelFacts, ModelFacts],
    peak_bytes: Count,
) -> DistillRecord:
    """The record of a finished run.

    Args:
        facts: Of the teacher as loaded, and of the trained student.
    """
    teacher_facts, student_facts = facts
    evaluations = session.outputs.metrics.heldout()
    return DistillRecord(
        recipe_sha256=recipe.sha256,
        teacher=teacher_facts,
        student=student_facts,
        student_init=recipe.student.init,
        layer_map=prepared.layer_map,
        objective=prepared.kind,
        answers_sha256=_answers_sha256(prepared),
        steps=progress.step,
        tokens_seen=progress.tokens_seen,
        seconds=progress.seconds,
        tokens_per_s=progress.tokens_seen / progress.seconds,
        # The teacher, the student at step 0, and the student now.
        heldout=[
            _evaluation(evaluations, "teacher", step=0),
            _evaluation(evaluations, "student", step=0),
            _evaluation(evaluations, "student", step=progress.step),
        ],
        precision=session.precision,
        processes=session.accelerator.num_processes,
        peak_memory_bytes=peak_bytes,
        provenance=provenance(),
    )


def _answers_sha256(prepared: PreparedRun) -> str | None:
    if prepared.sentence is None or prepared.sentence.answers is None:
        return None
    return prepared.sentence.answers.sha256


def _evaluation(evaluations: Sequence[HeldoutFigures], model: str, *, step: int) -> HeldoutFigures:
    """Returns the last evaluation of a model at a step; raises StorageError without one."""
    matches = [figures for figures in evaluations if (figures.model, figures.step) == (model, step)]
    if not matches:
        raise StorageError(
            f"metrics.jsonl has no held-out evaluation of the {model} at step {step}",
            hint="restore the file from a copy, or start another run with --run NEW-NAME",
        )
    return matches[-1]


def _finish_run(run: RunDir, learning: Learning, record: DistillRecord) -> DistillRecord:
    """Saves the student, then the record: a run with a record is finished."""
    learning.save(run.student)
    folders = (*run.teachers, run.student_step0, run.student)
    record = record.model_copy(update={"files": run_digests(run, folders)})
    write_record(run.distill, record)
    mark_latest(run)
    # Only later passes over the text need them.
    remove_folder(run.teacher_states)
    return record
