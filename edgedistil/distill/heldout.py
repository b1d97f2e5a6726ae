"""Held-out evaluation: MLM loss, top-1, agreement with the teacher, KL; the same masked positions for every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core import console
from edgedistil.core.records import HeldoutMlm
from edgedistil.data.masking import IGNORED
from edgedistil.distill.batches import MicroBatch
from edgedistil.models.fast.encoder import encode, mlm_head

ROWS = 512  # masked tokens that are projected onto the vocabulary at once


class HeldoutJudge:
    """Judges models on fixed batches. What the teacher says there is computed once and kept as hidden states.

    Each process judges its share of the batches; sums are added up over processes.
    """

    def __init__(
        self, batches: Sequence[MicroBatch], teacher: BertForMaskedLM, *, accelerator: Accelerator
    ) -> None:
        self._accelerator, self._teacher = accelerator, teacher
        self._batches = [
            b for b in batches if b.number % accelerator.num_processes == accelerator.process_index
        ]
        self._labels = [b.labels_BL[b.labels_BL != IGNORED] for b in self._batches]
        with console.progress(
            "teacher on held-out text", len(self._batches), unit="batches"
        ) as bar:
            self._taught = self._transformed(teacher, bar)

    def judge(
        self, model: BertForMaskedLM | DistilBertForMaskedLM, *, name: str, step: int
    ) -> HeldoutMlm:
        """The figures of a model; the teacher agrees with itself and its KL is 0 by definition."""
        trained = model.training
        model.eval()
        transformed = self._taught if model is self._teacher else self._transformed(model, None)
        sums = torch.zeros(5, dtype=torch.float64)
        head, taught_head = mlm_head(model), mlm_head(self._teacher)
        for student_ND, teacher_ND, labels_N in zip(
            transformed, self._taught, self._labels, strict=True
        ):
            for start in range(0, len(labels_N), ROWS):
                rows = slice(start, start + ROWS)
                with torch.no_grad(), self._accelerator.autocast():
                    student_CV = F.linear(student_ND[rows], head.weight_VD, head.bias_V)
                    teacher_CV = F.linear(
                        teacher_ND[rows], taught_head.weight_VD, taught_head.bias_V
                    )
                sums += _sums(student_CV, teacher_CV, labels_N[rows]).double().cpu()
        model.train(trained)
        sums = (
            self._accelerator.reduce(sums.to(torch.float32).to(self._accelerator.device), "sum")
            .double()
            .cpu()
        )
        count, loss, right, agreeing, kl = sums.tolist()
        return HeldoutMlm(
            model=name,
            step=step,
            masked_tokens=round(count),
            mlm_loss_nats=loss / count,
            top1=right / count,
            agreement=agreeing / count,
            kl_nats=max(kl / count, 0.0),  # rounding leaves equal distributions a hair below 0
        )

    def _transformed(
        self, model: BertForMaskedLM | DistilBertForMaskedLM, bar: console.Bar | None
    ) -> list[Tensor]:
        """Hidden states at the masked positions after the head's transform, one (N, D) a batch."""
        head = mlm_head(model)
        found = []
        for batch in self._batches:
            with torch.no_grad(), self._accelerator.autocast():
                hidden_BLD = encode(model, batch.input_ids_BL, batch.attention_mask_BL)
                found.append(head.transform(hidden_BLD[batch.labels_BL != IGNORED]))
            if bar is not None:
                bar.advance()
        return found


def _sums(student_CV: Tensor, teacher_CV: Tensor, labels_C: Tensor) -> Tensor:
    """Tokens, cross-entropy, right ones, agreeing ones and KL(teacher || student), summed over C tokens."""
    log_q, log_p = (F.log_softmax(logits.float(), dim=-1) for logits in (student_CV, teacher_CV))
    chosen, taught = student_CV.argmax(-1), teacher_CV.argmax(-1)
    return torch.stack(
        [
            torch.tensor(float(len(labels_C)), device=labels_C.device),
            F.nll_loss(log_q, labels_C, reduction="sum"),
            (chosen == labels_C).sum().float(),
            (chosen == taught).sum().float(),
            F.kl_div(log_q, log_p, log_target=True, reduction="sum"),
        ]
    )
