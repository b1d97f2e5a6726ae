"""`edgedistil distill --plan`: steps, tokens, time and memory of a run, without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from edgedistil.core.distill_records import PlannedDevice, PlanRecord
from edgedistil.core.errors import OfflineError
from edgedistil.core.family import FAMILIES
from edgedistil.core.places import cache_root, runs_root
from edgedistil.core.recipe import Corpus, Recipe, Train
from edgedistil.core.recipe_student import Student
from edgedistil.core.records import Count, NotMeasured, provenance
from edgedistil.core.sentence_vector import SentenceVector
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill import setup
from edgedistil.distill.batches import HELDOUT_BATCH_ROWS, MicroBatch
from edgedistil.distill.distributed import (
    TORCH_DTYPES,
    Precision,
    build_accelerator,
    check_batch,
    process_group,
    resolve_precision,
)
from edgedistil.distill.heldout import HeldoutEvaluator
from edgedistil.distill.heldout_vectors import VectorEvaluator
from edgedistil.distill.objective import Kind, objective_kind
from edgedistil.distill.plan.estimate import (
    RunWorkload,
    UnknownSizeError,
    estimate_tokens,
    gpu_counts,
    plan_gpus,
    plan_here,
    planned_model,
)
from edgedistil.distill.plan.presets import known_teacher
from edgedistil.distill.plan.reuse import ReadText, TeacherReuse, teacher_reuse
from edgedistil.distill.precision_trial import has_choice
from edgedistil.distill.run_objective import (
    MlmModels,
    SentenceModels,
    has_other_encoder,
    random_targets,
    timed_objective,
)
from edgedistil.distill.schedule import RunLength, evaluation_interval
from edgedistil.distill.sentence_setup import (
    read_prompts,
    student_encoder,
    teacher_vector,
)
from edgedistil.distill.trimmed_teacher import select_vocabulary
from edgedistil.models.fast.encoder import freeze_teacher, why_plain
from edgedistil.models.reduced import build_from_config
from edgedistil.models.sentence_encoder import SentenceEncoder, build_head
from edgedistil.models.teacher import Teacher

# Device of the predicted rows.
_GPU = torch.device("cuda")


def plan(recipe: Recipe, *, max_micro_batch_s: float | None = None) -> PlanRecord:
    """Estimates the steps, tokens, time and memory of a run on each kind of device.

    A corpus of files and assets is tokenized, as the run would do it, and stays in the cache.
    Without the hub, well-known teachers are built from their shapes, and well-known texts estimated
    from their sizes; the record says so. Only a length in epochs needs the size of the corpus.

    Args:
        recipe: The recipe.
        max_micro_batch_s: Longest micro-batch that is timed, about; 20 seconds by default.
    Raises:
        InputError: Something in the recipe does not fit, or its teacher or corpus is neither
            available nor well known.
    """
    with process_group() as state:
        precision = resolve_precision(recipe.train.precision, state.device)
        check_batch(
            global_batch=recipe.train.global_batch,
            micro_batch=recipe.train.micro_batch,
            processes=recipe.world_size,
            compares_texts=recipe.objective.similarity > 0,
        )

        # Models and corpus, as the run would have them.
        teacher = _planned_teacher(recipe)
        is_mlm = teacher.vector is None
        section = setup.corpus_section(recipe, teacher.kind)
        setup.check_fit(recipe.student, section, teacher.model, has_head=is_mlm)
        corpus = _planned_corpus(section, teacher)
        length = corpus.run_length(recipe.train)
        # With the tokens that both learn on.
        learning = replace(teacher, model=_with_vocabulary(recipe.student, teacher, corpus))
        student = setup.build_student(
            recipe.student, learning.model, seed=recipe.seed, has_head=is_mlm
        )

        # Time and memory.
        workload = _workload(recipe, length, corpus)
        reuse_on = partial(
            teacher_reuse,
            recipe,
            learning.model,
            student,
            corpus.read_text(length),
            dimension=None if teacher.vector is None else teacher.vector.dimension,
            dtype=TORCH_DTYPES[precision],
        )
        gpus = _plan_gpus(recipe, learning, student, workload, reuse_on)
        reuse = reuse_on(device=state.device)
        timed = replace(workload, max_micro_batch_s=max_micro_batch_s)
        here = _plan_here(
            recipe, learning, student, timed, precision, state.device, reuse.teacher_share
        )
    return PlanRecord(
        recipe=recipe.name,
        objective=teacher.kind,
        fits_head=teacher.fits_head,
        teacher=planned_model(
            teacher.model, name=setup.teacher_name(recipe.teacher), how=teacher.how
        ),
        student=planned_model(student, name=f"{recipe.name} student", how="built from the teacher"),
        layer_map=setup.layer_map(recipe.student, teacher.model),
        corpus_tokens=corpus.size,
        corpus_how=corpus.how,
        tokens=length.tokens,
        steps=length.steps,
        tokens_per_step=round(length.tokens_per_step),
        precision=precision,
        devices=[here, *gpus],
        notes=[
            *_notes(recipe, teacher, reuse, state.device),
            *_notes_on_models(teacher.model, student),
        ],
        provenance=provenance(),
    )


def _plan_gpus(
    recipe: Recipe,
    teacher: _PlannedTeacher,
    student: PreTrainedModel,
    workload: RunWorkload,
    reuse_on: Callable[..., TeacherReuse],
) -> list[PlannedDevice]:
    """The run on well-known GPUs.

    Args:
        reuse_on: Returns how much of the teacher is computed on a `device` by some `processes`.
    """
    loss = recipe.loss if teacher.vector is None else None
    planned = []
    for count in gpu_counts(recipe.world_size, global_batch=recipe.train.global_batch):
        planned += plan_gpus(
            teacher.model,
            student,
            workload,
            loss,
            processes=count,
            teacher_share=reuse_on(device=_GPU, processes=count).teacher_share,
            has_original=teacher.has_original(recipe),
        )
    return planned


def _plan_here(
    recipe: Recipe,
    teacher: _PlannedTeacher,
    student: PreTrainedModel,
    workload: RunWorkload,
    precision: Precision,
    device: torch.device,
    teacher_share: float,
) -> PlannedDevice:
    """The run on this machine, timed with the objective of the loop."""
    accelerator = build_accelerator(
        precision, trackers=[], folder=runs_root(), unused_parameters=False
    )
    # Last, because it casts the teacher in place.
    frozen = freeze_teacher(teacher.model, dtype=TORCH_DTYPES[precision]).to(device)
    if teacher.vector is None:
        # A copy: the run has both models in memory.
        original = copy.deepcopy(frozen) if teacher.has_original(recipe) else None
        models = MlmModels(recipe.loss, student.to(device), frozen, original)

        def evaluation(batch: MicroBatch) -> Callable[[], object]:
            # Random ids have no [MASK]; which one is counted as hidden does not change the time.
            evaluator = HeldoutEvaluator([batch], frozen, accelerator=accelerator, mask_id=0)
            return lambda: evaluator.evaluate(student, name="student", step=0)

        timed = timed_objective(models, teacher_share=1.0)
    else:
        dimension = teacher.vector.dimension
        vectors = teacher.encoder(teacher.vector).to(device)
        encoder = student_encoder(student, vectors, dimension=dimension, seed=recipe.seed)
        encoder = encoder.to(device)
        targets = None
        if recipe.teacher.answers is not None:
            rows = max(workload.micro_batch, HELDOUT_BATCH_ROWS)
            targets = random_targets(encoder, rows=rows)
        timed = timed_objective(
            SentenceModels(recipe.objective, encoder, vectors),
            teacher_share=teacher_share,
            targets=targets,
        )

        def evaluation(batch: MicroBatch) -> Callable[[], object]:
            evaluator = VectorEvaluator([batch], vectors, targets=targets, accelerator=accelerator)
            return lambda: evaluator.evaluate(encoder, name="student", step=0)

    return plan_here(timed, evaluation, workload, accelerator=accelerator)


@dataclass(frozen=True)
class _PlannedTeacher:
    """The teacher of a plan.

    Attributes:
        loaded: The teacher; None if it cannot be downloaded.
        model: The teacher's model, or one of its shape with random weights.
        how: Where the model comes from, as plans print it.
        vector: How it makes sentence vectors; None for the objective mlm.
        fits_head: Whether an MLM head is fitted to it first.
    """

    loaded: Teacher | None
    model: PreTrainedModel
    how: str
    vector: SentenceVector | None = None
    fits_head: bool = False

    @property
    def kind(self) -> Kind:
        return "mlm" if self.vector is None else "representation"

    def has_original(self, recipe: Recipe) -> bool:
        """Whether the cosine loss reads the teacher as given besides the one with its head."""
        return has_other_encoder(recipe.teacher.fit, is_fitted=self.fits_head)

    def encoder(self, vector: SentenceVector) -> SentenceEncoder:
        """Returns the model with the layers that make its vectors."""
        # A teacher of known shape has no layers with weights there.
        folder = Path() if self.loaded is None else self.loaded.folder
        head = build_head(vector, folder).requires_grad_(False)
        return SentenceEncoder(self.model.base_model, vector, head).eval()


def _planned_teacher(recipe: Recipe) -> _PlannedTeacher:
    section = recipe.teacher
    try:
        loaded = setup.load_recipe_teacher(section)
    except OfflineError:
        planned = _teacher_of_known_shape(recipe)
        if planned is None:
            raise
        return planned
    vector = None
    is_mlm = setup.recipe_objective(recipe, loaded) == "mlm"
    if not is_mlm:
        vector = teacher_vector(loaded, section)
    fits_head = is_mlm and not loaded.has_mlm_head
    return _PlannedTeacher(loaded, loaded.model, "counted on the model", vector, fits_head)


def _teacher_of_known_shape(recipe: Recipe) -> _PlannedTeacher | None:
    """A model with random weights in the shape of a well-known teacher; None for others."""
    known = known_teacher(recipe.teacher.source)
    if known is None:
        return None
    vector = known.vector()
    kind = objective_kind(recipe.objective, recipe.teacher, has_mlm_head=vector is None)
    # The costs of a model depend on its shape alone; a plan must not change the random state.
    with torch.random.fork_rng(devices=[]):
        model = build_from_config(AutoModelForMaskedLM, known.config()).eval()
    fits_head = kind == "mlm" and vector is not None
    if kind == "mlm":
        vector = None
    elif vector is None:
        vector = SentenceVector(pooling=("mean",), steps=(), dimension=known.hidden, is_guess=True)
    # A plan says where each of its figures comes from.
    how = "known shape, random weights: the hub is not reachable"
    return _PlannedTeacher(None, model, how, vector, fits_head)


@dataclass(frozen=True)
class _PlannedCorpus:
    """Size of a plan's corpus.

    Attributes:
        tokens: Tokens of the training part; of one row if the size is unknown.
        rows: Rows of the training part.
        heldout_tokens: Tokens of the held-out part.
        how: How these are known, as plans print it.
        tokenized: The corpus; None if the numbers are estimates.
        unknown: Why the size is unknown; None if it is known.
    """

    tokens: int
    rows: int
    heldout_tokens: int
    how: str
    tokenized: TokenizedCorpus | None = None
    unknown: UnknownSizeError | None = None

    @property
    def size(self) -> Count:
        """Tokens of the training part, where they are known."""
        if self.unknown is None:
            return self.tokens
        return NotMeasured(not_measured=self.unknown.message)

    def read_text(self, length: RunLength) -> ReadText | None:
        """Returns the text as a run of a length reads it; None if its size is unknown."""
        if self.unknown is not None:
            return None
        return ReadText(self.tokens, self.rows, length.tokens / self.tokens)

    def run_length(self, settings: Train) -> RunLength:
        """Returns the length of a run; raises UnknownSizeError if it needs the size."""
        if self.unknown is not None and settings.epochs is not None:
            raise self.unknown
        return RunLength.of(settings, corpus_tokens=self.tokens, corpus_rows=self.rows)


def _planned_corpus(section: Corpus, teacher: _PlannedTeacher) -> _PlannedCorpus:
    # Counted, unless that needs a download.
    if teacher.loaded is not None and all(spec.hub is None for spec in section.sources):
        prompts = None if teacher.vector is None else read_prompts(teacher.vector)
        folder = teacher.loaded.folder
        corpus = prepare_corpus(section, folder, cache=cache_root(), prompts=prompts)
        return _PlannedCorpus(
            corpus.train.tokens, len(corpus.train), corpus.heldout.tokens, "counted", corpus
        )
    # Estimated from sizes; the held-out part is a share of the text.
    share = section.heldout_share
    try:
        tokens, how = estimate_tokens(section.sources, heldout_share=share)
    except UnknownSizeError as error:
        # Rows are as long as a block, and there is enough text for an evaluation.
        return _PlannedCorpus(section.block_length, 1, 10**9, "unknown", unknown=error)
    rows = max(1, tokens // section.block_length)
    return _PlannedCorpus(tokens, rows, max(1, round(tokens * share / (1 - share))), how)


def _with_vocabulary(
    section: Student, teacher: _PlannedTeacher, corpus: _PlannedCorpus
) -> PreTrainedModel:
    """The teacher's model, of random weights and fewer rows where the vocabulary is trimmed."""
    vocabulary = section.vocabulary
    if vocabulary is None:
        return teacher.model
    if teacher.loaded is not None and corpus.tokenized is not None:
        selection, _ = select_vocabulary(vocabulary, teacher.loaded, corpus.tokenized)
        rows = len(selection.rows)
    elif vocabulary.size is not None:
        rows = vocabulary.size
    else:
        raise UnknownSizeError(
            "a vocabulary of a given coverage is counted on the text, which is not on this machine",
            hint="plan with student.vocabulary.size instead",
        )
    config = copy.deepcopy(teacher.model.config)
    config.vocab_size = rows
    # The id of a special token may be beyond the smaller vocabulary.
    config.pad_token_id = min(config.pad_token_id or 0, rows - 1)
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = type(teacher.model)(config)
    return model.eval()


def _workload(recipe: Recipe, length: RunLength, corpus: _PlannedCorpus) -> RunWorkload:
    train = recipe.train
    # Rows of the layout `texts` are as long as their texts; of other layouts as a block, at most.
    mean_length = min(recipe.corpus.block_length, math.ceil(corpus.tokens / corpus.rows))
    interval = evaluation_interval(train, steps=length.steps)
    return RunWorkload(
        length=length,
        block_length=mean_length,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        masked_share=recipe.masking.share,
        heldout_tokens=min(corpus.heldout_tokens, train.heldout_tokens),
        # Rounded up: the last step is evaluated, too.
        evaluations=-(-length.steps // interval),
        checkpoint_every_s=train.checkpoint_minutes * 60,
    )


def _notes_on_models(teacher: PreTrainedModel, student: PreTrainedModel) -> list[str]:
    """Which engine trains the models, and what fewer layers save."""
    notes = []
    family = FAMILIES[student.config.model_type]
    for role, model in (("teacher", teacher), ("student", student)):
        reason = why_plain(model)
        engine = "the fast CPU engine: its layers are BERT's or DistilBERT's"
        if reason is not None:
            engine = f"transformers' own forward pass: {reason}"
        notes.append(f"the {role}, a {model.config.model_type}, runs in {engine}")
    if not family.has_trained_models:
        notes.append(f"{family.model_type}: {family.proof_in_words}")
    if family.shares_layers:
        notes.append(
            f"the layers of a {family.model_type} share their weights: a student with fewer layers "
            "is faster, and has as many parameters as its teacher"
        )
    return notes


def _notes(
    recipe: Recipe, teacher: _PlannedTeacher, reuse: TeacherReuse, device: torch.device
) -> list[str]:
    """What the figures of a plan leave out."""
    notes = [
        "predicted rows assume a share of the data sheet's peak, 10 to 40 ms for the kernels of a "
        "micro-batch, and several GPUs as fast as so many single ones; disk, network and cooling "
        "are left out"
    ]
    if recipe.train.precision == "auto" and has_choice(device):
        notes.append(
            'train.precision is "auto": the run tries bfloat16 and float32 for a second and takes '
            "the faster one; the times here are those of bfloat16"
        )
    if setup.corpus_section(recipe, teacher.kind).layout != "packed":
        notes.append("rows have different lengths; the times are those of rows of the mean length")
    if reuse.note is not None:
        notes.append(reuse.note)
    if recipe.train.compile:
        notes.append("train.compile is true; the times here are those without it")
    if teacher.fits_head:
        fit = recipe.teacher.fit
        notes.append(
            f"before the first run, an MLM head is fitted to the teacher: {fit.steps} steps "
            f"of about {fit.batch_tokens} tokens, once (not in these times)"
        )
    if recipe.world_size > 1:
        notes.append(
            f"the recipe is meant for {recipe.world_size} processes; "
            "this machine is planned with one"
        )
    return notes
