"""metrics.jsonl: entries come back, and a resumed run truncates them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistil.core.distill_records import HeldoutMlm
from edgedistil.distill.metrics import Metrics

FIGURES = HeldoutMlm(
    model="student",
    step=2,
    masked_tokens=7,
    mlm_loss_nats=1.5,
    top1=0.25,
    agreement=0.5,
    kl_nats=0.75,
)


def test_truncating_removes_later_steps_and_an_incomplete_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=True)
    for step in (1, 2, 3):
        metrics.write("train", step=step, loss=0.1 + step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    metrics.truncate_after(2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"kind": "train", "step": 1, "loss": 1.1},
        {"kind": "train", "step": 2, "loss": 2.1},
    ]


def test_heldout_figures_come_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=True)
    metrics.write("train", step=1, loss=1.0)
    metrics.write_heldout(FIGURES)
    assert metrics.heldout() == [FIGURES]


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Metrics(tmp_path / "metrics.jsonl", writes=True).write("train", step=1, loss=float("nan"))


def test_only_the_writer_writes(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", writes=False)
    metrics.write("train", step=1)
    metrics.truncate_after(0)
    metrics.sync()
    assert list(tmp_path.iterdir()) == []
