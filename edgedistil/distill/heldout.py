"""Held-out evaluation: MLM loss, top-1, agreement with the teacher and KL divergence.

All models are evaluated at the same masked positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from edgedistil.core import console
from edgedistil.core.distill_records import HeldoutMlm
from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.data.masking import IGNORED
from edgedistil.distill.batches import MicroBatch
from edgedistil.models.fast.encoder import encode
from edgedistil.models.mlm_head import mlm_head

# Masked tokens that are projected onto the vocabulary at once. Fewer need less memory for their
# logits; another number also changes the last digits of the figures, which are sums in float32.
_CHUNK_TOKENS = 512


class HeldoutEvaluator:
    """Evaluates models on fixed batches.

    The teacher's hidden states are computed once: an evaluation then costs one pass of the student
    (docs/decisions.md#held-out-evaluation-caches-the-teachers-hidden-states). Each process
    evaluates its share of the batches, and sums are added up over the processes.
    """

    def __init__(
        self,
        batches: Sequence[MicroBatch],
        teacher: PreTrainedModel,
        *,
        accelerator: Accelerator,
        mask_id: int,
    ) -> None:
        """Computes the teacher's hidden states.

        Args:
            batches: The batches of all processes.
            teacher: The teacher, in eval mode.
            accelerator: Supplies autocast and the processes.
            mask_id: Id of [MASK], to separate hidden tokens from visible ones.
        """
        self._accelerator, self._teacher = accelerator, teacher
        rank, processes = accelerator.process_index, accelerator.num_processes
        self._batches = [batch for batch in batches if batch.number % processes == rank]
        self._labels = [batch.labels_BL[batch.labels_BL != IGNORED] for batch in self._batches]
        self._hidden = [
            batch.input_ids_BL[batch.labels_BL != IGNORED] == mask_id for batch in self._batches
        ]
        # Kept for all evaluations.
        with console.progress(
            "teacher on held-out text", len(self._batches), unit="batches"
        ) as bar:
            self._teacher_hidden = self._transformed_hidden(teacher, bar)

    def evaluate(self, model: PreTrainedModel, *, name: str, step: int) -> HeldoutMlm:
        """Returns the figures of a model, which is left in the mode it was in.

        Args:
            model: The student, or the teacher itself: it agrees with itself, and its KL is 0.
            name: Name of the model in the record.
            step: Step of the run, for the record.
        Raises:
            ModelError: The model's own outputs are NaN or infinite before any training.
            TrainingDiverged: They are after training.
        """
        was_training = model.training
        model.eval()
        if model is self._teacher:
            hidden = self._teacher_hidden
        else:
            hidden = self._transformed_hidden(model, None)

        # Sums over this process's masked tokens, then over all processes.
        sums = torch.zeros(7, dtype=torch.float64)
        for batch in range(len(self._batches)):
            for chunk_sums in self._chunk_sums(model, hidden[batch], batch):
                sums += chunk_sums
        model.train(was_training)
        # Reduced in float32: not every backend adds up float64.
        own = sums.to(torch.float32).to(self._accelerator.device)
        total = self._accelerator.reduce(own, "sum").double().cpu()

        _check_finite(total, name=name, step=step)
        count, loss, correct, agreeing, kl, hidden_count, hidden_correct = total.tolist()
        top1_hidden: Figure = NotMeasured(not_measured="no token is hidden by [MASK]")
        if hidden_count:
            top1_hidden = hidden_correct / hidden_count
        return HeldoutMlm(
            model=name,
            step=step,
            masked_tokens=round(count),
            mlm_loss_nats=loss / count,
            top1=correct / count,
            top1_hidden=top1_hidden,
            hidden_tokens=round(hidden_count),
            agreement=agreeing / count,
            # Rounding can make the divergence of equal distributions slightly negative.
            kl_nats=max(kl / count, 0.0),
        )

    def _transformed_hidden(self, model: PreTrainedModel, bar: console.Bar | None) -> list[Tensor]:
        """Hidden states at the masked positions after the head's transform, (N, D) per batch."""
        head = mlm_head(model)
        hidden = []
        for batch in self._batches:
            with torch.no_grad(), self._accelerator.autocast():
                hidden_BLD = encode(model, batch.input_ids_BL, batch.attention_mask_BL)
                hidden.append(head.transform(hidden_BLD[batch.labels_BL != IGNORED]))
            if bar is not None:
                bar.advance()
        return hidden

    def _chunk_sums(
        self, model: PreTrainedModel, student_ND: Tensor, batch: int
    ) -> Iterator[Tensor]:
        """`_token_sums` of each chunk of a batch, float64 on the CPU."""
        student_head, teacher_head = mlm_head(model), mlm_head(self._teacher)
        teacher_ND, labels_N = self._teacher_hidden[batch], self._labels[batch]
        for start in range(0, len(labels_N), _CHUNK_TOKENS):
            chunk = slice(start, start + _CHUNK_TOKENS)
            with torch.no_grad(), self._accelerator.autocast():
                student_CV = F.linear(
                    student_ND[chunk], student_head.weight_VD, student_head.bias_V
                )
                teacher_CV = F.linear(
                    teacher_ND[chunk], teacher_head.weight_VD, teacher_head.bias_V
                )
            hidden_C = self._hidden[batch][chunk]
            yield _token_sums(student_CV, teacher_CV, labels_N[chunk], hidden_C).double().cpu()


def _check_finite(sums: Tensor, *, name: str, step: int) -> None:
    """Raises an error that names the model if its figures are NaN or infinite."""
    if bool(torch.isfinite(sums).all()):
        return
    message = f"the outputs of the {name} on held-out text are NaN or infinite"
    if step:
        raise TrainingDiverged(f"{message} after step {step}", hint="lower train.learning_rate")
    raise ModelError(
        message,
        hint="its weights are finite and too large: the file is damaged, or its training diverged",
    )


def _token_sums(
    student_CV: Tensor, teacher_CV: Tensor, labels_C: Tensor, hidden_C: Tensor
) -> Tensor:
    """Sums over C tokens: tokens, cross-entropy, correct, agreeing, KL(teacher || student).

    Then the tokens hidden by [MASK], and the correct ones among them.
    """
    log_q_CV = F.log_softmax(student_CV.float(), dim=-1)
    log_p_CV = F.log_softmax(teacher_CV.float(), dim=-1)
    student_top_C, teacher_top_C = student_CV.argmax(-1), teacher_CV.argmax(-1)
    return torch.stack(
        [
            torch.tensor(float(len(labels_C)), device=labels_C.device),
            F.nll_loss(log_q_CV, labels_C, reduction="sum"),
            (student_top_C == labels_C).sum().float(),
            (student_top_C == teacher_top_C).sum().float(),
            F.kl_div(log_q_CV, log_p_CV, log_target=True, reduction="sum"),
            hidden_C.sum().float(),
            (hidden_C & (student_top_C == labels_C)).sum().float(),
        ]
    )
