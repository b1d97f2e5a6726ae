"""Numbers of a recipe with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgedistil.core.options import MAX_LENGTH, MAX_SEEDS, MAX_THREADS

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
# Upper bounds are far above any use, and low enough that nothing overflows or fails for lack of
# memory after teacher and corpus are prepared: docs/decisions.md#bounds-of-recipe-values.
Epochs = Annotated[int, Field(gt=0, le=100_000)]
Seeds = Annotated[int, Field(gt=0, le=MAX_SEEDS)]
Temperature = Annotated[float, Field(ge=0.01, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Length = Annotated[int, Field(ge=2, le=MAX_LENGTH)]
Threads = Annotated[int, Field(gt=0, le=MAX_THREADS)]
