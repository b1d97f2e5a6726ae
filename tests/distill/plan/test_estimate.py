"""Tokens of a corpus from the sizes of its sources; GPUs from shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertForMaskedLM

from edgedistil.core.recipe import Loss, SourceSpec
from edgedistil.core.recipe_student import Student
from edgedistil.distill.plan.estimate import RunWorkload, estimate_tokens, plan_gpus
from edgedistil.distill.schedule import RunLength
from edgedistil.distill.setup import build_student
from edgedistil.models.teacher import read_teacher


def test_tokens_of_files_and_a_known_text(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_bytes(b"x" * 457)
    sources = [
        SourceSpec(files=str(tmp_path / "*.txt")),
        SourceSpec(hub="bookcorpus/bookcorpus"),
    ]
    tokens, how = estimate_tokens(sources, heldout_share=0.25)
    assert tokens == pytest.approx((2 * 457 + 4_853_859_824) / 4.57 * 0.75, rel=1e-6)
    assert "2 files" in how
    assert "bookcorpus/bookcorpus: 4.85 GB by its card" in how


@pytest.fixture
def teacher(tiny_teacher: Path) -> BertForMaskedLM:
    return read_teacher(tiny_teacher, name="tiny").model


def test_gpus_share_the_global_batch(teacher: BertForMaskedLM) -> None:
    workload = RunWorkload(
        length=RunLength(steps=11, tokens_per_step=138),
        block_length=23,
        global_batch=6,
        micro_batch=6,
        masked_share=0.15,
        heldout_tokens=500,
        evaluations=11,
        checkpoint_every_s=600,
    )
    student = build_student(Student(), teacher, seed=3)
    one = plan_gpus(teacher, student, workload, Loss(), processes=1)
    three = plan_gpus(teacher, student, workload, Loss(), processes=3)
    assert [device.micro_batch for device in (one[0], three[0])] == [6, 2]
    # So small a model waits for its kernels to be launched: 20 ms a micro-batch.
    assert "bound by kernel launches" in one[0].how
    assert one[0].tokens_per_s == pytest.approx(6 * 23 / 0.02)
    assert three[0].tokens_per_s == pytest.approx(3 * 2 * 23 / 0.02)
