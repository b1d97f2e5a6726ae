"""Section of a recipe for the student: depth, widths, vocabulary and initial weights."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgedistil.core.echo import echo
from edgedistil.core.toml import StrictSection, check_exactly_one


class VocabularySection(StrictSection):
    """How small the student's vocabulary is; its teacher has the same tokens while it learns."""

    # Exactly one of size, coverage.
    size: Annotated[int, Field(gt=0, le=10**7)] | None = Field(
        None, description="Number of tokens that stay, the most frequent ones."
    )
    coverage: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Share of the counted tokens that stay as they are, such as 0.9995."
    )
    text: str | None = Field(
        None,
        min_length=1,
        description="UTF-8 file whose tokens are counted; by default the run's corpus.",
    )

    @model_validator(mode="after")
    def _check_one_of(self) -> Self:
        check_exactly_one(self, ("size", "coverage"))
        return self


class Student(StrictSection):
    """Depth, width, vocabulary and initial weights of the student."""

    layers: (
        Literal["alternate"]
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=256)]
    ) = Field(
        "alternate",
        description="Teacher layers that the student starts from; alternate takes every other one.",
    )
    init: str = Field(
        "teacher",
        description="teacher, random, or the folder of a student that is distilled further.",
    )
    # BERT always adds the segment-A embedding and DistilBERT has none: without this, the student's
    # embeddings differ from the teacher's from the first step.
    fold_segment: bool = Field(
        True,
        description="Add a BERT's segment-A embedding to its DistilBERT's position embeddings.",
    )
    copy_head_transform: bool = Field(
        True, description="Copy the dense layer and LayerNorm of the teacher's MLM head."
    )
    freeze_positions: bool = Field(False, description="Do not train the position embeddings.")
    # Dropout has 2^16 levels (models/fast/dropout.py): close to 1, every value would be dropped.
    dropout: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.1, description="Dropout of hidden states and attention weights."
    )
    intermediate: Annotated[int, Field(gt=0, le=10**6)] | None = Field(
        None,
        description="Feed-forward units that stay, the most important ones; by default the "
        "teacher's number.",
    )
    heads: Annotated[int, Field(gt=0, le=10**4)] | None = Field(
        None,
        description="Attention heads of a layer that stay, the most important ones; by default "
        "the teacher's number.",
    )
    embedding: Annotated[int, Field(gt=0, le=10**6)] | None = Field(
        None,
        description="Width of factorised word embeddings, for the objective representation; by "
        "default full.",
    )
    vocabulary: VocabularySection | None = Field(
        None, description="Size of a trimmed vocabulary; by default the teacher's vocabulary."
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        sizes = {
            "vocabulary": self.vocabulary,
            "intermediate": self.intermediate,
            "heads": self.heads,
            "embedding": self.embedding,
        }
        for name, value in sizes.items():
            if value is not None and self.init not in ("teacher", "random"):
                raise ValueError(
                    f'{name} is set and init is "{echo(self.init)}": a student that is distilled '
                    'further has its sizes already; expected init = "teacher" or "random"'
                )
        return self
