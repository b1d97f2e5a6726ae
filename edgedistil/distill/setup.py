"""Teacher and student of a recipe, loaded, checked and built; shared by the run and its plan."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.paths import user_path
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, FitHead
from edgedistil.core.recipe import Student as StudentSection
from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.data.token_store import TokenStore
from edgedistil.distill.fit_head import fit_head
from edgedistil.models.mlm_head import head_names
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
        ModelError: See `load_teacher`; or it has no MLM head, and none is to be fitted.
        OfflineError: See `load_teacher`.
    """
    teacher = load_teacher(section.source, revision=section.revision, cache=cache_root())
    if not teacher.has_mlm_head and section.mlm_head == "own":
        raise ModelError(
            f"teacher '{teacher.name}' has no MLM head, and teacher.mlm_head is \"own\"",
            hint='set teacher.mlm_head = "fit" to train one on the corpus first',
        )
    if not teacher.has_mlm_head and head_names(teacher.model).dense is None:
        raise ModelError(
            f"teacher '{teacher.name}' has no MLM head, and none can be fitted to a "
            f"{teacher.model.config.model_type}: its head is a projection only",
            hint="take a checkpoint with its MLM head",
        )
    return teacher


def with_mlm_head(teacher: Teacher, store: TokenStore, settings: FitHead, *, seed: int) -> Teacher:
    """Returns the teacher, with a head fitted on the corpus if it has none.

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
    section: StudentSection, teacher: PreTrainedModel, *, seed: int
) -> PreTrainedModel:
    """Builds or loads the student of a recipe section [student]; raises ModelError."""
    layers = layer_map(section, teacher)
    folder = _initial_folder(section)
    # A student of an earlier run, to be distilled further.
    if folder is not None:
        student = load_student(folder, teacher, layers=len(layers), dropout=section.dropout)
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
    )
    return make_student(teacher, layer_map=layers, options=options)


def check_fit(student: StudentSection, corpus: Corpus, teacher: PreTrainedModel) -> None:
    """Checks that student and corpus of a recipe fit the teacher, before a corpus is built.

    Raises:
        ModelError: Sequences are longer than the teacher's, a layer does not exist, or the folder
            that the student starts from does not fit.
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
    # Loaded here only for its checks: building a corpus can take hours.
    folder = _initial_folder(student)
    if folder is not None:
        load_student(folder, teacher, layers=len(layers), dropout=0.0)


def _initial_folder(section: StudentSection) -> Path | None:
    """Folder of the student to distil further; None if the student is built."""
    return None if section.init in ("teacher", "random") else user_path(section.init)
