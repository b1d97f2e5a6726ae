"""Held-out figures equal the plain formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from transformers import BertForMaskedLM, DistilBertForMaskedLM

from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.data.masking import IGNORED
from edgedistil.distill import distributed, heldout
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.heldout import HeldoutEvaluator
from edgedistil.distill.losses import count_tokens
from edgedistil.models.student import StudentOptions, make_student
from edgedistil.models.teacher import read_teacher


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    with distributed.process_group():
        yield distributed.build_accelerator(
            "float32", trackers=[], folder=Path(), unused_parameters=False
        )


@pytest.fixture
def teacher(tiny_teacher: Path) -> BertForMaskedLM:
    return read_teacher(tiny_teacher, name="tiny").model


def student_of(teacher: BertForMaskedLM, layer_map: list[int]) -> DistilBertForMaskedLM:
    return make_student(
        teacher,
        layer_map=layer_map,
        options=StudentOptions(fold_segment=True, copy_head_transform=True, dropout=0.5, seed=3),
    )


MASK = 4


def batches() -> list[MicroBatch]:
    """Two batches, the second one padded."""
    torch.manual_seed(2)
    micro_batches = []
    for number, (rows, length) in enumerate(((5, 23), (3, 17))):
        ids_BL = torch.randint(5, 82, (rows, length))
        attended_BL = torch.ones_like(ids_BL)
        if number:
            attended_BL[:, 11:] = 0
        labels_BL = torch.where(
            (torch.rand(rows, length) < 0.3) & (attended_BL == 1), ids_BL, IGNORED
        )
        mask = attended_BL if number else None
        counts = count_tokens(labels_BL, mask)
        # Of the selected tokens some are hidden by [MASK], the others visible.
        hidden_BL = (labels_BL != IGNORED) & (torch.rand(rows, length) < 0.7)
        ids_BL = ids_BL.masked_fill(hidden_BL, MASK)
        micro_batches.append(MicroBatch(number, ids_BL, mask, labels_BL, counts))
    return micro_batches


def test_figures_equal_the_plain_formulas(
    accelerator: Accelerator, teacher: BertForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heldout, "_CHUNK_TOKENS", 7)  # several chunks, the last one not full
    student = student_of(teacher, [0, 3])
    got = HeldoutEvaluator(batches(), teacher, accelerator=accelerator, mask_id=MASK).evaluate(
        student, name="student", step=4
    )
    student.eval()
    mine, theirs, right = [], [], []
    for batch in batches():
        masked_BL = batch.labels_BL != IGNORED
        with torch.no_grad():
            mine.append(
                student(batch.input_ids_BL, attention_mask=batch.attention_mask_BL).logits[
                    masked_BL
                ]
            )
            theirs.append(
                teacher(batch.input_ids_BL, attention_mask=batch.attention_mask_BL).logits[
                    masked_BL
                ]
            )
        right.append(batch.labels_BL[masked_BL])
    student_NV, teacher_NV, labels_N = torch.cat(mine), torch.cat(theirs), torch.cat(right)
    assert got.masked_tokens == len(labels_N)
    inputs_N = torch.cat([b.input_ids_BL[b.labels_BL != IGNORED] for b in batches()])
    hidden_N = inputs_N == MASK
    assert 0 < got.hidden_tokens == int(hidden_N.sum()) < got.masked_tokens
    right_N = student_NV.argmax(-1) == labels_N
    assert got.top1_hidden == pytest.approx(right_N[hidden_N].float().mean().item())
    assert got.top1_hidden != got.top1
    assert got.mlm_loss_nats == pytest.approx(
        F.cross_entropy(student_NV, labels_N).item(), rel=1e-5
    )
    assert got.top1 == pytest.approx((student_NV.argmax(-1) == labels_N).float().mean().item())
    assert got.agreement == pytest.approx(
        (student_NV.argmax(-1) == teacher_NV.argmax(-1)).float().mean().item()
    )
    kl = F.kl_div(student_NV.log_softmax(-1), teacher_NV.softmax(-1), reduction="batchmean").item()
    assert got.kl_nats == pytest.approx(kl, rel=1e-4)
    assert (got.model, got.step) == ("student", 4)


def test_an_evaluation_leaves_the_model_and_the_random_state_alone(
    accelerator: Accelerator, teacher: BertForMaskedLM
) -> None:
    student = student_of(teacher, [0, 3])
    before = torch.get_rng_state()
    evaluator = HeldoutEvaluator(batches(), teacher, accelerator=accelerator, mask_id=MASK)
    first = evaluator.evaluate(student, name="student", step=0)
    assert evaluator.evaluate(student, name="student", step=0) == first
    assert student.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (0, ModelError, "outputs of the teacher on held-out text are NaN or infinite"),
        (3, TrainingDiverged, "NaN or infinite after step 3"),
    ],
)
def test_a_model_whose_outputs_are_not_finite_is_named(
    accelerator: Accelerator,
    teacher: BertForMaskedLM,
    step: int,
    error: type[Exception],
    message: str,
) -> None:
    with torch.no_grad():
        teacher.cls.predictions.bias[0] = float("nan")
    evaluator = HeldoutEvaluator(batches(), teacher, accelerator=accelerator, mask_id=MASK)
    with pytest.raises(error, match=message):
        evaluator.evaluate(teacher, name="teacher", step=step)


def test_the_teacher_agrees_with_itself(accelerator: Accelerator, teacher: BertForMaskedLM) -> None:
    got = HeldoutEvaluator(batches(), teacher, accelerator=accelerator, mask_id=MASK).evaluate(
        teacher, name="teacher", step=0
    )
    assert (got.agreement, got.kl_nats) == (1.0, 0.0)
    assert math.isfinite(got.mlm_loss_nats)
