"""Whether a run computes its teacher in the first pass over the text alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from edgedistil.core.format import gibibytes
from edgedistil.core.recipe import Recipe
from edgedistil.distill.plan.estimate import RunWorkload
from edgedistil.distill.representation import compared_layers, reads_states
from edgedistil.distill.state_cache import GIB, is_worth_caching


@dataclass(frozen=True)
class TeacherReuse:
    """What later passes over the text read of the teacher.

    Attributes:
        is_complete: Whether they do not compute it.
        note: What a plan says of it; None if there is nothing to say.
    """

    is_complete: bool
    note: str | None


def teacher_reuse(
    recipe: Recipe,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    workload: RunWorkload,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> TeacherReuse:
    """Returns what later passes read, as far as it is known without the disk of the run.

    Args:
        recipe: A recipe with the objective representation.
        teacher, student: The models.
        workload: The work.
        dtype: What the loop computes in.
        device: Device of the loop.
    """
    if not reads_states(recipe.objective):
        note = "the teacher encodes each text once and its vectors are reused"
        return TeacherReuse(is_complete=True, note=note)
    passes, limit_gib = workload.passes, recipe.train.state_cache_gib
    if workload.corpus_tokens is None or not is_worth_caching(
        passes, limit_gib=limit_gib, device=device
    ):
        return TeacherReuse(is_complete=False, note=None)
    layers = compared_layers(recipe.objective, student, teacher)
    token_bytes = len(layers) * teacher.config.hidden_size * dtype.itemsize
    size = workload.corpus_tokens * token_bytes
    read = f"the text is read {passes:.1f} times, by the teacher"
    if size > limit_gib * GIB:
        note = (
            f"{read} each time: its states would take {gibibytes(size)} GiB, and "
            f"train.state_cache_gib is {limit_gib:g}"
        )
        return TeacherReuse(is_complete=False, note=note)
    note = (
        f"{read} once if {gibibytes(2 * size)} GiB of the disk are free: its states are cached in "
        f"a file of {gibibytes(size)} GiB"
    )
    return TeacherReuse(is_complete=True, note=note)
