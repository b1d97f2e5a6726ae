"""`edgedistil distill --plan`: what a run would do, and what it would take here and on GPUs. The second door."""

from __future__ import annotations

import torch
from transformers import BertForMaskedLM

from edgedistil.core.errors import OfflineError
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import PlanRecord, provenance
from edgedistil.core.rundir import runs_root
from edgedistil.distill import distributed as processes
from edgedistil.distill import setup as preparation
from edgedistil.distill.plan import estimate as forecast
from edgedistil.distill.plan.presets import known_shape
from edgedistil.distill.schedule import RunLength
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.teacher import Teacher


def plan(recipe: Recipe) -> PlanRecord:
    """What `distill` would do with a recipe, and what it would take on each kind of device.

    A corpus of files and assets is tokenized, as the run would do it, and stays in the cache. Without the hub,
    well-known teachers are made of their shapes, and well-known texts estimated from their sizes; the record says so.

    Raises:
        InputError: Something in the recipe does not fit, or its teacher or corpus is not at hand and not known.
    """
    with processes.joined() as state:
        precision = processes.chosen_precision(recipe.train.precision, state.device)
        processes.check_batch(
            global_batch=recipe.train.global_batch,
            micro_batch=recipe.train.micro_batch,
            processes=recipe.world_size,
        )
        loaded, teacher, teacher_how = _teacher(recipe)
        preparation.check_fit(recipe, teacher)
        corpus_tokens, corpus_rows, heldout_tokens, corpus_how = _corpus(recipe, loaded)
        length = preparation.length_of(recipe, corpus_tokens=corpus_tokens, corpus_rows=corpus_rows)
        student = preparation.made_student(recipe, teacher)
        work = _work(recipe, length, heldout_tokens)
        objective = forecast.objective_on(
            freeze_teacher(teacher, dtype=processes.TORCH_DTYPES[precision]),
            student,
            device=state.device,
            soft_target=recipe.loss.soft_target,
            mlm=recipe.loss.mlm,
            cosine=recipe.loss.cosine,
            temperature=recipe.loss.temperature,
            positions=recipe.loss.positions,
        )
        accelerator = processes.accelerator(
            precision, trackers=[], folder=runs_root(), unused_parameters=False
        )
        gpus = forecast.plan_gpus(
            teacher,
            student,
            work,
            processes=recipe.world_size,
            soft_target=recipe.loss.soft_target,
            mlm=recipe.loss.mlm,
            cosine=recipe.loss.cosine,
        )
        here = forecast.plan_here(objective, work, accelerator=accelerator, precision=precision)
    return PlanRecord(
        recipe=recipe.name,
        teacher=forecast.planned_model(
            teacher, name=preparation.teacher_name(recipe), how=teacher_how
        ),
        student=forecast.planned_model(
            student, name=f"{recipe.name} student", how="made from the teacher"
        ),
        layer_map=preparation.layer_map(recipe, teacher),
        corpus_tokens=corpus_tokens,
        corpus_how=corpus_how,
        tokens=length.tokens,
        steps=length.steps,
        tokens_per_step=round(length.tokens_per_step),
        precision=precision,
        devices=[here, *gpus],
        notes=_notes(recipe, loaded),
        provenance=provenance(),
    )


def _teacher(recipe: Recipe) -> tuple[Teacher | None, BertForMaskedLM, str]:
    """The teacher if it can be had, a model for its costs, and where that comes from."""
    try:
        loaded = preparation.loaded_teacher(recipe)
    except OfflineError:
        config = known_shape(recipe.teacher.source)
        if config is None:
            raise
        with torch.random.fork_rng(devices=[]):
            return (
                None,
                BertForMaskedLM(config).eval(),
                "known shape, random weights: the hub is not reachable",
            )
    return loaded, loaded.model, "counted on the model"


def _corpus(recipe: Recipe, teacher: Teacher | None) -> tuple[int, int, int, str]:
    """Tokens and rows of the training part, tokens of the held-out part, and how they are known."""
    sources, length = recipe.corpus.sources, recipe.corpus.block_length
    if teacher is not None and all(spec.hub is None for spec in sources):
        corpus = preparation.prepared_corpus(recipe, teacher)
        return corpus.train.tokens, len(corpus.train), corpus.heldout.tokens, "counted"
    share = recipe.corpus.heldout_share
    tokens, how = forecast.estimated_tokens(sources, heldout_share=share)
    return tokens, max(1, tokens // length), max(1, round(tokens * share / (1 - share))), how


def _work(recipe: Recipe, length: RunLength, heldout_tokens: int) -> forecast.Work:
    train = recipe.train
    return forecast.Work(
        length=length,
        block_length=recipe.corpus.block_length,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        masked_share=recipe.masking.share,
        positions=recipe.loss.positions,
        heldout_tokens=min(heldout_tokens, train.heldout_tokens),
        evaluations=-(-length.steps // (train.evaluate_every or max(1, length.steps // 10))),
        checkpoint_every_s=train.checkpoint_minutes * 60,
    )


def _notes(recipe: Recipe, loaded: Teacher | None) -> list[str]:
    notes = [
        "predicted rows assume a share of the GPU's peak; they say nothing about your disk, network or cooling"
    ]
    if recipe.corpus.layout == "lines":
        notes.append(
            "layout 'lines': rows are shorter than block_length, so the times are upper bounds"
        )
    if loaded is not None and not loaded.has_mlm_head:
        fit = recipe.teacher.fit
        notes.append(
            f"before the first run, an MLM head is fitted to the teacher: {fit.steps} steps of about "
            f"{fit.batch_tokens} tokens, once (not in these times)"
        )
    if recipe.world_size > 1:
        notes.append(
            f"the recipe is meant for {recipe.world_size} processes; this machine is planned with one"
        )
    return notes
