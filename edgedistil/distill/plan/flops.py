"""FLOPs and memory of a distillation step from shapes alone: what a plan says about a device that it cannot time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ROWS = 512  # that the losses project onto the vocabulary at once


@dataclass(frozen=True)
class Shape:
    """An encoder with its MLM head, as far as its cost goes."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    parameters: int

    def encoder_flops(self, length: int) -> float:
        """Of one token, forward: two for each weight that multiplies it, and attention over `length` tokens."""
        weights = 4 * self.hidden**2 + 2 * self.hidden * self.intermediate
        return self.layers * (2.0 * weights + 4.0 * length * self.hidden)

    @property
    def head_flops(self) -> float:
        """Of one projected token, forward."""
        return 2.0 * self.hidden * (self.hidden + self.vocabulary)


def flops_per_token(
    teacher: Shape,
    student: Shape,
    *,
    length: int,
    masked_share: float,
    positions: Literal["all", "masked"],
    soft_target: float,
    mlm: float,
    cosine: float,
) -> float:
    """Useful FLOPs of a step per attended token: a backward pass costs two forward passes."""
    taught = 1.0 if positions == "all" else masked_share
    projected = taught if soft_target > 0 else masked_share if mlm > 0 else 0.0
    flops = 3 * (student.encoder_flops(length) + projected * student.head_flops)
    if soft_target > 0 or cosine > 0:
        flops += teacher.encoder_flops(length)
    if soft_target > 0:
        flops += taught * teacher.head_flops
    return flops


def gpu_memory_bytes(teacher: Shape, student: Shape, *, micro_batch: int, length: int) -> int:
    """Peak on a GPU in 16 bits, about.

    Weights, gradients and two moments of the student in float32 and its 16-bit copy; the teacher in 16 bits; what a
    layer of the student keeps for its backward pass; one chunk of logits and its gradients on both sides; the head's
    gradient; and what the driver and the libraries take.
    """
    tokens = micro_batch * length
    weights = student.parameters * (4 + 4 + 8 + 2) + teacher.parameters * 2
    # 16-bit inputs of six matrix products, of two norms and of the activation, and two dropout masks.
    kept = student.layers * tokens * (22 * student.hidden + 6 * student.intermediate)
    passing = tokens * (8 * teacher.hidden + 4 * teacher.intermediate)
    logits = ROWS * student.vocabulary * 4 * 6 + student.vocabulary * student.hidden * 4
    return int(weights + kept + passing + logits + (1 << 30))
