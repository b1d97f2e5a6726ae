"""Share of the micro-batches that a run computes its teacher for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgedistil.core.format import gibibytes
from edgedistil.core.recipe import Recipe
from edgedistil.distill.representation import compared_layers, reads_states
from edgedistil.distill.state_cache import GIB, is_worth_caching
from edgedistil.distill.targets import MEMORY_BYTES, is_worth_reusing, vectors_bytes


@dataclass(frozen=True)
class ReadText:
    """Text of a run's training part.

    Attributes:
        tokens: Its tokens.
        rows: Its rows.
        passes: How often the run reads it.
    """

    tokens: int
    rows: int
    passes: float


@dataclass(frozen=True)
class TeacherReuse:
    """What a run reads of the teacher instead of computing it.

    Attributes:
        teacher_share: Share of the micro-batches that the teacher computes.
        note: What a plan says of it; None if there is nothing to say.
    """

    teacher_share: float = 1.0
    note: str | None = None


def teacher_reuse(
    recipe: Recipe,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    text: ReadText | None,
    *,
    dimension: int | None,
    dtype: torch.dtype,
    device: torch.device,
    processes: int = 1,
) -> TeacherReuse:
    """Returns what a run reads, as far as it is known without the disk of the run.

    Args:
        recipe: The recipe.
        teacher, student: The models.
        text: The text; None if its size is unknown.
        dimension: Values of the teacher's vectors; None for the objective mlm, whose masks are
            other ones in each pass.
        dtype: What the loop computes in.
        device: Device of the loop.
        processes: Number of processes.
    """
    if dimension is None:
        return TeacherReuse()
    if recipe.teacher.answers is not None:
        return TeacherReuse(0.0, "the vectors of teacher.answers are read; the teacher is not run")
    if text is None:
        return TeacherReuse()
    if not reads_states(recipe.objective):
        return _reused_vectors(text, dimension=dimension, processes=processes)
    limit_gib = recipe.train.state_cache_gib
    if not is_worth_caching(text.passes, limit_gib=limit_gib, device=device):
        return TeacherReuse()
    layers = compared_layers(recipe.objective, student, teacher)
    size = text.tokens * len(layers) * teacher.config.hidden_size * dtype.itemsize
    read = f"the text is read {text.passes:.1f} times, by the teacher"
    if size > limit_gib * GIB:
        return TeacherReuse(
            note=f"{read} each time: its states would take {gibibytes(size)} GiB, and "
            f"train.state_cache_gib is {limit_gib:g}"
        )
    # Processes share the file, so that each computes its part of the first pass.
    note = (
        f"{read} once if {gibibytes(2 * size)} GiB of the disk are free: its states are cached in "
        f"a file of {gibibytes(size)} GiB"
    )
    return TeacherReuse(1 / text.passes, note)


def _reused_vectors(text: ReadText, *, dimension: int, processes: int) -> TeacherReuse:
    """Vectors in memory: every process computes those of all texts."""
    passes = text.passes / processes
    if is_worth_reusing(passes, rows=text.rows, dimension=dimension):
        note = "the teacher encodes each text once and its vectors are reused"
        return TeacherReuse(1 / passes, note)
    # In less than one pass no text is read twice.
    if passes < 1:
        return TeacherReuse()
    size = vectors_bytes(rows=text.rows, dimension=dimension)
    return TeacherReuse(
        note=f"the text is read {text.passes:.1f} times, by the teacher each time: its vectors "
        f"would take {gibibytes(size)} GiB of memory, more than {gibibytes(MEMORY_BYTES)}"
    )
