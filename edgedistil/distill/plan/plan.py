"""`edgedistil distill --plan`: steps, tokens, time and memory of a run, without training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import BertForMaskedLM, PreTrainedModel

from edgedistil.core.errors import OfflineError
from edgedistil.core.family import FAMILIES
from edgedistil.core.places import cache_root, runs_root
from edgedistil.core.recipe import Corpus, Recipe
from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.core.records import PlannedDevice, PlanRecord, provenance
from edgedistil.data.corpus import prepare_corpus
from edgedistil.distill import setup
from edgedistil.distill.distributed import (
    TORCH_DTYPES,
    Precision,
    build_accelerator,
    check_batch,
    process_group,
    resolve_precision,
)
from edgedistil.distill.objective import Objective
from edgedistil.distill.plan.estimate import (
    RunWorkload,
    estimate_tokens,
    plan_gpus,
    plan_here,
    planned_model,
)
from edgedistil.distill.plan.presets import known_shape
from edgedistil.distill.schedule import RunLength, evaluation_interval
from edgedistil.models.fast.encoder import freeze_teacher, why_plain
from edgedistil.models.teacher import Teacher


def plan(recipe: Recipe) -> PlanRecord:
    """Estimates the steps, tokens, time and memory of a run on each kind of device.

    A corpus of files and assets is tokenized, as the run would do it, and stays in the cache.
    Without the hub, well-known teachers are built from their shapes, and well-known texts estimated
    from their sizes; the record says so.

    Args:
        recipe: The recipe.
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
        )

        # Models and corpus, as the run would have them.
        teacher = _planned_teacher(recipe.teacher)
        setup.check_fit(recipe.student, recipe.corpus, teacher.model)
        corpus = _planned_corpus(recipe.corpus, teacher.loaded)
        length = RunLength.of(recipe.train, corpus_tokens=corpus.tokens, corpus_rows=corpus.rows)
        student = setup.build_student(recipe.student, teacher.model, seed=recipe.seed)

        # Time and memory.
        workload = _workload(recipe, length, heldout_tokens=corpus.heldout_tokens)
        gpus = plan_gpus(teacher.model, student, workload, recipe.loss, processes=recipe.world_size)
        here = _plan_here(recipe, teacher.model, student, workload, precision, state.device)
    return PlanRecord(
        recipe=recipe.name,
        teacher=planned_model(
            teacher.model, name=setup.teacher_name(recipe.teacher), how=teacher.how
        ),
        student=planned_model(student, name=f"{recipe.name} student", how="built from the teacher"),
        layer_map=setup.layer_map(recipe.student, teacher.model),
        corpus_tokens=corpus.tokens,
        corpus_how=corpus.how,
        tokens=length.tokens,
        steps=length.steps,
        tokens_per_step=round(length.tokens_per_step),
        precision=precision,
        devices=[here, *gpus],
        notes=[*_notes(recipe, teacher.loaded), *_notes_on_models(teacher.model, student)],
        provenance=provenance(),
    )


def _plan_here(
    recipe: Recipe,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    workload: RunWorkload,
    precision: Precision,
    device: torch.device,
) -> PlannedDevice:
    """The run on this machine, timed with the objective of the loop."""
    # Last, because it casts the teacher in place.
    frozen = freeze_teacher(teacher, dtype=TORCH_DTYPES[precision])
    objective = Objective(student.to(device), frozen.to(device), recipe.loss)
    accelerator = build_accelerator(
        precision, trackers=[], folder=runs_root(), unused_parameters=False
    )
    return plan_here(objective, workload, accelerator=accelerator)


@dataclass(frozen=True)
class _PlannedTeacher:
    """The teacher of a plan.

    Attributes:
        loaded: The teacher; None if it cannot be downloaded.
        model: The teacher's model, or one of its shape with random weights.
        how: Where the model comes from, as plans print it.
    """

    loaded: Teacher | None
    model: PreTrainedModel
    how: str


def _planned_teacher(section: TeacherSection) -> _PlannedTeacher:
    try:
        loaded = setup.load_recipe_teacher(section)
    except OfflineError:
        # The costs of a model depend on its shape alone.
        config = known_shape(section.source)
        if config is None:
            raise
        # A plan must not change the random state of its process.
        with torch.random.fork_rng(devices=[]):
            model = BertForMaskedLM(config).eval()
        return _PlannedTeacher(None, model, "known shape, random weights: the hub is not reachable")
    return _PlannedTeacher(loaded, loaded.model, "counted on the model")


@dataclass(frozen=True)
class _PlannedCorpus:
    """Size of a plan's corpus.

    Attributes:
        tokens: Tokens of the training part.
        rows: Rows of the training part.
        heldout_tokens: Tokens of the held-out part.
        how: How these are known, as plans print it.
    """

    tokens: int
    rows: int
    heldout_tokens: int
    how: str


def _planned_corpus(section: Corpus, teacher: Teacher | None) -> _PlannedCorpus:
    # Counted, unless that needs a download.
    if teacher is not None and all(spec.hub is None for spec in section.sources):
        corpus = prepare_corpus(section, teacher.folder, cache=cache_root())
        return _PlannedCorpus(
            corpus.train.tokens, len(corpus.train), corpus.heldout.tokens, "counted"
        )
    # Estimated from sizes; the held-out part is a share of the text.
    share = section.heldout_share
    tokens, how = estimate_tokens(section.sources, heldout_share=share)
    rows = max(1, tokens // section.block_length)
    return _PlannedCorpus(tokens, rows, max(1, round(tokens * share / (1 - share))), how)


def _workload(recipe: Recipe, length: RunLength, *, heldout_tokens: int) -> RunWorkload:
    train = recipe.train
    interval = evaluation_interval(train, steps=length.steps)
    return RunWorkload(
        length=length,
        block_length=recipe.corpus.block_length,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        masked_share=recipe.masking.share,
        heldout_tokens=min(heldout_tokens, train.heldout_tokens),
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
    if family.shares_layers:
        notes.append(
            f"the layers of a {family.model_type} share their weights: a student with fewer layers "
            "is faster, and has as many parameters as its teacher"
        )
    return notes


def _notes(recipe: Recipe, teacher: Teacher | None) -> list[str]:
    """What the figures of a plan leave out."""
    notes = [
        "predicted rows assume a share of the GPU's peak; "
        "they do not account for disk, network or cooling"
    ]
    if recipe.corpus.layout == "lines":
        notes.append(
            "layout 'lines': rows are shorter than block_length, so the times are upper bounds"
        )
    if teacher is not None and not teacher.has_mlm_head:
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
