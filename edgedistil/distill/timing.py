"""A few steps of the real objective, timed, with the memory they take."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.optim import AdamW

from edgedistil import console
from edgedistil.data.masking import IGNORED
from edgedistil.distill import memory
from edgedistil.distill.feed import MicroBatch
from edgedistil.distill.heldout import HeldoutJudge
from edgedistil.distill.losses import count_tokens
from edgedistil.distill.train import Objective
from edgedistil.records import Count, NotMeasured

_LONGEST_S = 10.0  # that one timed micro-batch may take
_REPEATS = 5
JUDGED_ROWS = 32


@dataclass(frozen=True)
class Timed:
    """Seconds of a micro-batch, of an update, and of one held-out batch; `rows` is what was timed."""

    micro_batch_s: float
    update_s: float
    teacher_batch_s: float
    student_batch_s: float
    peak_bytes: Count
    rows: int


def timed_steps(
    objective: Objective, *, accelerator: Accelerator, micro_batch: int, length: int, masked_share: float
) -> Timed:
    """Medians of a few steps on random tokens, scaled from fewer rows where a whole micro-batch would take long.

    Conditions: one warm-up step; data loading and masking are left out (they take milliseconds).
    """
    device = accelerator.device
    optimizer = AdamW([p for p in objective.student.parameters() if p.requires_grad], lr=0.0, fused=True)
    vocabulary = objective.student.config.vocab_size
    objective.student.train()

    def step(rows: int) -> tuple[float, float]:
        batch = _random_batch(rows, length, vocabulary, masked_share, device)
        began = _now(device)
        with accelerator.autocast():
            total, _ = objective(batch, batch.counts)
        total.backward()
        done = _now(device)
        torch.nn.utils.clip_grad_norm_(objective.student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return done - began, _now(device) - done

    with console.progress("timing steps", _REPEATS + 3, unit="steps") as bar:
        step(1)  # allocates the optimizer's moments, loads kernels
        bar.advance()
        memory.reset_peak(device)
        one_row = min(step(1)[0] for _ in range(2))
        small_peak = memory.peak_bytes(device)
        bar.advance()
        rows = max(1, min(micro_batch, int(_LONGEST_S / one_row)))
        step(rows)
        bar.advance()
        memory.reset_peak(device)
        times = []
        for _ in range(_REPEATS):
            times.append(step(rows))
            bar.advance()
        large_peak = memory.peak_bytes(device)
    judged = _judged(objective, accelerator, length=length, masked_share=masked_share)
    judged_peak = memory.peak_bytes(device)
    micro = statistics.median(t for t, _ in times) * micro_batch / rows
    update = statistics.median(t for _, t in times)
    training_peak = _extrapolated(small_peak, large_peak, 1, rows, micro_batch)
    peak = training_peak if isinstance(judged_peak, NotMeasured) else max(training_peak, judged_peak)  # type: ignore[type-var]
    return Timed(micro, update, *judged, peak, rows)


def _judged(objective: Objective, accelerator: Accelerator, *, length: int, masked_share: float) -> tuple[float, float]:
    """Seconds that the teacher and the student take on a held-out batch."""
    device, vocabulary = accelerator.device, objective.student.config.vocab_size
    batch = _random_batch(JUDGED_ROWS, length, vocabulary, masked_share, device)
    began = _now(device)
    judge = HeldoutJudge([batch], objective.teacher, accelerator=accelerator)
    judge.judge(objective.teacher, name="teacher", step=0)
    between = _now(device)
    judge.judge(objective.student, name="student", step=0)
    return between - began, _now(device) - between


def _extrapolated(small: Count, large: Count, small_rows: int, large_rows: int, rows: int) -> Count:
    """Memory at `rows`, on the line through two measurements."""
    if isinstance(small, NotMeasured) or isinstance(large, NotMeasured):
        return large
    if large_rows in (rows, small_rows):
        return large
    slope = (large - small) / (large_rows - small_rows)
    return int(large + max(slope, 0.0) * (rows - large_rows))


def _random_batch(rows: int, length: int, vocabulary: int, masked_share: float, device: torch.device) -> MicroBatch:
    ids_BL = torch.randint(vocabulary, (rows, length))
    labels_BL = torch.where(torch.rand(rows, length) < masked_share, ids_BL, IGNORED)
    labels_BL[:, 0] = ids_BL[:, 0]  # never a batch without a masked token
    counts = count_tokens(labels_BL, None)
    return MicroBatch(0, ids_BL.to(device), None, labels_BL.to(device), counts)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
