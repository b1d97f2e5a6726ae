"""Predicted peak memory of a process that runs a graph.

    peak = process + weights of MatMuls · share + other initializers · share
           + largest activation · copies + largest weight · share

The process is Python, numpy and onnxruntime. Parsing a protobuf keeps its bytes next to the
tensors; an external weights file is mapped: what stays resident is what the MatMul kernels packed,
and the rows of the word-embedding matrix that texts have touched, with the pages around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.records import Band
from edgedistil.costmodel.workload import NodeWork

Storage = Literal["external", "inline"]

# Pages larger than 4 KiB round every mapping up; assumed.
_LARGE_PAGES_FACTOR = 1.08


@dataclass(frozen=True)
class MemoryConstants:
    """Shares of a graph's bytes that are resident at the peak.

    Attributes:
        process_bytes: Python, numpy and onnxruntime, without a graph.
        weight_share: Of the weights that MatMuls read.
        other_share: Of all other initializers: embeddings, norms, biases.
        activation_copies: Number of largest activations in float32.
        largest_share: Of the largest weight, which exists twice while it is packed.
    """

    process_bytes: float
    weight_share: float
    other_share: float
    activation_copies: float
    largest_share: float

    def peak_bytes(self, parts: NDArray[np.float64]) -> float:
        """Returns the peak of a graph with these `memory_parts`."""
        shares = (self.weight_share, self.other_share, self.activation_copies, self.largest_share)
        return self.process_bytes + float(parts @ np.array(shares))


# Fitted by benchmarks/cost_model_memory.py on 13 encoders in fp32 and int8, 9 to 416 MB.
MEMORY_CONSTANTS: dict[Storage, MemoryConstants] = {
    "external": MemoryConstants(69.7e6, 1.03, 0.78, 2.13, 1.0),
    "inline": MemoryConstants(68.9e6, 1.27, 1.58, 2.39, 0.99),
}
# Holds every shape that was left out of the fit (1.3 would do) and the figures of other machines,
# of which a call on one short text asks for the most, 1.65: it touches few embeddings
# (benchmarks/cost_model.md, section on memory).
MEMORY_SPREAD = 1.7


def memory_parts(file_bytes: int, work: Sequence[NodeWork]) -> NDArray[np.float64]:
    """Bytes of MatMul weights, other initializers, the largest activation and largest weight.

    Args:
        file_bytes: Size of the graph and its external data, in bytes.
        work: Nodes of one call at the longest sequence length.
    """
    weights = sum(node.weight_bytes for node in work)
    # A weight that is used twice (the word embeddings of a fill-mask head) is stored once.
    others = max(0, file_bytes - weights)
    largest_activation = max((node.elements * 4 for node in work), default=0)
    largest_weight = max((node.weight_bytes for node in work), default=0)
    return np.array([weights, others, largest_activation, largest_weight], dtype=float)


def memory_band(
    file_bytes: int, *, external: bool, work: Sequence[NodeWork], page_bytes: float
) -> Band:
    """Predicts the peak resident bytes of a fresh process that loads and runs a graph on texts.

    Args:
        file_bytes: Size of the graph and its external data, in bytes.
        external: Whether the weights are in external data files.
        work: Nodes of one call at the longest sequence length.
        page_bytes: Page size of the device, in bytes.
    """
    constants = MEMORY_CONSTANTS["external" if external else "inline"]
    middle = constants.peak_bytes(memory_parts(file_bytes, work))
    if page_bytes > 4096:
        middle *= _LARGE_PAGES_FACTOR
    step = math.sqrt(MEMORY_SPREAD)
    return Band(low=middle / step, high=middle * step)
