"""Section [objective] of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgedistil.core.recipe_types import Positive, Temperature, Weight
from edgedistil.core.toml import StrictSection

# The similarity loss compares a text with two others at least.
LEAST_COMPARED_TEXTS = 3


class Objective(StrictSection):
    """What the student learns: masked words, or the teacher's states and sentence vectors."""

    # auto: representation for a teacher without an MLM head, unless one is to be fitted.
    kind: Literal["auto", "mlm", "representation"] = Field(
        "auto",
        description="mlm has the losses of [loss], representation those below; "
        "auto is mlm for a teacher with a head.",
    )
    vector: Weight = Field(
        1.0, description="Weight of the squared distance between normalized sentence vectors."
    )
    similarity: Weight = Field(
        0.0,
        description="Weight of the KL divergence between the similarities of a text to the others "
        "of its micro-batch.",
    )
    # In units of a cosine; smaller values look at the nearest texts only.
    temperature: Temperature = Field(0.05, description="Temperature of these similarities.")
    states: Weight = Field(
        1.0, description="Weight of the cosine distance between the last token states."
    )
    layers: Weight = Field(
        0.0,
        description="Weight of the cosine distance between states at the same share of the depth.",
    )
    relations: Weight = Field(
        0.0, description="Weight of MiniLMv2's relations of queries, keys and values."
    )
    relation_heads: Annotated[int, Field(gt=0, le=1024)] = Field(
        12, description="Parts of the width whose relations are compared; divides both widths."
    )
    dimensions: Annotated[list[Positive], Field(max_length=16)] = Field(
        [],
        description="Lengths that vectors are also cut to, for a Matryoshka teacher.",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not any((self.vector, self.similarity, self.states, self.layers, self.relations)):
            raise ValueError(
                "all loss weights are 0, so nothing would be trained;"
                " set vector, similarity, states, layers or relations"
            )
        if self.dimensions and not self.vector:
            raise ValueError("dimensions belong to the vector loss, and its weight is 0")
        return self
