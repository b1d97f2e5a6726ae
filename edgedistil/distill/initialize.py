"""The run directory before the first step: created, locked, and filled with what a run starts from.

Teacher, checks, corpus and head come first and the recipe is written last, so a recipe that does
not fit leaves no files (docs/decisions.md#preparing-comes-before-creating-the-run).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.digests import require_initial_files
from edgedistil.core.errors import Interrupted, RunError, StorageError
from edgedistil.core.fetch import file_lock
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Recipe, Train, load_recipe, write_recipe
from edgedistil.core.recipe_diff import check_resumable
from edgedistil.core.records import CorpusRecord, read_record, write_record
from edgedistil.core.rundir import (
    RunDir,
    create_run,
    replacing,
    run_digests,
    storage_errors,
    write_json,
)
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill import distributed, setup
from edgedistil.distill.folders import link_folder, save_student
from edgedistil.distill.schedule import RunLength
from edgedistil.models.teacher import Teacher, read_teacher


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a run needs before its first step.

    Attributes:
        teacher: The teacher with its MLM head.
        corpus: The corpus, tokenized with the teacher's tokenizer.
        student: The student as it is before the first step.
        layer_map: Teacher layers that the student's layers start from.
        length: Length of the run.
    """

    teacher: Teacher
    corpus: TokenizedCorpus
    student: PreTrainedModel
    layer_map: list[int]
    length: RunLength


# --- the run directory ---------------------------------------------------------------------------


def claim_run(recipe: Recipe, name: str, *, resume: bool) -> RunDir:
    """Creates or opens the directory of a run.

    Raises:
        RunError: The run exists and `resume` is off, or it was started with another recipe.
        StorageError: The directory cannot be created.
    """
    run = create_run(name, resume=resume)
    if run.recipe.exists():
        check_resumable(load_recipe(run.recipe), recipe, run=name)
        # Settings that do not change the result may differ: the record is of the newest.
        write_recipe(run.recipe, recipe)
    elif resume:
        console.say(f"run '{name}' does not exist yet: starting it")
    console.say(f"run {run.name} ({run.path})")
    return run


@contextmanager
def lock_run(run: RunDir, state: PartialState) -> Iterator[None]:
    """Holds the lock of a run; raises RunError if another process holds it."""
    # The lock belongs to the command, which is several processes.
    if not state.is_main_process:
        yield
        return
    with ExitStack() as stack:
        lock = file_lock(run.path.with_name(f".{run.name}.lock"), wait=False)
        try:
            stack.enter_context(lock)
        except BlockingIOError:
            raise RunError(
                f"another process is distilling into run '{run.name}'",
                hint="wait for it, or start another run with --run NEW-NAME",
            ) from None
        try:
            yield
        finally:
            # Removes the directory if it is empty: the run failed before it was initialized.
            with suppress(OSError):
                run.path.rmdir()


@contextmanager
def with_resume_hint(run: RunDir, *, processes: int) -> Iterator[None]:
    """Adds the command that resumes the run to interruptions and storage errors."""
    command = _resume_command(run, processes=processes)
    try:
        yield
    except Interrupted as error:
        raise Interrupted(error.message, hint=f"resume with: {command}") from error
    except StorageError as error:
        # Errors while reading, or before the run was initialized, are not fixed by resuming.
        if not run.recipe.exists() or not error.message.startswith("cannot write"):
            raise
        raise StorageError(
            error.message, hint=f"{error.hint}\n  then resume with: {command}"
        ) from error
    # A second signal, or one before the loop defers them.
    except KeyboardInterrupt:
        if run.recipe.exists():
            raise Interrupted(
                "interrupted", hint=f"resume from the last checkpoint with: {command}"
            ) from None
        raise Interrupted(
            "interrupted before the first step",
            hint="run the same command again; it continues with what is in the cache",
        ) from None


def _resume_command(run: RunDir, *, processes: int) -> str:
    command = shlex.join(["edgedistil", "distill", str(run.recipe), "--run", run.name, "--resume"])
    if processes == 1:
        return command
    # Without the dashes torchrun would parse --run as an option of its own.
    return f"torchrun … -m -- {command}"


# --- teacher, corpus and student -----------------------------------------------------------------


def prepare_run(recipe: Recipe, run: RunDir, state: PartialState) -> PreparedRun:
    """Loads, checks and builds everything that a run needs before its first step.

    The main process comes first, so that the others find the results in the cache.

    Raises:
        InputError: Something in the recipe does not fit the teacher, the corpus or the machine.
        RunError: The corpus or the run's teacher changed since the run began.
        StorageError: Something cannot be written.
    """
    distributed.run_on_main(state, lambda: _check_settings(recipe.train, state))
    # A list instead of a return value: `run_on_main` would send the models to all processes.
    initialized: list[tuple[Teacher, TokenizedCorpus]] = []
    distributed.run_on_main(state, lambda: initialized.append(_initialize_run(recipe, run)))
    if not initialized:
        initialized.append(_teacher_and_corpus(recipe, run)[:2])
    teacher, corpus = initialized[0]
    student = setup.build_student(recipe.student, teacher.model, seed=recipe.seed)
    layer_map = setup.layer_map(recipe.student, teacher.model)
    length = RunLength.of(
        recipe.train, corpus_tokens=corpus.train.tokens, corpus_rows=len(corpus.train)
    )
    return PreparedRun(teacher, corpus, student, layer_map, length)


def _check_settings(settings: Train, state: PartialState) -> None:
    """Raises InputError if this machine, or this number of processes, cannot run the recipe.

    Everything that can be checked before anything is downloaded.
    """
    distributed.check_trackers(settings.trackers)
    distributed.check_compiler(state.device, compiled=settings.compile)
    distributed.resolve_precision(settings.precision, state.device)
    distributed.check_batch(
        global_batch=settings.global_batch,
        micro_batch=settings.micro_batch,
        processes=state.num_processes,
    )


def _initialize_run(recipe: Recipe, run: RunDir) -> tuple[Teacher, TokenizedCorpus]:
    """Returns teacher and corpus, after writing what a run starts from into its directory."""
    teacher, corpus, original = _teacher_and_corpus(recipe, run)
    if run.recipe.exists():
        return teacher, corpus

    # A killed process may have written some of these already.
    link_folder(teacher.folder, run.teacher)
    # Fitting a head changes the encoder too: what the student retains is a share of the original.
    if original != teacher.folder:
        link_folder(original, run.teacher_as_given)
    if not run.student_step0.exists():
        student = setup.build_student(recipe.student, teacher.model, seed=recipe.seed)
        save_student(student, teacher.tokenizer, run.student_step0)
    if not run.heldout_text.exists():
        with replacing(run.heldout_text) as unfinished, storage_errors(run.heldout_text):
            unfinished.write_bytes(corpus.heldout_text.read_bytes())
    write_record(run.corpus, corpus.record)
    initial = (*run.teachers, run.student_step0, run.heldout_text)
    write_json(run.initial_digests, run_digests(run, initial))
    # The recipe last: if it exists, so does everything else.
    write_recipe(run.recipe, recipe)
    return teacher, corpus


def _teacher_and_corpus(recipe: Recipe, run: RunDir) -> tuple[Teacher, TokenizedCorpus, Path]:
    """Teacher and corpus as the run began with them, or for a new run as the recipe says.

    The third value is the teacher's folder before a head was fitted.
    """
    is_initialized = run.recipe.exists()
    if is_initialized:
        require_initial_files(run)
        teacher = read_teacher(run.teacher, name=setup.teacher_name(recipe.teacher))
    else:
        teacher = setup.load_recipe_teacher(recipe.teacher)
    # Checked before the corpus is built, which can take hours.
    setup.check_fit(recipe.student, recipe.corpus, teacher.model)
    corpus = prepare_corpus(recipe.corpus, teacher.folder, cache=cache_root())
    if is_initialized:
        _check_same_corpus(run, corpus)
    original = teacher.folder
    teacher = setup.with_mlm_head(teacher, corpus.train, recipe.teacher.fit, seed=recipe.seed)
    return teacher, corpus, original


def _check_same_corpus(run: RunDir, corpus: TokenizedCorpus) -> None:
    """Raises RunError if the corpus is not the one that the run began with."""
    initial = read_record(run.corpus, CorpusRecord)
    if initial.cache_key != corpus.record.cache_key:
        raise RunError(
            f"the corpus of run '{run.name}' has changed: "
            "the content of a source differs from what the run began with",
            hint="restore the text, or start another run with --run NEW-NAME",
        )
