"""Teacher and student of a recipe, loaded, checked and built; shared by the run and its plan."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError, RecipeError
from edgedistil.core.family import FAMILIES
from edgedistil.core.paths import user_path
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, FitHead, Recipe
from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.core.recipe_student import Student as StudentSection
from edgedistil.data.token_store import TokenStore
from edgedistil.distill.fit_head import fit_head
from edgedistil.distill.objective import Kind, objective_kind
from edgedistil.models.factorised import check_rank, factorise_embeddings
from edgedistil.models.heads import check_heads
from edgedistil.models.mlm_head import head_names
from edgedistil.models.narrow import check_width
from edgedistil.models.student import (
    StudentOptions,
    alternate_layers,
    freeze_position_embeddings,
    load_student,
    make_student,
)
from edgedistil.models.teacher import Teacher, load_teacher

# --- teacher -------------------------------------------------------------------------------------


def teacher_name(section: TeacherSection) -> str:
    """Returns the last part of the teacher's hub id, folder or asset name."""
    return section.source.removeprefix("asset:").rstrip("/").rsplit("/", 1)[-1]


def load_recipe_teacher(section: TeacherSection) -> Teacher:
    """Loads the teacher of a recipe section [teacher].

    Raises:
        ModelError: See `load_teacher`.
        OfflineError: See `load_teacher`.
    """
    return load_teacher(section.source, revision=section.revision, cache=cache_root())


def recipe_objective(recipe: Recipe, teacher: Teacher) -> Kind:
    """Returns what the student of a recipe learns from its teacher.

    Raises:
        ModelError: The objective is mlm, the teacher has no MLM head, and none is to be fitted.
        RecipeError: The objective is mlm, and the recipe states a prompt of the teacher.
    """
    section = recipe.teacher
    kind = objective_kind(recipe.objective, section, has_mlm_head=teacher.has_mlm_head)
    if kind == "mlm":
        _check_mlm_head(teacher, section)
        _check_no_prompts(section)
    return kind


def corpus_section(recipe: Recipe, kind: Kind) -> Corpus:
    """Returns the recipe's section [corpus] with the layout that suits the objective."""
    if recipe.corpus.layout != "auto":
        return recipe.corpus
    layout = "texts" if kind == "representation" else "packed"
    return recipe.corpus.model_copy(update={"layout": layout})


def _check_mlm_head(teacher: Teacher, section: TeacherSection) -> None:
    """Raises ModelError unless a teacher has an MLM head, or one can be fitted."""
    if not teacher.has_mlm_head and section.mlm_head == "own":
        raise ModelError(
            f"teacher '{teacher.name}' has no MLM head, and teacher.mlm_head is \"own\"",
            hint='set objective.kind = "representation", which needs none, or '
            'teacher.mlm_head = "fit" to train one on the corpus first',
        )
    if not teacher.has_mlm_head and head_names(teacher.model).dense is None:
        raise ModelError(
            f"teacher '{teacher.name}' has no MLM head, and none can be fitted to a "
            f"{teacher.model.config.model_type}: its head is a projection only",
            hint="take a checkpoint with its MLM head",
        )


def _check_no_prompts(section: TeacherSection) -> None:
    """Raises RecipeError if a recipe states a prompt, which a masked LM is trained without."""
    for key in ("query_prompt", "document_prompt"):
        prompt = getattr(section, key)
        if prompt is not None:
            raise RecipeError(
                f"teacher.{key} is {echo(prompt)}, and the objective is mlm, which has no prompts",
                hint=f'set objective.kind = "representation", or leave teacher.{key} out',
            )


def with_mlm_head(teacher: Teacher, store: TokenStore, settings: FitHead, *, seed: int) -> Teacher:
    """Returns the teacher itself, or a copy with a head fitted on the corpus if it has none.

    Args:
        teacher: The teacher.
        store: Rows of the training part.
        settings: Recipe section [teacher.fit].
        seed: Seed of the fitting.
    """
    if teacher.has_mlm_head:
        return teacher
    return fit_head(teacher, store, settings, seed=seed, cache=cache_root())


# --- student -------------------------------------------------------------------------------------


def student_source(original: Teacher, teacher: Teacher) -> PreTrainedModel:
    """Returns the model that a student starts from: the given encoder, with the fitted head.

    Args:
        original: The teacher before a head was fitted to a copy of it.
        teacher: The teacher with its head; `original` itself where none was fitted.
    """
    if original is teacher:
        return teacher.model
    model = copy.deepcopy(teacher.model)
    model.base_model.load_state_dict(original.model.base_model.state_dict())
    return model


def layer_map(section: StudentSection, teacher: PreTrainedModel) -> list[int]:
    """Returns the teacher layers that the student's layers start from.

    Raises:
        ModelError: The recipe names no layer, or one that the teacher does not have.
    """
    depth = teacher.config.num_hidden_layers
    if section.layers == "alternate":
        return alternate_layers(depth)
    # The recipe is checked without the teacher, so its layers are checked here.
    outside = [layer for layer in section.layers if layer >= depth]
    if outside:
        raise ModelError(
            f"student.layers {section.layers}: the teacher has no layer {outside[0]}",
            hint=f"its layers are 0 to {depth - 1}",
        )
    return section.layers


def build_student(
    section: StudentSection,
    teacher: PreTrainedModel,
    *,
    seed: int,
    has_head: bool = True,
    rows: Sequence[Sequence[int]] = (),
) -> PreTrainedModel:
    """Builds or loads the student of a recipe section [student]; raises ModelError.

    Args:
        section: Recipe section [student].
        teacher: Model that the student's layers come from.
        seed: Seed of random weights.
        has_head: Whether a folder to start from has the MLM head.
        rows: Token ids of texts that decide which heads are important.
    """
    layers = layer_map(section, teacher)
    folder = initial_folder(section)
    # A student of an earlier run, to be distilled further.
    if folder is not None:
        student = load_student(
            folder, teacher, layers=len(layers), dropout=section.dropout, has_head=has_head
        )
        if section.freeze_positions:
            freeze_position_embeddings(student)
        return student
    # A new one, from the teacher's layers or with random weights.
    options = StudentOptions(
        init="random" if section.init == "random" else "teacher",
        fold_segment=section.fold_segment,
        copy_head_transform=section.copy_head_transform,
        freeze_positions=section.freeze_positions,
        dropout=section.dropout,
        seed=seed,
        intermediate=section.intermediate,
        heads=section.heads,
    )
    student = make_student(teacher, layer_map=layers, options=options, rows=rows)
    if section.embedding is not None:
        # Without its MLM head, which `check_fit` makes sure that nothing needs.
        student = factorise_embeddings(student.base_model, section.embedding)
    return student


def check_fit(
    student: StudentSection, corpus: Corpus, teacher: PreTrainedModel, *, has_head: bool = True
) -> None:
    """Checks that student and corpus of a recipe fit the teacher, before a corpus is built.

    Raises:
        ModelError: Sequences are longer than the teacher's, a layer does not exist, the student
            would be wider than the teacher, or the folder that it starts from does not fit.
    """
    family = FAMILIES[teacher.config.model_type]
    positions = family.positions_limit(teacher.config.to_dict())
    if corpus.block_length > positions:
        raise ModelError(
            f"corpus.block_length is {corpus.block_length}; "
            f"the teacher has positions for {positions} tokens",
            hint=f"set corpus.block_length to at most {positions}",
        )
    layers = layer_map(student, teacher)
    if student.heads is not None:
        check_heads(teacher, student.heads)
    if student.intermediate is not None:
        check_width(teacher, student.intermediate)
    if student.embedding is not None:
        _check_embedding(student.embedding, teacher, has_head=has_head)
    # Loaded here only for its checks: building a corpus can take hours.
    folder = initial_folder(student)
    if folder is not None:
        load_student(folder, teacher, layers=len(layers), dropout=0.0, has_head=has_head)


def _check_embedding(rank: int, teacher: PreTrainedModel, *, has_head: bool) -> None:
    """Raises ModelError unless a student can have word embeddings of this width."""
    if has_head:
        raise ModelError(
            f"student.embedding is {rank}, and the objective is mlm, whose head shares the word "
            "embeddings",
            hint='set objective.kind = "representation", or leave student.embedding out',
        )
    check_rank(teacher, rank)


def initial_folder(section: StudentSection) -> Path | None:
    """Returns the folder of the student to distil further; None if the student is built."""
    return None if section.init in ("teacher", "random") else user_path(section.init)
