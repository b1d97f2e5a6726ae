"""Teacher, corpus and student of a recipe: loaded, checked, made. What the run and its plan have in common."""

from __future__ import annotations

from pathlib import Path

from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.assets import cache_root
from edgedistil.core.errors import ModelError
from edgedistil.core.recipe import Recipe
from edgedistil.data.corpus import TokenizedCorpus, prepare_corpus
from edgedistil.distill.fit_head import fit_head
from edgedistil.distill.schedule import RunLength, run_length
from edgedistil.models.student import (
    alternate_layers,
    freeze_position_embeddings,
    load_student,
    make_student,
)
from edgedistil.models.teacher import Teacher, load_teacher


def teacher_name(recipe: Recipe) -> str:
    return recipe.teacher.source.removeprefix("asset:").rstrip("/").rsplit("/", 1)[-1]


def loaded_teacher(recipe: Recipe) -> Teacher:
    """
    Raises:
        ModelError, OfflineError: See `load_teacher`.
        ModelError: It has no MLM head and none is to be fitted.
    """
    teacher = load_teacher(
        recipe.teacher.source, revision=recipe.teacher.revision, cache=cache_root()
    )
    if not teacher.has_mlm_head and recipe.teacher.mlm_head == "own":
        raise ModelError(
            f"teacher '{teacher.name}' has no MLM head, and teacher.mlm_head is \"own\"",
            hint='set teacher.mlm_head = "fit" to train one on the corpus first',
        )
    return teacher


def check_fit(recipe: Recipe, teacher: BertForMaskedLM) -> None:
    """
    Raises:
        ModelError: The recipe asks for longer sequences or other layers than this teacher has, or for a student to
            start from that does not fit it.
    """
    positions = teacher.config.max_position_embeddings
    if recipe.corpus.block_length > positions:
        raise ModelError(
            f"corpus.block_length {recipe.corpus.block_length} is longer than the teacher's positions, {positions}",
            hint=f"set corpus.block_length to at most {positions}",
        )
    layers, init = layer_map(recipe, teacher), recipe.student.init
    if init not in ("teacher", "random"):
        load_student(
            Path(init), teacher, layers=len(layers), dropout=0.0
        )  # told before a corpus is built


def layer_map(recipe: Recipe, teacher: BertForMaskedLM) -> list[int]:
    """
    Raises:
        ModelError: A layer that the teacher does not have.
    """
    depth = teacher.config.num_hidden_layers
    if recipe.student.layers == "alternate":
        return alternate_layers(depth)
    outside = [layer for layer in recipe.student.layers if layer >= depth]
    if outside or not recipe.student.layers:
        problem = f"the teacher has no layer {outside[0]}" if outside else "a student needs a layer"
        raise ModelError(
            f"student.layers {recipe.student.layers}: {problem}",
            hint=f"its layers are 0 to {depth - 1}",
        )
    return recipe.student.layers


def prepared_corpus(recipe: Recipe, teacher: Teacher) -> TokenizedCorpus:
    """The recipe's corpus in the teacher's words, out of the cache or built into it."""
    return prepare_corpus(recipe.corpus, teacher.folder, cache=cache_root())


def with_head(recipe: Recipe, teacher: Teacher, corpus: TokenizedCorpus) -> Teacher:
    """The teacher, with a head fitted on the corpus if it came without."""
    if teacher.has_mlm_head:
        return teacher
    fit = recipe.teacher.fit
    return fit_head(
        teacher,
        corpus.train,
        steps=fit.steps,
        batch_tokens=fit.batch_tokens,
        learning_rate=fit.learning_rate,
        encoder_rate=fit.encoder_rate,
        warmup=fit.warmup,
        seed=recipe.seed,
        cache=cache_root(),
    )


def made_student(recipe: Recipe, teacher: BertForMaskedLM) -> DistilBertForMaskedLM:
    """
    Raises:
        ModelError: See `make_student` and `load_student`.
    """
    layers, init = layer_map(recipe, teacher), recipe.student.init
    if init not in ("teacher", "random"):
        student = load_student(
            Path(init), teacher, layers=len(layers), dropout=recipe.student.dropout
        )
        if recipe.student.freeze_positions:
            freeze_position_embeddings(student)
        return student
    return make_student(
        teacher,
        layer_map=layers,
        init="random" if init == "random" else "teacher",
        fold_segment=recipe.student.fold_segment,
        copy_head_transform=recipe.student.copy_head_transform,
        freeze_positions=recipe.student.freeze_positions,
        dropout=recipe.student.dropout,
        seed=recipe.seed,
    )


def length_of(recipe: Recipe, *, corpus_tokens: int, corpus_rows: int) -> RunLength:
    train = recipe.train
    return run_length(
        corpus_tokens,
        corpus_rows,
        tokens=train.tokens,
        epochs=train.epochs,
        steps=train.steps,
        global_batch=train.global_batch,
    )
