"""PyTorch's hidden states in the order of axes and the types of an artefact's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import ModelError
from edgedistil.parity.instrument import InstrumentedGraph
from edgedistil.parity.probes import ProbeBatch

Array = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """How a graph keeps the hidden states of a boundary.

    Attributes:
        sequence_first: (L, B, D) instead of (B, L, D).
        dtype: Type of the values.
    """

    sequence_first: bool
    dtype: np.dtype[Any]


def boundary_layouts(graph: InstrumentedGraph, batch: ProbeBatch) -> dict[str, Layout]:
    """Runs a graph on a batch and returns boundary tensor → its layout."""
    computed = graph.run(list(graph.boundaries.values()), batch.feeds())
    return {
        tensor: Layout(states.shape[0] != batch.sequences, states.dtype)
        for tensor, states in computed.items()
    }


def pytorch_states(
    graph: InstrumentedGraph, batch: ProbeBatch, layouts: Mapping[str, Layout]
) -> dict[str, Array]:
    """PyTorch's hidden states under the artefact's tensor names, in its layouts."""
    states = {}
    for tensor, state_BLD in zip(graph.boundaries.values(), all_states(batch), strict=True):
        layout = layouts[tensor]
        state = state_BLD.swapaxes(0, 1) if layout.sequence_first else state_BLD
        states[tensor] = state.astype(layout.dtype)
    return states


def all_states(batch: ProbeBatch) -> NDArray[np.float32]:
    """Hidden states of a batch that has them."""
    assert batch.full_hidden_KBLD is not None, "the caller selects batches that have them"
    return batch.full_hidden_KBLD


def batch_first(states: Array, batch: ProbeBatch) -> Array:
    """Returns hidden states as (B, L, D), from a graph that may keep them as (L, B, D).

    Probes never have B = L, so the two cannot be confused.

    Raises:
        ModelError: The shape is neither.
    """
    if states.shape[:2] == (batch.sequences, batch.length):
        return states
    if states.shape[:2] == (batch.length, batch.sequences):
        return states.swapaxes(0, 1)
    raise ModelError(
        f"a boundary's tensor has the shape {states.shape}"
        f" for {batch.sequences} × {batch.length} tokens"
    )
