"""`train.precision = "auto"` on a CPU: bfloat16 and float32 are tried for a second.

Which of them is faster depends on the processor, the widths and the losses: with bfloat16 products
come casts, and their share is small only in wide models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from edgedistil.core.recipe_objective import LEAST_COMPARED_TEXTS
from edgedistil.distill.batches import MicroBatch
from edgedistil.distill.memory import retain_freed_memory
from edgedistil.distill.objective import Objective
from edgedistil.distill.plan.timing import RandomBatches, TimedObjective
from edgedistil.models.native_dtype import bfloat16_is_native

# Precisions that are tried.
Candidate = Literal["bfloat16", "float32"]
CANDIDATES: tuple[Candidate, ...] = get_args(Candidate)
# Time of the trial after the warm-up, and fewest passes of each precision in it.
_SECONDS = 1.0
_LEAST_ROUNDS = 3
# Tokens of a pass: enough that its products are those of a micro-batch.
_TOKENS = 1024


@dataclass(frozen=True)
class TriedShape:
    """Shape of the passes of a trial.

    Attributes:
        micro_batch: Rows of the run's micro-batches.
        length: Mean tokens of a row.
        masked_share: Share of masked tokens.
    """

    micro_batch: int
    length: int
    masked_share: float

    @property
    def rows(self) -> int:
        """Rows of a pass: as many as have about 1,024 tokens, at most a micro-batch."""
        return min(self.micro_batch, max(LEAST_COMPARED_TEXTS, _TOKENS // self.length))


def has_choice(device: torch.device) -> bool:
    """Whether both precisions are worth a trial on a device.

    A GPU with bfloat16 is faster with it; without native bfloat16 it is emulated.
    """
    return device.type == "cpu" and bfloat16_is_native(device)


def try_precisions(
    build: Callable[[Candidate], TimedObjective], shape: TriedShape, *, seconds: float = _SECONDS
) -> dict[Candidate, float]:
    """Times forward and backward passes of a run's losses in each precision, in turns.

    Args:
        build: Returns the losses with the teacher in a precision; their student is shared, and
            keeps its weights.
        shape: Shape of the passes.
        seconds: Time of the trial after the warm-up.
    Returns:
        Shortest time of a pass by precision, in seconds, with the share of the teacher that the
        run computes.
    Conditions: random tokens without padding; without torch.compile; no update, which is the same
        in both.
    """
    # Neither random weights nor dropout may change the random numbers of the run.
    with torch.random.fork_rng(devices=[]), retain_freed_memory():
        objectives = {precision: build(precision) for precision in CANDIDATES}
        student = next(iter(objectives.values())).objective.student
        was_training = student.training
        vocabulary = student.config.vocab_size
        batches = RandomBatches(shape.length, vocabulary, shape.masked_share, torch.device("cpu"))
        batch = batches.draw(shape.rows)
        times = _take_turns(objectives, batch, seconds)
        student.train(was_training)
    return times


def _take_turns(
    objectives: Mapping[Candidate, TimedObjective], batch: MicroBatch, seconds: float
) -> dict[Candidate, float]:
    """Time of a pass in each precision, from passes in turns."""
    passes: dict[Candidate, list[float]] = {precision: [] for precision in objectives}
    teacher: dict[Candidate, list[float]] = {precision: [] for precision in objectives}
    for precision, timed in objectives.items():
        timed.objective.trained.train()
        # The first pass loads kernels.
        _pass_seconds(timed.objective, precision, batch)
    ends = time.perf_counter() + seconds
    rounds = 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() < ends:
        for precision, timed in objectives.items():
            passes[precision].append(_pass_seconds(timed.objective, precision, batch))
            teacher[precision].append(_teacher_seconds(timed, precision, batch))
        rounds += 1
    times = {}
    for precision, timed in objectives.items():
        left_out = (1 - timed.teacher_share) * min(teacher[precision])
        # Both are measured: a difference of noise is not below 0.
        times[precision] = max(0.0, min(passes[precision]) - left_out)
    return times


def _pass_seconds(objective: Objective, precision: Candidate, batch: MicroBatch) -> float:
    """Time of one forward and backward pass; the gradients are dropped."""
    began = time.perf_counter()
    with _autocast(precision):
        total, _ = objective(batch, batch.counts)
    total.backward()
    passed = time.perf_counter() - began
    objective.trained.zero_grad(set_to_none=True)
    return passed


def _teacher_seconds(timed: TimedObjective, precision: Candidate, batch: MicroBatch) -> float:
    """Time of the teacher's part of a pass; 0 if every pass of the run is as the timed one."""
    if timed.teach is None:
        return 0.0
    began = time.perf_counter()
    with _autocast(precision):
        timed.teach(batch)
    return time.perf_counter() - began


def _autocast(precision: Candidate) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def faster(seconds: Mapping[Candidate, float]) -> Candidate:
    """Returns the precision with the shortest time."""
    return min(seconds, key=seconds.__getitem__)
