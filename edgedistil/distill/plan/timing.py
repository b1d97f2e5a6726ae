"""A few steps of the real objective, timed, with the memory they take."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch.optim import AdamW

from edgedistil.core import console
from edgedistil.core.records import Count, NotMeasured
from edgedistil.data.masking import IGNORED
from edgedistil.distill import memory
from edgedistil.distill.allocator import freed_memory_kept
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.heldout import HeldoutJudge
from edgedistil.distill.losses import count_tokens
from edgedistil.distill.train import Objective

_LONGEST_S = 20.0  # that one timed micro-batch may take, about
_FEW = 4  # rows of the first, small micro-batches
_REPEATS = 5
JUDGED_ROWS = 32


@dataclass(frozen=True)
class Timed:
    """Seconds of a micro-batch, an update, and judging the student on a held-out batch; `rows` is what was timed."""

    micro_batch_s: float
    update_s: float
    judged_batch_s: float
    peak_bytes: Count
    rows: int


def timed_steps(
    objective: Objective,
    *,
    accelerator: Accelerator,
    micro_batch: int,
    length: int,
    masked_share: float,
) -> Timed:
    """Medians of a few steps on random tokens, scaled from fewer rows where a whole micro-batch would take long.

    Conditions: one warm-up step; data loading and masking are left out (they take milliseconds).
    """
    device = accelerator.device
    optimizer = AdamW(
        [p for p in objective.student.parameters() if p.requires_grad], lr=0.0, fused=True
    )
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

    few = min(_FEW, micro_batch)
    with freed_memory_kept(), console.progress("timing steps", _REPEATS + 4, unit="steps") as bar:
        step(few)  # allocates the optimizer's moments, loads kernels
        bar.advance()
        memory.reset_peak(device)
        few_s = min(step(few)[0] for _ in range(2))
        few_peak = memory.peak_bytes(device)
        bar.advance(2)
        rows = min(micro_batch, max(2 * few, int(_LONGEST_S * few / few_s)))
        step(rows)
        bar.advance()
        memory.reset_peak(device)
        times = []
        for _ in range(_REPEATS):
            times.append(step(rows))
            bar.advance()
        rows_peak = memory.peak_bytes(device)
    judged = _judged(objective, accelerator, length=length, masked_share=masked_share)
    judged_peak = memory.peak_bytes(device)
    rows_s = statistics.median(t for t, _ in times)
    micro = rows_s + _more(few_s, rows_s, few, rows, micro_batch)
    update = statistics.median(t for _, t in times)
    training_peak = rows_peak
    if not isinstance(few_peak, NotMeasured) and not isinstance(rows_peak, NotMeasured):
        training_peak = rows_peak + int(_more(few_peak, rows_peak, few, rows, micro_batch))
    peak = training_peak
    if not isinstance(judged_peak, NotMeasured) and not isinstance(peak, NotMeasured):
        peak = max(peak, judged_peak)
    return Timed(micro, update, judged, peak, rows)


def _judged(
    objective: Objective, accelerator: Accelerator, *, length: int, masked_share: float
) -> float:
    """Seconds that the student takes on a held-out batch."""
    device, vocabulary = accelerator.device, objective.student.config.vocab_size
    batch = _random_batch(JUDGED_ROWS, length, vocabulary, masked_share, device)
    judge = HeldoutJudge([batch], objective.teacher, accelerator=accelerator)
    taken = []
    with freed_memory_kept():
        for _ in range(3):  # the first one of a process warms up
            began = _now(device)
            judge.judge(objective.student, name="student", step=0)
            taken.append(_now(device) - began)
    return min(taken)


def _more(at_few: float, at_rows: float, few: int, rows: int, wanted: int) -> float:
    """What `wanted` rows take beyond `rows`, on the line through two measurements."""
    if rows in (few, wanted):
        return 0.0
    return max(at_rows - at_few, 0.0) / (rows - few) * (wanted - rows)


def _random_batch(
    rows: int, length: int, vocabulary: int, masked_share: float, device: torch.device
) -> MicroBatch:
    ids_BL = torch.randint(vocabulary, (rows, length))
    labels_BL = torch.where(torch.rand(rows, length) < masked_share, ids_BL, IGNORED)
    labels_BL[:, 0] = ids_BL[:, 0]  # never a batch without a masked token
    counts = count_tokens(labels_BL, None)
    return MicroBatch(0, ids_BL.to(device), None, labels_BL.to(device), counts)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
