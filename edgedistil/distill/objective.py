"""Student, teacher and losses as one module: one forward pass of the training loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgedistil.core.recipe import Loss
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import TokenCounts, distillation_loss
from edgedistil.models.fast.encoder import encode, encode_with_head
from edgedistil.models.mlm_head import mlm_head


class Objective(nn.Module):
    """The distillation objective; everything with a gradient happens inside its forward pass.

    DDP relies on that (docs/decisions.md#the-objective-is-one-module). The teacher is not a
    submodule: it has no gradients, and every process loads it.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        settings: Loss,
        *,
        compiled: bool = False,
    ) -> None:
        """Joins the models.

        Args:
            student: Model to train, on its device.
            teacher: Frozen teacher, on the same device.
            settings: Recipe section [loss].
            compiled: Whether to use torch.compile.
        """
        super().__init__()
        self.student, self.settings = student, settings
        # In a tuple, so that nn.Module does not register it.
        self._teacher = (teacher,)

        self._encode_teacher, self._encode_student = encode, encode_with_head
        if compiled:
            self._compile()

    def _compile(self) -> None:
        self._encode_teacher = torch.compile(encode)
        # On a CPU dropout draws its bits outside of PyTorch, and a compiled graph breaks at each
        # of them: only the teacher is compiled there (docs/log.md#torchcompile-on-a-cpu).
        if self.student.device.type != "cpu":
            self._encode_student = torch.compile(encode_with_head)

    @property
    def teacher(self) -> PreTrainedModel:
        return self._teacher[0]

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """Computes the losses of a micro-batch.

        Args:
            batch: The micro-batch.
            counts: Number of tokens that the losses are means over.
        Returns:
            The loss to call `backward` on, and the sums of the soft-target, MLM and cosine loss
            over the micro-batch's tokens, shape (3,).
        """
        # Without these losses the teacher is not run.
        teacher_hidden_BLD, teacher_head = None, None
        if self.settings.soft_target > 0 or self.settings.cosine > 0:
            teacher_head = mlm_head(self.teacher)
            with torch.no_grad():
                teacher_hidden_BLD = self._encode_teacher(
                    self.teacher, batch.input_ids_BL, batch.attention_mask_BL
                )
        student_BLD, student_head = self._encode_student(
            self.student, batch.input_ids_BL, batch.attention_mask_BL
        )
        loss = distillation_loss(
            student_BLD,
            teacher_hidden_BLD,
            student_head=student_head,
            teacher_head=teacher_head,
            labels_BL=batch.labels_BL,
            attention_mask_BL=batch.attention_mask_BL,
            counts=counts,
            settings=self.settings,
        )
        return loss.total, torch.stack([loss.soft_target_sum, loss.mlm_sum, loss.cosine_sum])
