"""Teacher and student of the objective `representation`, with the way they make vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError
from edgedistil.core.paths import user_path
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.core.recipe_objective import Objective as ObjectiveSection
from edgedistil.core.regular_file import read_regular
from edgedistil.core.sentence_vector import (
    SETTINGS_FILE,
    SentenceVector,
    Step,
    read_sentence_vector,
)
from edgedistil.data.texts import Prompts
from edgedistil.distill.answers import check_answers_file
from edgedistil.distill.representation import check_relation_heads
from edgedistil.models.fast.encoder import check_projections
from edgedistil.models.sentence_encoder import SentenceEncoder, build_head, new_head, step_layers
from edgedistil.models.teacher import Teacher

# Keys of config.json with which publishers say that vectors may be cut; vLLM reads them, too.
_MATRYOSHKA_KEYS = ("matryoshka_dimensions", "is_matryoshka")
# Tag that sentence-transformers writes into the card of a model trained for it.
_MATRYOSHKA_TAG = b"loss:MatryoshkaLoss"
_LIMIT_BYTES = 2**24


def read_prompts(vector: SentenceVector) -> Prompts:
    """Returns the texts that a model puts before queries and documents."""
    return Prompts(query=vector.prompt("query"), document=vector.prompt("document"))


def teacher_vector(teacher: Teacher, section: TeacherSection) -> SentenceVector:
    """Returns how the teacher makes its vectors; warns if that is a guess.

    Raises:
        ModelError: A module is not supported, or the recipe contradicts the folder.
    """
    vector = read_sentence_vector(teacher.folder, hidden=teacher.model.config.hidden_size)
    vector = with_stated_prompts(vector, section)
    if section.pooling is None:
        # The run's copy of the folder would have to state the guess as a fact.
        if vector.is_guess and vector.prompts:
            raise ModelError(
                f"the recipe states a prompt of teacher '{teacher.name}', and nothing says how the "
                "teacher pools",
                hint="set teacher.pooling as well, as the model's documentation describes",
            )
        if vector.is_guess:
            console.warn(
                f"teacher '{teacher.name}' has no modules.json: its vectors are taken to be the "
                "mean of its states; set teacher.pooling if it pools in another way"
            )
        return vector
    if not vector.is_guess and vector.pooling != (section.pooling,):
        raise ModelError(
            f'teacher.pooling is "{section.pooling}", and the teacher\'s own modules.json says '
            f"{vector.in_words()}",
            hint="remove teacher.pooling",
        )
    return vector.with_pooling(section.pooling) if vector.is_guess else vector


def with_stated_prompts(vector: SentenceVector, section: TeacherSection) -> SentenceVector:
    """Returns the description of a folder with the prompts that the recipe states.

    Raises:
        ModelError: The folder has another prompt.
    """
    sides: tuple[Literal["query", "document"], ...] = ("query", "document")
    for side in sides:
        stated = section.query_prompt if side == "query" else section.document_prompt
        stored = vector.prompt(side)
        if stated is None or stated == stored:
            continue
        # Two descriptions of one model: which of them is right only the user knows.
        if stored:
            raise ModelError(
                f"teacher.{side}_prompt is {echo(stated)}, and the teacher's own "
                f"{SETTINGS_FILE} says {echo(stored)}",
                hint=f"remove teacher.{side}_prompt",
            )
        vector = replace(vector, prompts={**vector.prompts, side: stated})
    return vector


def added_description(teacher: Teacher, vector: SentenceVector) -> SentenceVector | None:
    """Returns a teacher's description if the recipe adds to what its folder says; else None."""
    hidden = teacher.model.config.hidden_size
    return None if vector == read_sentence_vector(teacher.folder, hidden=hidden) else vector


def check_objective(
    recipe: Recipe, teacher: Teacher, vector: SentenceVector, *, layout: str
) -> None:
    """Checks that a teacher has what the objective `representation` compares, before any text.

    Args:
        recipe: The recipe.
        teacher: The teacher.
        vector: How it makes its vectors.
        layout: Layout of the corpus.
    Raises:
        ModelError: The teacher cannot be compared in this way.
        CorpusError: There is no such file of vectors.
    """
    objective = recipe.objective
    if recipe.teacher.answers is None:
        allowed = recipe.teacher.is_matryoshka
        check_dimensions(objective, teacher, vector.dimension, allowed=allowed)
    else:
        # The width of its vectors is known when it was read.
        check_answers_file(user_path(recipe.teacher.answers), layout)
    if objective.relations > 0:
        check_projections(teacher.model)
    check_relation_heads(objective, teacher=teacher.model)


def check_dimensions(
    section: ObjectiveSection, teacher: Teacher, dimension: int, *, allowed: bool
) -> None:
    """Raises ModelError if vectors are to be cut to lengths that the teacher does not support.

    Args:
        section: Recipe section [objective].
        teacher: The teacher.
        dimension: Values of the vectors that are learned.
        allowed: Whether the recipe says that its vectors may be cut.
    """
    if not section.dimensions:
        return
    longest = max(section.dimensions)
    if longest >= dimension:
        raise ModelError(
            f"objective.dimensions has {longest}; expected less than the vectors' "
            f"{dimension} values"
        )
    if not allowed and not is_matryoshka(teacher.folder):
        raise ModelError(
            f"objective.dimensions = {section.dimensions}: nothing in the folder of teacher "
            f"'{teacher.name}' says that its vectors may be cut",
            hint="leave dimensions out, or set teacher.is_matryoshka = true if you know that it "
            "was trained for it",
        )


def is_matryoshka(folder: Path) -> bool:
    """Whether a model folder says that the first values of its vectors are vectors too."""
    config: dict[str, Any] = json.loads(
        read_regular(folder / "config.json", limit_bytes=_LIMIT_BYTES)
    )
    if any(config.get(key) for key in _MATRYOSHKA_KEYS):
        return True
    card = folder / "README.md"
    return card.is_file() and _MATRYOSHKA_TAG in read_regular(card, limit_bytes=_LIMIT_BYTES)


def teacher_encoder(teacher: Teacher, vector: SentenceVector) -> SentenceEncoder:
    """Returns the teacher without its MLM head, with its pooling and the layers after it."""
    head = build_head(vector, teacher.folder).requires_grad_(False)
    return SentenceEncoder(teacher.model.base_model, vector, head).eval()


def student_encoder(
    student: PreTrainedModel, teacher: SentenceEncoder, *, dimension: int, seed: int
) -> SentenceEncoder:
    """Returns the student with pooling and layers whose vectors are in the teacher's space.

    It pools as the teacher does and starts from the teacher's layers. If the vectors to learn have
    another width, it learns a dense layer before the normalization.

    Args:
        student: The student, of the teacher's hidden width; an MLM head is left out.
        teacher: The teacher.
        dimension: Values of the vectors to learn.
        seed: Seed of dense layers that the teacher does not have.
    """
    backbone: PreTrainedModel = student.base_model
    vector = teacher.vector
    # The teacher's steps, with the number of the teacher's layer that each starts from.
    steps: list[tuple[Step, int | None]] = [(step, i) for i, step in enumerate(vector.steps)]
    if dimension != vector.dimension:
        place = len(steps) - 1 if vector.is_normalized else len(steps)
        added = Step(
            "dense",
            inputs=vector.dimension,
            outputs=dimension,
            has_bias=False,
            activation="identity",
        )
        steps.insert(place, (added, None))

    described = replace(
        vector, steps=tuple(step for step, _ in steps), dimension=dimension, is_guess=False
    )
    # The caller's random state is left as it is.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = new_head(described.steps)
        _initialize(head, teacher.head, [source for _, source in steps])
    return SentenceEncoder(backbone, described, head).train()


def _initialize(head: nn.Module, teacher_head: nn.Module, sources: list[int | None]) -> None:
    """Copies the teacher's layers; draws the others so that they preserve angles."""
    teacher_layers = step_layers(teacher_head)
    for layer, source in zip(step_layers(head), sources, strict=True):
        if layer is None:
            continue
        if source is None:
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight)
            continue
        teacher_layer = teacher_layers[source]
        assert teacher_layer is not None
        layer.load_state_dict(teacher_layer.state_dict())


def load_layers(student: SentenceEncoder, folder: Path) -> None:
    """Loads the layers after the pooling of a student that is distilled further.

    Raises:
        ModelError: The folder makes its vectors in another way.
    """
    stored = read_sentence_vector(folder, hidden=student.backbone.config.hidden_size)
    # Folders of steps may differ.
    pooling_and_steps = [
        (vector.pooling, [replace(step, folder="") for step in vector.steps])
        for vector in (stored, student.vector)
    ]
    if pooling_and_steps[0] != pooling_and_steps[1]:
        raise ModelError(
            f'student.init "{folder}" makes its vectors in another way than the teacher: '
            f"{stored.in_words()}; expected {student.vector.in_words()}",
            hint="expected the student of a run with the same teacher",
        )
    student.head.load_state_dict(build_head(stored, folder).state_dict())
