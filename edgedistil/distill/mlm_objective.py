"""The objective of the paper: soft targets, masked words and the cosine of states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgedistil.core.recipe import Loss
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.losses import TokenCounts, attended_cosine_sum, distillation_loss
from edgedistil.distill.objective import Objective, compiles_student
from edgedistil.models.fast.encoder import encode, encode_with_head
from edgedistil.models.mlm_head import mlm_head


class MlmObjective(Objective):
    """The three losses of the paper."""

    loss_names = ("soft_target", "mlm", "cosine")

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        settings: Loss,
        *,
        original: PreTrainedModel | None = None,
        compiled: bool = False,
    ) -> None:
        """Joins the models.

        Args:
            student: Model to train, on its device.
            teacher: Frozen teacher, on the same device.
            settings: Recipe section [loss].
            original: The frozen teacher before its encoder was trained with a fitted head; the
                cosine loss compares with its states. None if the encoder was not trained.
            compiled: Whether to use torch.compile.
        """
        super().__init__()
        self.student, self.settings = student, settings
        self.mean = settings.mean
        # In a tuple, so that nn.Module does not register it.
        self._teacher, self._original = (teacher,), (original,)
        # The losses that read the teacher with its head; the cosine loss may read another one.
        self._joint_settings = settings
        if original is not None:
            self._joint_settings = settings.model_copy(update={"cosine": 0.0})

        self._encode_teacher, self._encode_student = encode, encode_with_head
        if compiled:
            self._compile()

    def _compile(self) -> None:
        self._encode_teacher = torch.compile(encode)
        if compiles_student(self.student.device):
            self._encode_student = torch.compile(encode_with_head)

    @property
    def trained(self) -> PreTrainedModel:  # type: ignore[override]
        return self.student

    @property
    def teacher(self) -> PreTrainedModel:
        return self._teacher[0]

    @property
    def original(self) -> PreTrainedModel | None:
        """The teacher as given, where the copy with a head has another encoder."""
        return self._original[0]

    def forward(self, batch: MicroBatch, counts: TokenCounts) -> tuple[Tensor, Tensor]:
        """Computes the three losses of a micro-batch; see `Objective.forward`."""
        # Without these losses the teacher is not run.
        teacher_hidden_BLD, teacher_head = None, None
        if self._joint_settings.soft_target > 0 or self._joint_settings.cosine > 0:
            teacher_head = mlm_head(self.teacher)
            teacher_hidden_BLD = self._teacher_states(self.teacher, batch)
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
            settings=self._joint_settings,
        )
        total, cosine_sum = loss.total, loss.cosine_sum
        if self.original is not None and self.settings.cosine > 0:
            distance = self._distance_to_original(student_BLD, batch)
            total = total + self.settings.cosine / counts.attended * distance
            cosine_sum = distance.detach()
        return total, torch.stack([loss.soft_target_sum, loss.mlm_sum, cosine_sum])

    def _teacher_states(self, teacher: PreTrainedModel, batch: MicroBatch) -> Tensor:
        with torch.no_grad():
            return self._encode_teacher(teacher, batch.input_ids_BL, batch.attention_mask_BL)

    def _distance_to_original(self, student_BLD: Tensor, batch: MicroBatch) -> Tensor:
        """Sum of 1 − cos to the states of the teacher as given."""
        assert self.original is not None
        original_BLD = self._teacher_states(self.original, batch)
        return attended_cosine_sum(
            student_BLD.flatten(0, 1), original_BLD.flatten(0, 1), batch.attention_mask_BL
        )

    def loss_counts(self, counts: TokenCounts) -> Sequence[float]:
        """Returns the tokens that each loss is a mean over."""
        return counts.soft_target(self.settings), counts.masked, counts.attended
