"""Times a few steps of the real objective, with the memory they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim import AdamW

from edgedistil.core import console
from edgedistil.core.records import Count, NotMeasured
from edgedistil.data.masking import IGNORED
from edgedistil.distill import memory
from edgedistil.distill.batches import HELDOUT_BATCH_ROWS, MicroBatch
from edgedistil.distill.losses import count_tokens
from edgedistil.distill.memory import retain_freed_memory
from edgedistil.distill.objective import Objective

# Limit of one timed micro-batch, about; a larger one is scaled from fewer rows.
_MAX_MICRO_BATCH_S = 20.0
# Rows of the first micro-batches. From one and two rows, the memory scaled to 32 rows was 64% too
# high (docs/log.md#plan-accuracy-from-few-rows).
_FEW_ROWS = 4
# Steps of which the median is taken.
_REPEATS = 5
# Evaluations, and passes of the teacher, of which the fastest is taken; the first one warms up.
_EVALUATIONS = 3


@dataclass(frozen=True)
class StepTiming:
    """Times and memory of a training step on this machine.

    Attributes:
        micro_batch_s: Forward and backward pass of a micro-batch.
        update_s: Clipping and update.
        teacher_s: The teacher's part of a micro-batch; 0 if it was not to be timed.
        evaluation_batch_s: Evaluation of the student on a held-out batch.
        peak_bytes: Peak memory of all of these.
        rows: Rows of the timed micro-batch; the times are scaled if they are fewer.
    """

    micro_batch_s: float
    update_s: float
    teacher_s: float
    evaluation_batch_s: float
    peak_bytes: Count
    rows: int


@dataclass(frozen=True)
class RandomBatches:
    """Micro-batches of random tokens.

    Attributes:
        length: Tokens of a row.
        vocabulary: Number of different tokens.
        masked_share: Share of masked tokens.
        device: Device of the tensors.
    """

    length: int
    vocabulary: int
    masked_share: float
    device: torch.device

    def draw(self, rows: int) -> MicroBatch:
        """Draws a micro-batch without padding."""
        ids_BL = torch.randint(self.vocabulary, (rows, self.length))
        is_masked_BL = torch.rand(rows, self.length) < self.masked_share
        labels_BL = torch.where(is_masked_BL, ids_BL, IGNORED)
        # At least one masked token per row: a mean over no tokens is an error.
        labels_BL[:, 0] = ids_BL[:, 0]
        counts = count_tokens(labels_BL, None)
        # Rows of no store: places of random vectors, which are read instead of a file's.
        return MicroBatch(
            0, ids_BL.to(self.device), None, labels_BL.to(self.device), counts, np.arange(rows)
        )


# Takes a held-out batch; returns a function that evaluates the student on it.
Evaluation: TypeAlias = Callable[[MicroBatch], Callable[[], object]]
# Computes what a step does with the teacher alone.
Teaching: TypeAlias = Callable[[MicroBatch], object]


@dataclass(frozen=True)
class TimedObjective:
    """Losses of a run, to be timed on random tokens.

    Attributes:
        objective: Student, teacher and losses, on the device.
        teach: Computes the teacher's part of a step; None: every step is as the timed one.
        teacher_share: Share of the micro-batches with that part.
    """

    objective: Objective
    teach: Teaching | None = None
    teacher_share: float = 1.0


def time_steps(
    objective: Objective,
    evaluation: Evaluation,
    *,
    accelerator: Accelerator,
    micro_batch: int,
    length: int,
    masked_share: float,
    max_micro_batch_s: float | None = None,
    teaching: Teaching | None = None,
) -> StepTiming:
    """Times steps and an evaluation on random tokens.

    Args:
        objective: Student, teacher and losses, on the device.
        evaluation: How the run evaluates its student.
        accelerator: Supplies device and precision.
        micro_batch: Rows of a micro-batch.
        length: Tokens of a row.
        masked_share: Share of masked tokens.
        max_micro_batch_s: Longest micro-batch that is timed, about; None: 20 seconds.
        teaching: The teacher's part of a step, if it is to be timed on its own.
    Returns:
        Medians; scaled from fewer rows if a micro-batch takes long.
    Conditions: after a warm-up step; without reading and masking, which take milliseconds.
    """
    batches = RandomBatches(
        length, objective.student.config.vocab_size, masked_share, accelerator.device
    )
    steps = _TimedSteps(objective, accelerator, batches)
    with retain_freed_memory():
        limit_s = _MAX_MICRO_BATCH_S if max_micro_batch_s is None else max_micro_batch_s
        few, many = _measure(steps, micro_batch, limit_s)
    # Timed after the steps, whose memory these may use.
    teacher_s = 0.0
    if teaching is not None:
        with accelerator.autocast():
            teacher_s = micro_batch / many.rows * _time_teacher(teaching, batches, many.rows)
    evaluation_batch_s = _time_evaluation(evaluation, accelerator, batches)
    return StepTiming(
        micro_batch_s=_extrapolate(few.passes_s, many.passes_s, few, many, micro_batch),
        update_s=many.update_s,
        teacher_s=teacher_s,
        evaluation_batch_s=evaluation_batch_s,
        peak_bytes=_peak(few, many, micro_batch, evaluation=steps.peak_bytes()),
        rows=many.rows,
    )


@dataclass(frozen=True)
class _Measured:
    """Times and peak memory of a step with one micro-batch of some rows."""

    rows: int
    passes_s: float
    update_s: float
    peak_bytes: Count


def _measure(steps: _TimedSteps, micro_batch: int, limit_s: float) -> tuple[_Measured, _Measured]:
    """Measures steps of a few rows, then of as many as can be timed."""
    few_rows = min(_FEW_ROWS, micro_batch)
    with console.progress("timing steps", _REPEATS + 4, unit="steps") as bar:
        # The first step allocates the optimizer's moments and loads kernels.
        steps.run(few_rows)
        bar.advance()

        # A few rows, to see how many can be timed.
        steps.reset_peak()
        passes_s, update_s = min(steps.run(few_rows) for _ in range(2))
        few = _Measured(few_rows, passes_s, update_s, steps.peak_bytes())
        bar.advance(2)
        affordable = int(limit_s * few_rows / few.passes_s)
        rows = min(micro_batch, max(2 * few_rows, affordable))

        # As many as that, after one step of that size to warm up.
        steps.run(rows)
        bar.advance()
        return few, _measure_median(steps, rows, bar)


def _measure_median(steps: _TimedSteps, rows: int, bar: console.Bar) -> _Measured:
    """Measures several steps of the same size."""
    steps.reset_peak()
    passes_s, updates_s = [], []
    for _ in range(_REPEATS):
        pass_s, update_s = steps.run(rows)
        passes_s.append(pass_s)
        updates_s.append(update_s)
        bar.advance()
    peak_bytes = steps.peak_bytes()
    return _Measured(rows, statistics.median(passes_s), statistics.median(updates_s), peak_bytes)


class _TimedSteps:
    """Training steps on random tokens that leave the weights as they are."""

    def __init__(
        self, objective: Objective, accelerator: Accelerator, batches: RandomBatches
    ) -> None:
        self._objective, self._accelerator, self._batches = objective, accelerator, batches
        trainable = [p for p in objective.trained.parameters() if p.requires_grad]
        self._optimizer = AdamW(trainable, lr=0.0, fused=True)
        objective.trained.train()

    def run(self, rows: int) -> tuple[float, float]:
        """Runs a step; returns the seconds of its passes and of its update."""
        device = self._accelerator.device
        batch = self._batches.draw(rows)
        began = _now(device)
        with self._accelerator.autocast():
            total, _ = self._objective(batch, batch.counts)
        total.backward()
        passed = _now(device)
        torch.nn.utils.clip_grad_norm_(self._objective.trained.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return passed - began, _now(device) - passed

    def reset_peak(self) -> None:
        memory.reset_peak(self._accelerator.device)

    def peak_bytes(self) -> Count:
        return memory.peak_bytes(self._accelerator.device)


def _time_teacher(teaching: Teaching, batches: RandomBatches, rows: int) -> float:
    """Seconds of the teacher's part of a micro-batch."""
    batch = batches.draw(rows)
    return _fastest(lambda: teaching(batch), batches.device)


def _time_evaluation(
    evaluation: Evaluation, accelerator: Accelerator, batches: RandomBatches
) -> float:
    """Seconds that the student takes on a held-out batch."""
    return _fastest(evaluation(batches.draw(HELDOUT_BATCH_ROWS)), accelerator.device)


def _fastest(compute: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few runs."""
    seconds = []
    with retain_freed_memory():
        for _ in range(_EVALUATIONS):
            began = _now(device)
            compute()
            seconds.append(_now(device) - began)
    return min(seconds)


def _extrapolate(
    at_few: float, at_many: float, few: _Measured, many: _Measured, rows: int
) -> float:
    """Value at `rows` on the line through two measurements, but not below the second one."""
    if many.rows in (few.rows, rows):
        return at_many
    return at_many + max(at_many - at_few, 0.0) / (many.rows - few.rows) * (rows - many.rows)


def _peak(few: _Measured, many: _Measured, rows: int, *, evaluation: Count) -> Count:
    """Peak memory of training with micro-batches of `rows`, and of evaluation."""
    if isinstance(many.peak_bytes, NotMeasured):
        return many.peak_bytes
    peak = many.peak_bytes
    if not isinstance(few.peak_bytes, NotMeasured):
        peak = int(_extrapolate(few.peak_bytes, many.peak_bytes, few, many, rows))
    if not isinstance(evaluation, NotMeasured):
        peak = max(peak, evaluation)
    return peak


def _now(device: torch.device) -> float:
    # A GPU computes asynchronously: wait for it before reading the clock.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
