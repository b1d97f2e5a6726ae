"""Objective, held-out evaluation and saving of a run, for whatever its student learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator, PartialState
from transformers import PreTrainedModel

from edgedistil.core.distill_records import HeldoutFigures
from edgedistil.core.recipe import Recipe
from edgedistil.data.corpus import Part
from edgedistil.distill.batches import RunBatches
from edgedistil.distill.distributed import TORCH_DTYPES, Precision, run_on_main
from edgedistil.distill.folders import save_student
from edgedistil.distill.heldout import HeldoutEvaluator
from edgedistil.distill.heldout_vectors import VectorEvaluator
from edgedistil.distill.initialize import PreparedRun
from edgedistil.distill.objective import Objective
from edgedistil.distill.plan.reuse import ReadText, teacher_reuse
from edgedistil.distill.plan.timing import TimedObjective
from edgedistil.distill.representation import compared_layers, reads_states, token_states
from edgedistil.distill.run_objective import (
    MlmModels,
    SentenceModels,
    build_objective,
    has_other_encoder,
    random_targets,
    timed_objective,
)
from edgedistil.distill.sentence_setup import teacher_encoder
from edgedistil.distill.state_cache import (
    StateCache,
    claim_folder,
    is_worth_caching,
    remove_folder,
    states_bytes,
)
from edgedistil.distill.targets import FileTargets, Targets, TeacherTargets, is_worth_reusing
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.models.teacher import Teacher


@dataclass(frozen=True)
class Learning:
    """What differs between the objectives of the loop.

    Attributes:
        objective: Student, teacher and losses.
        batches: Batches of the run.
        evaluate: Returns the held-out figures of the teacher, or of the student after some steps.
        save: Writes the student to a folder.
    """

    objective: Objective
    batches: RunBatches
    evaluate: Callable[[Literal["teacher", "student"], int], HeldoutFigures]
    save: Callable[[Path], None]


def open_learning(
    recipe: Recipe,
    prepared: PreparedRun,
    *,
    accelerator: Accelerator,
    precision: Precision,
    device: torch.device,
) -> Learning:
    """Moves the models of a run to the device and joins them with their losses.

    Args:
        recipe: The recipe.
        prepared: Models and corpus; the teacher is cast in place.
        accelerator: Supplies autocast and processes.
        precision: What the loop computes in.
        device: The device of this process.
    """
    opener = _open_mlm if prepared.sentence is None else _open_representation
    return opener(recipe, prepared, accelerator, precision, device)


def _open_mlm(
    recipe: Recipe,
    prepared: PreparedRun,
    accelerator: Accelerator,
    precision: Precision,
    device: torch.device,
) -> Learning:
    """The paper's losses, with masks."""
    tokenizer = prepared.teacher.tokenizer
    teacher, student = _on_device(prepared, precision, device)
    original = None
    if _has_original(recipe, prepared):
        original = freeze_teacher(prepared.original.model, dtype=TORCH_DTYPES[precision]).to(device)
    batches = RunBatches(
        prepared.corpus, tokenizer, recipe.masking, seed=recipe.seed, device=device
    )
    evaluator = HeldoutEvaluator(
        batches.heldout(tokens=recipe.train.heldout_tokens),
        teacher,
        accelerator=accelerator,
        mask_id=tokenizer.require("mask"),
    )
    models = {"teacher": teacher, "student": student}
    return Learning(
        build_objective(
            MlmModels(recipe.loss, student, teacher, original), compiled=recipe.train.compile
        ),
        batches,
        lambda name, step: evaluator.evaluate(models[name], name=name, step=step),
        lambda folder: save_student(student.cpu().eval(), tokenizer, folder),
    )


def _open_representation(
    recipe: Recipe,
    prepared: PreparedRun,
    accelerator: Accelerator,
    precision: Precision,
    device: torch.device,
) -> Learning:
    """Losses on states and sentence vectors, without masks."""
    assert prepared.sentence is not None
    tokenizer = prepared.teacher.tokenizer
    _on_device(prepared, precision, device)
    student = prepared.sentence.student.to(device)
    teacher = teacher_encoder(prepared.teacher, prepared.sentence.teacher_vector).to(device)
    objective = build_objective(
        SentenceModels(recipe.objective, student, teacher),
        targets=training_targets(recipe, prepared, teacher, accelerator),
        cache=_state_cache(recipe, prepared, teacher, accelerator),
        compiled=recipe.train.compile,
    )
    # No masker: the texts are read as they are.
    batches = RunBatches(prepared.corpus, tokenizer, None, seed=recipe.seed, device=device)
    evaluator = VectorEvaluator(
        batches.heldout(tokens=recipe.train.heldout_tokens),
        teacher,
        targets=_heldout_targets(recipe, prepared, teacher, device),
        accelerator=accelerator,
    )
    models = {"teacher": None, "student": student}
    return Learning(
        objective,
        batches,
        lambda name, step: evaluator.evaluate(models[name], name=name, step=step),
        lambda folder: _save_encoder(student, prepared, folder),
    )


def trial_objective(
    recipe: Recipe, prepared: PreparedRun, precision: Precision, *, rows: int
) -> TimedObjective:
    """Returns the losses of a run with a copy of its teacher in a precision, to be timed.

    Args:
        recipe: The recipe.
        prepared: Models of the run; the student is not copied.
        precision: What the teacher is cast to.
        rows: Rows of the batches that it is timed on.
    """
    teacher = _frozen_copy(prepared.teacher, precision)
    if prepared.sentence is None:
        original = None
        if _has_original(recipe, prepared):
            original = _frozen_copy(prepared.original, precision).model
        models = MlmModels(recipe.loss, prepared.student, teacher.model, original)
        return timed_objective(models, teacher_share=1.0)
    sentence, store = prepared.sentence, prepared.corpus.train
    reuse = teacher_reuse(
        recipe,
        teacher.model,
        prepared.student,
        ReadText(store.tokens, len(store), _passes(prepared)),
        dimension=sentence.teacher_vector.dimension,
        dtype=TORCH_DTYPES[precision],
        device=prepared.student.device,
        processes=PartialState().num_processes,
    )
    encoder = teacher_encoder(teacher, sentence.teacher_vector)
    targets = None
    if sentence.answers is not None:
        targets = random_targets(sentence.student, rows=rows)
    return timed_objective(
        SentenceModels(recipe.objective, sentence.student, encoder),
        teacher_share=reuse.teacher_share,
        targets=targets,
    )


def _frozen_copy(teacher: Teacher, precision: Precision) -> Teacher:
    """A teacher that is cast to a precision; the given one in float32."""
    # The cast is in place, and the teacher may be needed in float32.
    model = teacher.model if precision == "float32" else copy.deepcopy(teacher.model)
    return replace(teacher, model=freeze_teacher(model, dtype=TORCH_DTYPES[precision]))


def training_targets(
    recipe: Recipe, prepared: PreparedRun, teacher: SentenceEncoder, accelerator: Accelerator
) -> Targets | None:
    """Returns the vectors of the training part; None if each batch computes them.

    Args:
        recipe: The recipe.
        prepared: Corpus, tokenizer, and vectors of a file, if there is one.
        teacher: The teacher, on the device.
        accelerator: Supplies device and number of processes.
    """
    passes = _passes(prepared) / accelerator.num_processes
    return _part_targets(recipe, prepared, teacher, "train", accelerator.device, passes=passes)


def _heldout_targets(
    recipe: Recipe, prepared: PreparedRun, teacher: SentenceEncoder, device: torch.device
) -> Targets | None:
    """The vectors of the held-out part; None if they come from its batches."""
    # Computed once in a session, of as many tokens as an evaluation reads.
    passes = recipe.train.heldout_tokens / prepared.corpus.heldout.tokens
    return _part_targets(recipe, prepared, teacher, "heldout", device, passes=passes)


def _part_targets(
    recipe: Recipe,
    prepared: PreparedRun,
    teacher: SentenceEncoder,
    part: Part,
    device: torch.device,
    *,
    passes: float,
) -> Targets | None:
    assert prepared.sentence is not None
    answers = prepared.sentence.answers
    if answers is not None:
        return FileTargets(answers.vectors[part], device=device)
    store, pad_id = prepared.corpus.store(part), prepared.teacher.tokenizer.pad_id
    dimension = teacher.vector.dimension
    is_reused = is_worth_reusing(passes, rows=len(store), dimension=dimension)
    if reads_states(recipe.objective) or not is_reused:
        return None
    return TeacherTargets(teacher, store, pad_id=pad_id, device=device)


def _passes(prepared: PreparedRun) -> float:
    """How often the run reads its training part."""
    return prepared.length.tokens / prepared.corpus.train.tokens


def _state_cache(
    recipe: Recipe, prepared: PreparedRun, teacher: SentenceEncoder, accelerator: Accelerator
) -> StateCache | None:
    """The teacher's states for all passes over the text; None if each pass computes them."""
    assert prepared.sentence is not None
    settings, store, folder = recipe.train, prepared.corpus.train, prepared.states_folder
    passes = _passes(prepared)
    limit_gib = settings.state_cache_gib
    is_wanted = is_worth_caching(passes, limit_gib=limit_gib, device=accelerator.device)
    if not (is_wanted and reads_states(recipe.objective)):
        # An interrupted session may have had another limit.
        run_on_main(PartialState(), lambda: remove_folder(folder))
        return None
    layers = compared_layers(recipe.objective, prepared.sentence.student.backbone, teacher.backbone)
    with accelerator.autocast():
        token = token_states(teacher.backbone, layers)
    size = states_bytes(store.tokens, token)
    if not run_on_main(PartialState(), lambda: claim_folder(folder, size, limit_gib=limit_gib)):
        return None
    return StateCache(folder, store, token)


def _on_device(
    prepared: PreparedRun, precision: Precision, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Teacher, frozen and cast, and student on the device."""
    teacher = freeze_teacher(prepared.teacher.model, dtype=TORCH_DTYPES[precision])
    return teacher.to(device), prepared.student.to(device)


def _has_original(recipe: Recipe, prepared: PreparedRun) -> bool:
    """Whether the copy with a fitted head has another encoder than the teacher as given."""
    is_fitted = prepared.original is not prepared.teacher
    return has_other_encoder(recipe.teacher.fit, is_fitted=is_fitted)


def _save_encoder(student: SentenceEncoder, prepared: PreparedRun, folder: Path) -> None:
    student = student.cpu().eval()
    save_student(student.backbone, prepared.teacher.tokenizer, folder, sentence=student)
