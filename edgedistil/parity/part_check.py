"""Every part of a quantized artefact against PyTorch with the same roundings.

Rounding errors of a chain of layers do not repeat: one value on the other side of a half changes
the extremes, and with them every step, of all layers behind it. So each part is fed PyTorch's own
hidden states, and what it adds to them is compared with what PyTorch adds with the same roundings.
The result is a share of the rounding's own error: 0.00 to 0.05 for a right part, where a wrong one
has 1 and more (docs/log.md#parts-against-the-same-roundings).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core.errors import ParityError
from edgedistil.core.export_records import ReferencePart
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.parity.compare import reduce_outputs
from edgedistil.parity.instrument import (
    OUTPUT_PART,
    InstrumentedGraph,
    instrument_graph,
    replaced_feeds,
    run_session,
)
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.reference_error import SquaredErrors, compressed, squared_errors
from edgedistil.parity.states import (
    Layout,
    all_states,
    batch_first,
    boundary_layouts,
    pytorch_states,
)

Array = NDArray[Any]

# Measured: 0.00 to 0.02 over all lengths. Few values decide at a short length, where one that is
# rounded to the other side counts for 0.2 (docs/log.md#parts-against-the-same-roundings).
MAX_SHARE = 0.1
MAX_SHARE_OF_A_LENGTH = 0.5
# One scale for a call: a value that is rounded to the other side can move it for every token.
# Measured: 0.31 over all lengths, 0.43 at one of them (ModernBERT with random weights).
MAX_DYNAMIC_SHARE = 0.5
MAX_DYNAMIC_SHARE_OF_A_LENGTH = 0.8

# Names of what a reference holds for the batches with all hidden states.
PART_PREFIX = "part/"
FED_OUTPUT_PREFIX = "fed/"


def check_parts(model_file: Path, probes: Probes, precision: Precision) -> list[ReferencePart]:
    """Compares what each part of an artefact adds with PyTorch's in the same roundings.

    Args:
        model_file: The artefact.
        probes: The inputs, with hidden states and the reference of the precision.
        precision: Precision of the artefact.
    Returns:
        One row for each part, in the order of computation; empty without hidden states.
    Raises:
        ModelError: The graph cannot be divided or run.
        ParityError: A part's output is NaN or infinite.
    """
    references = probes.references[precision]
    batches = [
        (batch, reference)
        for batch, reference in zip(probes, references, strict=True)
        if any(name.startswith(PART_PREFIX) for name in reference)
    ]
    if not batches:
        return []
    graph = instrument_graph(model_file, probes.boundaries)
    layouts = boundary_layouts(graph, batches[0][0])
    session = _fed_session(graph, batches[0][0], layouts)
    # Part → padded length → sums over its batches.
    errors: dict[str, dict[int, SquaredErrors]] = defaultdict(dict)
    for batch, reference in batches:
        states = pytorch_states(graph, batch, layouts)
        outputs = run_session(session, {**batch.feeds(), **replaced_feeds(graph, states)})
        for part, error in _errors(graph, batch, reference, outputs):
            earlier = errors[part].get(batch.length, SquaredErrors())
            errors[part][batch.length] = earlier + error
    return [_reference_part(part, by_length) for part, by_length in errors.items()]


def _reference_part(part: str, by_length: Mapping[int, SquaredErrors]) -> ReferencePart:
    length = max(by_length, key=lambda tokens: by_length[tokens].share)
    return ReferencePart(
        part=part,
        share=sum(by_length.values(), SquaredErrors()).share,
        worst_share=by_length[length].share,
        worst_length=length,
    )


def _fed_session(
    graph: InstrumentedGraph, batch: ProbeBatch, layouts: Mapping[str, Layout]
) -> ort.InferenceSession:
    states = pytorch_states(graph, batch, layouts)
    consumed = {name: array for name, array in states.items() if graph.has_consumer(name)}
    names = [*graph.boundaries.values(), *(output.name for output in graph.model.graph.output)]
    return graph.session(list(dict.fromkeys(names)), consumed)


def _errors(
    graph: InstrumentedGraph,
    batch: ProbeBatch,
    reference: Mapping[str, Array],
    outputs: Mapping[str, Array],
) -> list[tuple[str, SquaredErrors]]:
    """(part, its error) of one batch."""
    attended_BL = batch.attention_mask_BL == 1
    errors = []
    boundaries = zip(graph.boundaries.items(), all_states(batch), strict=True)
    for (part, tensor), expected_BLD in boundaries:
        actual = batch_first(outputs[tensor], batch)[attended_BL]
        _check_finite(part, actual, batch)
        expected = expected_BLD[attended_BL]
        errors.append((part, squared_errors(expected, reference[PART_PREFIX + part], actual)))
    reduced = reduce_outputs(batch, outputs)
    for name, expected in batch.outputs.items():
        _check_finite(OUTPUT_PART, reduced[name], batch)
        rounded = reference.get(FED_OUTPUT_PREFIX + name)
        if rounded is not None:
            errors.append((OUTPUT_PART, squared_errors(expected, rounded, reduced[name])))
    return errors


def _check_finite(part: str, values: Array, batch: ProbeBatch) -> None:
    if not np.isfinite(values).all():
        raise ParityError(
            f"the part '{part}' computes NaN or infinite values from PyTorch's hidden states"
            f" ({batch.sequences} × {batch.length} tokens)"
        )


def wrong_parts(parts: Sequence[ReferencePart], precision: Precision) -> list[str]:
    """One sentence for each part that is beyond a bound, the worst first."""
    most, most_of_a_length = MAX_SHARE, MAX_SHARE_OF_A_LENGTH
    if not PRECISIONS[precision].invariant:
        most, most_of_a_length = MAX_DYNAMIC_SHARE, MAX_DYNAMIC_SHARE_OF_A_LENGTH
    wrong = [part for part in parts if part.share > most or part.worst_share > most_of_a_length]
    return [
        f"{part.part} differs from PyTorch with the same roundings by {part.share:.3g} of their own"
        f" error, expected at most {most:g} (by {part.worst_share:.3g} at"
        f" {part.worst_length} tokens, expected at most {most_of_a_length:g})"
        for part in sorted(wrong, key=lambda part: part.worst_share, reverse=True)
    ]


def reference_of_parts(
    parts: Sequence[tuple[str, Array]], attended_BL: NDArray[np.bool_]
) -> dict[str, Array]:
    """Returns hidden states in the form in which a reference holds them."""
    return {PART_PREFIX + name: compressed(states[attended_BL]) for name, states in parts}
