"""`edgedistil distill`: recipe in, student out. The door of the package; below it everything takes plain values."""

from __future__ import annotations

import fcntl
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from torch import device as Device
from transformers import DistilBertForMaskedLM

from edgedistil.core import console
from edgedistil.core.errors import Interrupted, RunError, StorageError
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.recipe_diff import check_resumable
from edgedistil.core.records import (
    CorpusRecord,
    DistillRecord,
    provenance,
    read_record,
    write_record,
)
from edgedistil.core.rundir import RunDir, create_run, mark_latest, replacing, storage_errors
from edgedistil.data.batches import BatchOrder
from edgedistil.data.corpus import TokenizedCorpus
from edgedistil.distill import distributed as processes
from edgedistil.distill import memory
from edgedistil.distill import setup as preparation
from edgedistil.distill.batches import Masker, MicroBatch, micro_batches_at
from edgedistil.distill.checkpoint import Checkpoints, read_place, step_of
from edgedistil.distill.folders import link_folder, save_student
from edgedistil.distill.heldout import HeldoutJudge
from edgedistil.distill.metrics import Metrics
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.train import Objective, train
from edgedistil.models.facts import model_facts
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.teacher import Teacher, read_teacher

__all__ = ["distill", "plan"]

_HELDOUT_BATCH = 32


def distill(recipe: Recipe, *, run_name: str | None, resume: bool) -> tuple[RunDir, DistillRecord]:
    """The student of a recipe, in a run directory.

    Started by torchrun or `accelerate launch`, all processes call this; the main one writes, and all return the same.

    Args:
        run_name: Name of the run; none: the recipe's.
        resume: Go on with a run of that name; a finished one is returned as it is.
    Raises:
        RunError: The run exists (and `resume` is off), is being worked on, or was started with another recipe.
        InputError: Something in the recipe does not fit this teacher, corpus or machine.
        Interrupted: SIGINT or SIGTERM; what was done is saved.
        TrainingDiverged: A loss is NaN or infinite.
        StorageError: Something cannot be written.
    """
    name = run_name or recipe.name
    with processes.joined() as state:
        run = processes.from_main(state, lambda: _claim(recipe, name, resume))
        with _lock(run, state), _told_how_to_go_on(run, state.num_processes):
            if run.distill.exists():
                console.say(f"run {run.name} has finished already; this is its record")
                return run, read_record(run.distill, DistillRecord)
            prepared = _prepare(recipe, run, state)
            record = _train(recipe, run, prepared, state)
    return run, record


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step."""

    teacher: Teacher
    corpus: TokenizedCorpus
    student: DistilBertForMaskedLM
    layer_map: list[int]
    length: RunLength


# --- the run directory ---------------------------------------------------------------------------------


def _claim(recipe: Recipe, name: str, resume: bool) -> RunDir:
    run = create_run(name, resume=resume)
    if resume and not run.recipe.exists():
        console.say(f"there is no run '{name}' to resume: starting it")
    if run.recipe.exists():
        check_resumable(load_recipe(run.recipe), recipe, run=name)
        write_recipe(run.recipe, recipe)
    console.say(f"run {run.name} ({run.path})")
    return run


@contextmanager
def _lock(run: RunDir, state: PartialState) -> Iterator[None]:
    """One `distill` at a time works on a run; a killed one's lock is free at once."""
    if not state.is_main_process:
        yield
        return
    path = run.path.with_name(f".{run.name}.lock")
    with storage_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is distilling into run '{run.name}'",
                hint="wait for it, or start another run with --run NEW-NAME",
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):
                run.path.rmdir()  # only if nothing came of it


@contextmanager
def _told_how_to_go_on(run: RunDir, processes: int) -> Iterator[None]:
    """Whoever is interrupted, or out of space, learns how to go on."""
    command = shlex.join(["edgedistil", "distill", str(run.recipe), "--run", run.name, "--resume"])
    if processes > 1:
        command = (
            f"torchrun … -m -- {command}"  # without the dashes torchrun takes --run for its own
        )
    try:
        yield
    except Interrupted as error:
        raise Interrupted(error.message, hint=f"go on with: {command}") from error
    except StorageError as error:
        if not run.recipe.exists() or not error.message.startswith("cannot write"):
            raise
        raise StorageError(
            error.message, hint=f"{error.hint}\n  then go on with: {command}"
        ) from error
    except KeyboardInterrupt:
        if run.recipe.exists():
            raise Interrupted(
                "interrupted", hint=f"go on from the last checkpoint with: {command}"
            ) from None
        raise Interrupted(
            "interrupted before the first step",
            hint="the same command goes on from what is in the cache",
        ) from None


# --- before the first step -------------------------------------------------------------------------------


def _prepare(recipe: Recipe, run: RunDir, state: PartialState) -> Prepared:
    """Loads, checks and makes everything; the main process first, so that the others find it in the cache."""
    processes.from_main(state, lambda: _check_settings(recipe, state))
    made: list[tuple[Teacher, TokenizedCorpus]] = []
    processes.from_main(state, lambda: made.append(_begun(recipe, run)))
    teacher, corpus = made[0] if made else _teacher_and_corpus(recipe, run)
    student = preparation.made_student(recipe, teacher.model)
    length = preparation.length_of(
        recipe, corpus_tokens=corpus.train.tokens, corpus_rows=len(corpus.train)
    )
    return Prepared(teacher, corpus, student, preparation.layer_map(recipe, teacher.model), length)


def _check_settings(recipe: Recipe, state: PartialState) -> None:
    """What can be told before anything is fetched.

    Raises:
        InputError: This machine, or this number of processes, cannot do what the recipe says.
    """
    processes.check_trackers(recipe.train.trackers)
    processes.check_compiler(state.device, compiled=recipe.train.compile)
    processes.chosen_precision(recipe.train.precision, state.device)
    processes.check_batch(
        global_batch=recipe.train.global_batch,
        micro_batch=recipe.train.micro_batch,
        processes=state.num_processes,
    )


def _teacher_and_corpus(recipe: Recipe, run: RunDir) -> tuple[Teacher, TokenizedCorpus]:
    """Both as the run began with them, or as the recipe says."""
    begun = run.recipe.exists()
    if begun:
        teacher = read_teacher(run.teacher, name=preparation.teacher_name(recipe))
    else:
        teacher = preparation.loaded_teacher(recipe)
    preparation.check_fit(recipe, teacher.model)
    corpus = preparation.prepared_corpus(recipe, teacher)
    if begun:
        _check_same_corpus(run, corpus)
    return preparation.with_head(recipe, teacher, corpus), corpus


def _check_same_corpus(run: RunDir, corpus: TokenizedCorpus) -> None:
    began_with = read_record(run.corpus, CorpusRecord)
    if began_with.cache_key != corpus.record.cache_key:
        raise RunError(
            f"the corpus of run '{run.name}' has changed: a source's content is not what the run began with",
            hint="bring the text back, or start another run with --run NEW-NAME",
        )


def _begun(recipe: Recipe, run: RunDir) -> tuple[Teacher, TokenizedCorpus]:
    """Teacher and corpus, with what a run begins with written: the recipe last, so its presence means all is there."""
    teacher, corpus = _teacher_and_corpus(recipe, run)
    if run.recipe.exists():
        return teacher, corpus
    link_folder(teacher.folder, run.teacher)
    if not run.student_step0.exists():
        save_student(
            preparation.made_student(recipe, teacher.model), teacher.tokenizer, run.student_step0
        )
    if not run.heldout_text.exists():
        with replacing(run.heldout_text) as aside, storage_errors(run.heldout_text):
            aside.write_bytes(corpus.heldout_text.read_bytes())
    write_record(run.corpus, corpus.record)
    write_recipe(run.recipe, recipe)
    return teacher, corpus


# --- training ----------------------------------------------------------------------------------------------


def _train(recipe: Recipe, run: RunDir, prepared: Prepared, state: PartialState) -> DistillRecord:
    settings, loss = recipe.train, recipe.loss
    precision = processes.chosen_precision(settings.precision, state.device)
    accelerator = processes.accelerator(
        precision,
        trackers=settings.trackers,
        folder=run.path,
        # With the cosine loss alone, the student's head has no gradient.
        unused_parameters=loss.soft_target == loss.mlm == 0,
    )
    teacher_facts = model_facts(prepared.teacher.model, name=prepared.teacher.name)
    teacher = freeze_teacher(prepared.teacher.model, dtype=processes.TORCH_DTYPES[precision]).to(
        state.device
    )
    masker = _masker(recipe, prepared)
    judge = HeldoutJudge(
        _heldout_batches(recipe, prepared, masker, state.device), teacher, accelerator=accelerator
    )
    metrics = Metrics(run.metrics, writes=accelerator.is_main_process)
    checkpoints = Checkpoints(run.checkpoints, keep=settings.keep_checkpoints)
    resume_from = _place_to_resume(checkpoints, metrics, state, precision)
    student = prepared.student.to(state.device)
    if resume_from is None:
        for figures in (
            judge.judge(teacher, name="teacher", step=0),
            judge.judge(student, name="student", step=0),
        ):
            metrics.write_heldout(figures)
    order = BatchOrder(
        prepared.corpus.train,
        seed=recipe.seed,
        global_batch=settings.global_batch,
        micro_batch=settings.micro_batch,
        world_size=state.num_processes,
        rank=state.process_index,
    )
    pad_id = prepared.teacher.tokenizer.pad_token_id
    memory.reset_peak(state.device)
    place = train(
        Objective(
            student,
            teacher,
            soft_target=loss.soft_target,
            mlm=loss.mlm,
            cosine=loss.cosine,
            temperature=loss.temperature,
            positions=loss.positions,
            compiled=settings.compile,
        ),
        lambda step: micro_batches_at(step, order, masker, pad_id=pad_id, device=state.device),
        accelerator=accelerator,
        steps=prepared.length.steps,
        tokens=prepared.length.tokens,
        seed=recipe.seed,
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        clip=settings.clip,
        mean=loss.mean,
        precision=precision,
        positions=loss.positions,
        checkpoints=checkpoints,
        checkpoint_every_s=settings.checkpoint_minutes * 60,
        resume_from=resume_from,
        metrics=metrics,
        judge=lambda step: judge.judge(student, name="student", step=step),
        judge_every=settings.evaluate_every or max(1, prepared.length.steps // 10),
        diverged=run.path / "diverged",
    )
    peak = memory.peak_bytes(state.device)
    for tracker in (
        accelerator.trackers
    ):  # `end_training` would also end the process group, and we are not done
        tracker.finish()
    student = student.cpu().eval()
    heldout = metrics.heldout()
    record = DistillRecord(
        recipe_sha256=recipe.sha256,
        teacher=teacher_facts,
        student=model_facts(student, name=f"{run.name} student"),
        student_init=recipe.student.init,
        layer_map=prepared.layer_map,
        steps=place.step,
        tokens_seen=place.tokens_seen,
        seconds=place.seconds,
        tokens_per_s=place.tokens_seen / place.seconds,
        heldout=[*heldout[:2], heldout[-1]],
        precision=precision,
        processes=state.num_processes,
        peak_memory_bytes=peak,
        provenance=provenance(),
    )
    processes.from_main(state, lambda: _finish(run, student, prepared.teacher, record))
    return record


def _masker(recipe: Recipe, prepared: Prepared) -> Masker:
    return Masker(
        prepared.teacher.tokenizer,
        prepared.corpus.token_counts_V,
        kind=recipe.masking.kind,
        share=recipe.masking.share,
        rarity_exponent=recipe.masking.rarity_exponent,
        seed=recipe.seed,
    )


def _heldout_batches(
    recipe: Recipe, prepared: Prepared, masker: Masker, device: Device
) -> list[MicroBatch]:
    """Fixed rows of the held-out part, fixed masks."""
    store = prepared.corpus.heldout
    rows = max(1, min(len(store), recipe.train.heldout_tokens * len(store) // store.tokens))
    rows -= rows % _HELDOUT_BATCH if rows > _HELDOUT_BATCH else 0
    order = BatchOrder(store, seed=recipe.seed, global_batch=rows, micro_batch=_HELDOUT_BATCH)
    pad_id = prepared.teacher.tokenizer.pad_token_id
    return micro_batches_at(0, order, masker, pad_id=pad_id, device=device, purpose="heldout")


def _place_to_resume(
    checkpoints: Checkpoints, metrics: Metrics, state: PartialState, precision: processes.Precision
) -> Path | None:
    """The checkpoint to go on from, with the trace cut to it; the main process looks, all get its answer.

    Raises:
        RunError: It was computed in another precision.
    """

    def look() -> Path | None:
        checkpoints.clear_scratch()
        found = checkpoints.newest_whole()
        if found and (before := read_place(found).precision) != precision:
            raise RunError(
                f"the run was computed in {before} up to {found}, and would go on in {precision}",
                hint=f'set train.precision = "{before}", or start another run with --run NEW-NAME',
            )
        metrics.cut_after(step_of(found) if found else -1)
        if found:
            console.say(f"going on from {found}")
        return found

    return processes.from_main(state, look)


def _finish(
    run: RunDir, student: DistilBertForMaskedLM, teacher: Teacher, record: DistillRecord
) -> None:
    save_student(student, teacher.tokenizer, run.student)
    write_record(run.distill, record)
    mark_latest(run)
