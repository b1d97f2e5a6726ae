"""The run directory before the first step: created, locked, and filled with what a run starts from.

Teacher, checks, corpus and head come first and the recipe is written last, so a recipe that does
not fit leaves no files (docs/decisions.md#preparing-comes-before-creating-the-run).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.digests import require_initial_files, run_digests
from edgedistil.core.distill_records import CorpusRecord
from edgedistil.core.errors import Interrupted, RunError, StorageError
from edgedistil.core.fetch import file_lock
from edgedistil.core.paths import user_path
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.recipe_diff import check_resumable
from edgedistil.core.recipe_student import VocabularySection
from edgedistil.core.records import read_record, write_record
from edgedistil.core.rundir import (
    RunDir,
    create_run,
    replacing,
    storage_errors,
    write_json,
)
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.trim_records import TrimRecord
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill import distributed, setup
from edgedistil.distill.answers import Answers, read_answers
from edgedistil.distill.folders import link_folder, save_student
from edgedistil.distill.objective import Kind
from edgedistil.distill.representation import check_relation_heads
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.sentence_setup import (
    added_description,
    check_dimensions,
    check_objective,
    load_layers,
    read_prompts,
    student_encoder,
    teacher_encoder,
    teacher_vector,
)
from edgedistil.distill.trimmed_teacher import trim_teachers
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.models.teacher import Teacher, read_teacher

# Rows on which the importance of attention heads is measured; a second on a small encoder.
IMPORTANCE_ROWS = 64


@dataclass(frozen=True)
class PreparedSentence:
    """What learning sentence vectors adds to a run.

    Attributes:
        teacher_vector: How the teacher makes them.
        student: The student with the layers that make them.
        answers: Vectors of a file; None: the teacher's own.
    """

    teacher_vector: SentenceVector
    student: SentenceEncoder
    answers: Answers | None


@dataclass(frozen=True)
class PreparedRun:
    """Everything that a run needs before its first step.

    Attributes:
        teacher: The teacher, for the objective mlm with its MLM head.
        original: The teacher as it was before a head was fitted to a copy of it; `teacher` itself
            where none was.
        corpus: The corpus, tokenized with the teacher's tokenizer.
        student: The student as it is before the first step.
        layer_map: Teacher layers that the student's layers start from.
        length: Length of the run.
        sentence: What the objective representation adds; None for mlm.
        full_teacher: `teacher` with its own vocabulary; `teacher` itself unless it is trimmed.
        states_folder: Where the teacher's states may be cached while the run lasts.
    """

    teacher: Teacher
    original: Teacher
    corpus: TokenizedCorpus
    student: PreTrainedModel
    layer_map: list[int]
    length: RunLength
    sentence: PreparedSentence | None
    full_teacher: Teacher
    states_folder: Path

    @property
    def kind(self) -> Kind:
        """What the student learns."""
        return "mlm" if self.sentence is None else "representation"


# --- the run directory ---------------------------------------------------------------------------


def claim_run(name: str, *, resume: bool) -> RunDir:
    """Creates or opens the directory of a run.

    Raises:
        RunError: The run exists and `resume` is off.
        StorageError: The directory cannot be created.
    """
    run = create_run(name, resume=resume)
    if resume and not run.recipe.exists():
        console.say(f"run '{name}' does not exist yet: starting it")
    console.say(f"run {run.name} ({run.path})")
    return run


def update_recipe(recipe: Recipe, run: RunDir) -> None:
    """Writes the newest recipe of a run that goes on; the caller holds the run's lock.

    Raises:
        RunError: The run was started with another recipe.
        StorageError: The recipe cannot be read or written.
    """
    if not run.recipe.exists():
        return
    check_resumable(load_recipe(run.recipe), recipe, run=run.name)
    # Settings that do not change the result may differ. A finished run has the recipe whose digest
    # is in its record.
    if not run.distill.exists():
        write_recipe(run.recipe, recipe)


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
    command = console.command_line("distill", str(run.recipe), "--run", run.name, "--resume")
    if processes == 1:
        return command
    # Without the dashes torchrun would parse --run as an option of its own.
    return f"torchrun … -m -- {command}"


# --- teacher, corpus and student -----------------------------------------------------------------


@dataclass(frozen=True)
class _Inputs:
    """What a run is made from.

    Attributes:
        teacher: The teacher, for the objective mlm with its MLM head.
        original: The teacher before a head was fitted to a copy of it.
        corpus: The corpus.
        vector: How the teacher makes sentence vectors; None for the objective mlm.
        answers: Vectors of a file; None without one.
        full_teacher: `teacher` with its own vocabulary.
        full_original: `original` with its own vocabulary.
        trim: Record of the trimmed vocabulary; None without one.
    """

    teacher: Teacher
    original: Teacher
    corpus: TokenizedCorpus
    vector: SentenceVector | None
    answers: Answers | None
    full_teacher: Teacher
    full_original: Teacher
    trim: TrimRecord | None

    @property
    def corpus_record(self) -> CorpusRecord:
        """Record of the corpus, with the digest of its file of vectors."""
        sha256 = None if self.answers is None else self.answers.sha256
        return self.corpus.record.model_copy(update={"answers_sha256": sha256})

    def build_student(self, recipe: Recipe) -> tuple[PreTrainedModel, PreparedSentence | None]:
        """Builds the student as it is before the first step."""
        is_mlm = self.vector is None
        source = setup.student_source(self.original, self.teacher)
        # Text of the training part: what is held out judges the student.
        count = min(IMPORTANCE_ROWS, len(self.corpus.train))
        rows = [self.corpus.train[index].tolist() for index in range(count)]
        student = setup.build_student(
            recipe.student, source, seed=recipe.seed, has_head=is_mlm, rows=rows
        )
        if self.vector is None:
            return student, None
        teacher = teacher_encoder(self.teacher, self.vector)
        dimension = self.vector.dimension if self.answers is None else self.answers.dimension
        encoder = student_encoder(student, teacher, dimension=dimension, seed=recipe.seed)
        check_relation_heads(recipe.objective, teacher=teacher.backbone, student=encoder.backbone)
        folder = setup.initial_folder(recipe.student)
        if folder is not None:
            load_layers(encoder, folder)
        return encoder.backbone, PreparedSentence(self.vector, encoder, self.answers)


def prepare_run(recipe: Recipe, run: RunDir, state: PartialState) -> PreparedRun:
    """Loads, checks and builds everything that a run needs before its first step.

    The main process comes first, so that the others find the results in the cache.

    Raises:
        InputError: Something in the recipe does not fit the teacher, the corpus or the machine.
        RunError: The corpus or the run's teacher changed since the run began.
        StorageError: Something cannot be written.
    """
    distributed.run_on_main(state, lambda: _check_settings(recipe, state))
    # A list instead of a return value: `run_on_main` would send the models to all processes.
    initialized: list[_Inputs] = []
    distributed.run_on_main(state, lambda: initialized.append(_initialize_run(recipe, run)))
    if not initialized:
        initialized.append(_read_inputs(recipe, run))
    inputs = initialized[0]
    student, sentence = inputs.build_student(recipe)
    layer_map = setup.layer_map(recipe.student, inputs.teacher.model)
    train = inputs.corpus.train
    length = RunLength.of(recipe.train, corpus_tokens=train.tokens, corpus_rows=len(train))
    return PreparedRun(
        teacher=inputs.teacher,
        original=inputs.original,
        corpus=inputs.corpus,
        student=student,
        layer_map=layer_map,
        length=length,
        sentence=sentence,
        full_teacher=inputs.full_teacher,
        states_folder=run.teacher_states,
    )


def _check_settings(recipe: Recipe, state: PartialState) -> None:
    """Raises InputError if this machine, or this number of processes, cannot run the recipe.

    Everything that can be checked before anything is downloaded.
    """
    settings = recipe.train
    distributed.check_trackers(settings.trackers)
    distributed.check_compiler(state.device, compiled=settings.compile)
    distributed.resolve_precision(settings.precision, state.device)
    distributed.check_batch(
        global_batch=settings.global_batch,
        micro_batch=settings.micro_batch,
        processes=state.num_processes,
        compares_texts=recipe.objective.similarity > 0,
    )


def _initialize_run(recipe: Recipe, run: RunDir) -> _Inputs:
    """Returns teacher and corpus, after writing what a run starts from into its directory."""
    inputs = _read_inputs(recipe, run)
    teacher, corpus = inputs.teacher, inputs.corpus
    full_teacher, full_original = inputs.full_teacher, inputs.full_original
    if run.recipe.exists():
        return inputs

    # Whatever may be refused comes before the first file.
    student, sentence = inputs.build_student(recipe)
    _remove_unfinished(run)
    added = None if inputs.vector is None else added_description(full_teacher, inputs.vector)
    link_folder(full_teacher.folder, run.teacher, described=added)
    # What the student retains is a share of the teacher as given, not of the copy with a head.
    if full_original is not full_teacher:
        link_folder(full_original.folder, run.teacher_as_given)
    # A baseline: what trimming alone costs.
    if inputs.trim is not None:
        link_folder(inputs.original.folder, run.teacher_trimmed, described=added)
        write_record(run.trim, inputs.trim)
    save_student(
        sentence.student.backbone if sentence else student,
        teacher.tokenizer,
        run.student_step0,
        sentence=sentence.student if sentence else None,
    )
    with replacing(run.heldout_text) as unfinished, storage_errors(run.heldout_text):
        unfinished.write_bytes(corpus.heldout_text.read_bytes())
    write_record(run.corpus, inputs.corpus_record)
    initial = (*run.teachers, run.student_step0, run.heldout_text)
    write_json(run.initial_digests, run_digests(run, initial))
    # The recipe last: if it exists, so does everything else.
    write_recipe(run.recipe, recipe)
    return inputs


def _remove_unfinished(run: RunDir) -> None:
    """Removes what a killed preparation wrote: it may have had another recipe.

    The caller holds the run's lock, and the run has no recipe yet.
    """
    for folder in (*run.teachers, run.student_step0):
        with storage_errors(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)
    for file in (run.trim, run.heldout_text, run.corpus, run.initial_digests):
        with storage_errors(file):
            file.unlink(missing_ok=True)


def _read_inputs(recipe: Recipe, run: RunDir) -> _Inputs:
    """Teacher and corpus as the run began with them, or for a new run as the recipe says."""
    is_initialized = run.recipe.exists()
    if is_initialized:
        require_initial_files(run)
        teacher = read_teacher(run.teacher, name=setup.teacher_name(recipe.teacher))
    else:
        teacher = setup.load_recipe_teacher(recipe.teacher)
    kind = setup.recipe_objective(recipe, teacher)
    section = setup.corpus_section(recipe, kind)
    # Checked before the corpus is built, which can take hours.
    is_mlm = kind == "mlm"
    setup.check_fit(recipe.student, section, teacher.model, has_head=is_mlm)
    vector, prompts = None, None
    if not is_mlm:
        vector = teacher_vector(teacher, recipe.teacher)
        check_objective(recipe, teacher, vector, layout=section.layout)
        prompts = read_prompts(vector)
    corpus = prepare_corpus(section, teacher.folder, cache=cache_root(), prompts=prompts)
    original = teacher
    if is_mlm:
        teacher = setup.with_mlm_head(teacher, corpus.train, recipe.teacher.fit, seed=recipe.seed)
    if is_initialized and run.teacher_as_given.exists():
        original = read_teacher(run.teacher_as_given, name=teacher.name)
    full_teacher, full_original, trim = teacher, original, None
    if recipe.student.vocabulary is not None:
        trimmed = trim_teachers(
            recipe.student.vocabulary, teacher, original, corpus, cache=cache_root()
        )
        teacher, original, trim = trimmed.teacher, trimmed.original, trimmed.record
        # The same text in the tokens that stay.
        corpus = prepare_corpus(section, teacher.folder, cache=cache_root(), prompts=prompts)
    answers = None
    if recipe.teacher.answers is not None:
        answers = read_answers(user_path(recipe.teacher.answers), corpus)
        allowed = recipe.teacher.is_matryoshka
        check_dimensions(recipe.objective, full_teacher, answers.dimension, allowed=allowed)
    inputs = _Inputs(
        teacher=teacher,
        original=original,
        corpus=corpus,
        vector=vector,
        answers=answers,
        full_teacher=full_teacher,
        full_original=full_original,
        trim=trim,
    )
    if is_initialized:
        _check_same_inputs(run, inputs, recipe.student.vocabulary)
    return inputs


def _check_same_inputs(run: RunDir, inputs: _Inputs, vocabulary: VocabularySection | None) -> None:
    """Raises RunError if text, vectors or vocabulary are not those that the run began with."""
    initial, record = read_record(run.corpus, CorpusRecord), inputs.corpus_record
    if initial.answers_sha256 != record.answers_sha256:
        raise RunError(
            f"the file teacher.answers of run '{run.name}' has changed since the run began",
            hint="restore it, or start another run with --run NEW-NAME",
        )
    if vocabulary is not None and vocabulary.text is not None:
        trimmed = read_tokenizer(run.teacher_trimmed)
        if trimmed.sha256 != inputs.teacher.tokenizer.sha256:
            raise RunError(
                f"the file student.vocabulary.text of run '{run.name}' has changed: "
                "it selects other tokens than when the run began",
                hint="restore it, or start another run with --run NEW-NAME",
            )
    if initial.cache_key != record.cache_key:
        raise RunError(
            f"the corpus of run '{run.name}' has changed: "
            "the content of a source differs from what the run began with",
            hint="restore the text, or start another run with --run NEW-NAME",
        )
