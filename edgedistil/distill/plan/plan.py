"""`edgedistil distill --plan`: steps, tokens, time and memory of a run, without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from transformers import PreTrainedModel

from edgedistil.core.distill_records import PlannedDevice, PlanRecord
from edgedistil.core.family import FAMILIES
from edgedistil.core.places import runs_root
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import provenance
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
from edgedistil.distill.plan.estimate import (
    RunWorkload,
    gpu_counts,
    plan_gpus,
    plan_here,
    planned_model,
)
from edgedistil.distill.plan.inputs import (
    PlannedCorpus,
    PlannedTeacher,
    planned_corpus,
    planned_teacher,
    with_vocabulary,
)
from edgedistil.distill.plan.reuse import TeacherReuse, teacher_reuse
from edgedistil.distill.precision_trial import has_choice
from edgedistil.distill.run_objective import (
    MlmModels,
    SentenceModels,
    random_targets,
    timed_objective,
)
from edgedistil.distill.schedule import RunLength, evaluation_interval
from edgedistil.distill.sentence_setup import (
    student_encoder,
)
from edgedistil.models.fast.encoder import freeze_teacher, why_plain

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
    # The caller's random state is left as it is.
    with process_group() as state, torch.random.fork_rng(devices=[]):
        precision = resolve_precision(recipe.train.precision, state.device)
        check_batch(
            global_batch=recipe.train.global_batch,
            micro_batch=recipe.train.micro_batch,
            processes=recipe.world_size,
            compares_texts=recipe.objective.similarity > 0,
        )

        # Models and corpus, as the run would have them.
        teacher = planned_teacher(recipe)
        is_mlm = teacher.vector is None
        section = setup.corpus_section(recipe, teacher.kind)
        setup.check_fit(recipe.student, section, teacher.model, has_head=is_mlm)
        corpus = planned_corpus(section, teacher)
        # In the tokens that both learn on.
        learning = teacher
        if recipe.student.vocabulary is not None:
            learning, corpus = with_vocabulary(recipe.student.vocabulary, section, teacher, corpus)
        length = corpus.run_length(recipe.train)
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
    teacher: PlannedTeacher,
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
    teacher: PlannedTeacher,
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


def _workload(recipe: Recipe, length: RunLength, corpus: PlannedCorpus) -> RunWorkload:
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
        # The first and the last step are evaluated, too.
        evaluations=1 + -(-length.steps // interval),
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
    recipe: Recipe, teacher: PlannedTeacher, reuse: TeacherReuse, device: torch.device
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
