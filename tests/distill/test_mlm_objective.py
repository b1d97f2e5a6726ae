"""The objective: what it registers, when it runs the teacher, and what it compiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM

from edgedistil.core.recipe import Loss
from edgedistil.core.recipe_student import Student
from edgedistil.distill import mlm_objective as module
from edgedistil.distill.mlm_objective import MlmObjective
from edgedistil.distill.plan.timing import RandomBatches
from edgedistil.distill.setup import build_student
from edgedistil.models.fast.encoder import freeze_teacher
from edgedistil.models.teacher import read_teacher


@pytest.fixture
def teacher(tiny_teacher: Path) -> BertForMaskedLM:
    return freeze_teacher(read_teacher(tiny_teacher, name="tiny").model, dtype=torch.float32)


def objective_of(
    teacher: BertForMaskedLM, settings: Loss, *, compiled: bool = False
) -> MlmObjective:
    student = build_student(Student(dropout=0.0), teacher, seed=3)
    return MlmObjective(student, teacher, settings, compiled=compiled)


def test_the_teacher_is_not_a_submodule(teacher: BertForMaskedLM) -> None:
    objective = objective_of(teacher, Loss())
    assert all(name.startswith("student.") for name, _ in objective.named_parameters())
    assert objective.teacher is teacher


def test_the_teacher_is_not_run_for_the_mlm_loss_alone(
    teacher: BertForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "encode", lambda *_: pytest.fail("the teacher was run"))
    objective = objective_of(teacher, Loss(soft_target=0.0, cosine=0.0))
    batch = RandomBatches(23, 82, 0.15, torch.device("cpu")).draw(5)
    total, sums = objective(batch, batch.counts)
    assert float(total.detach()) == pytest.approx(2.0 * float(sums[1]) / batch.counts.masked)
    assert sums[[0, 2]].tolist() == [0, 0]


def test_on_a_cpu_only_the_teacher_is_compiled(
    teacher: BertForMaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_nothing(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    objective_of(teacher, Loss())
    assert compiled == []
    objective_of(teacher, Loss(), compiled=True)
    assert compiled == [module.encode]


def test_states_are_those_of_the_teacher_as_given(
    teacher: BertForMaskedLM, tiny_teacher: Path
) -> None:
    """A copy whose encoder was trained with a head gives soft targets only."""
    original = freeze_teacher(read_teacher(tiny_teacher, name="tiny").model, dtype=torch.float32)
    with torch.no_grad():
        teacher.bert.embeddings.LayerNorm.bias.add_(torch.linspace(-2, 2, 28))
    batch = RandomBatches(23, 82, 0.15, torch.device("cpu")).draw(5)
    student = build_student(Student(dropout=0.0), original, seed=3)

    def sums(soft_from: BertForMaskedLM, states_from: BertForMaskedLM | None) -> torch.Tensor:
        objective = MlmObjective(student, soft_from, Loss(), original=states_from)
        return objective(batch, batch.counts)[1].detach()

    own, with_given, of_given = sums(teacher, None), sums(teacher, original), sums(original, None)
    assert torch.equal(with_given[0], own[0])  # soft targets
    assert torch.equal(with_given[2], of_given[2])  # cosine
    assert not torch.allclose(own[2], of_given[2], rtol=0.01)
