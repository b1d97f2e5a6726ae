"""Sections of a recipe for the stages after distillation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgedistil.core.precision import DEFAULT_PRECISIONS, Precision
from edgedistil.core.recipe_types import Epochs, Length, Positive, Seeds, Threads
from edgedistil.core.toml import StrictSection


class Evaluate(StrictSection):
    """Labelled tasks on which teacher and student are compared."""

    tasks: list[str] = Field(
        ["sentiment"],
        min_length=1,
        description="Built-in tasks, groups (glue, paper) or task files.",
    )
    models: list[str] = Field(
        ["teacher", "student-step0", "student"],
        min_length=1,
        description="Models of the run that are fine-tuned and scored.",
    )
    seeds: Seeds = Field(1, description="Fine-tuning runs for each task and model.")
    epochs: Epochs | None = Field(
        None, description="Epochs of fine-tuning; by default as the task's file says."
    )
    train_limit: Positive | None = Field(
        None, description="Largest number of training examples; all by default."
    )


class Export(StrictSection):
    """ONNX artefacts that are written for the student."""

    precisions: list[Precision] = Field(
        list(DEFAULT_PRECISIONS), description="Precisions that are written; fp32 always is."
    )
    target: str = Field(
        "host", description="Device whose instruction set the artefacts are made for."
    )


class Profile(StrictSection):
    """What is profiled, and on which devices."""

    devices: list[str] = Field(
        ["host"],
        description="Devices; host is measured, a board without SSH is predicted.",
    )
    lengths: Annotated[list[Length], Field(min_length=1, max_length=100)] = Field(
        [16, 32, 64, 128, 256], description="Sequence lengths in tokens."
    )
    threads: Annotated[list[Threads], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Thread counts; 1 and all usable cores by default."
    )
    # Sentence pairs of STS-B's development set, which the paper timed.
    sentence_pairs: Positive = Field(
        1500,
        le=10**6,
        description="Sentence pairs of the pass that repeats the paper's table 3 (STS-B).",
    )
    claim_pairs: Positive = Field(
        200,
        le=10**6,
        description="Sentence pairs on which two models alternate for the speed claim.",
    )
