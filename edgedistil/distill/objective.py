"""What the training loop needs of an objective, whatever the student learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core.recipe import Teacher as TeacherSection
from edgedistil.core.recipe_objective import Objective as ObjectiveSection
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import TokenCounts

Kind = Literal["mlm", "representation"]


class Objective(nn.Module):
    """Student, teacher and losses as one module; all gradients arise inside its forward pass.

    DDP relies on that (docs/decisions.md#the-objective-is-one-module). The teacher is not a
    submodule: it has no gradients, and every process loads it.

    Attributes:
        student: The model that is distilled.
        trained: Everything that is trained and stored in checkpoints: the student, and what an
            objective trains along with it.
        loss_names: Names of the losses in the trace, in the order of `forward`'s sums.
        mean: Whether losses are means over a step or over micro-batches.
    """

    student: PreTrainedModel
    trained: nn.Module
    loss_names: tuple[str, ...]
    mean: Literal["step", "micro-batch"] = "step"

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """Computes the losses of a micro-batch.

        Args:
            batch: The micro-batch.
            counts: Numbers of tokens and texts that the losses are means over.
        Returns:
            The loss to call `backward` on, and the sum of each loss, in the order of `loss_names`.
        """
        raise NotImplementedError

    def loss_counts(self, counts: TokenCounts) -> Sequence[float]:
        """Returns the number that each of `forward`'s sums is divided by."""
        raise NotImplementedError


def compiles_student(device: torch.device) -> bool:
    """Whether torch.compile is worth its time for a student on a device.

    On a CPU dropout draws its bits outside of PyTorch, and a compiled graph breaks at each of them:
    only the teacher is compiled there (docs/log.md#torchcompile-on-a-cpu).
    """
    return device.type != "cpu"


def objective_kind(
    section: ObjectiveSection, teacher: TeacherSection, *, has_mlm_head: bool
) -> Kind:
    """Returns the objective of a recipe for its teacher.

    Args:
        section: Recipe section [objective].
        teacher: Recipe section [teacher].
        has_mlm_head: Whether the teacher has a trained MLM head.
    """
    if section.kind != "auto":
        return section.kind
    if teacher.answers is not None:
        return "representation"
    return "mlm" if has_mlm_head or teacher.mlm_head == "fit" else "representation"
