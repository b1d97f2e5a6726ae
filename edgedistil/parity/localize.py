"""Localization of an artefact's error: by part against PyTorch, then by node against fp32.

Errors grow on their way through the layers, so the layer with the largest error need not be the one
that caused it. Each part is therefore fed PyTorch's own hidden states (the probes hold all of them
for one batch) and judged by the error that it adds
(docs/decisions.md#a-part-is-judged-by-what-it-adds-to-exact-inputs). Tried before and dropped: the
layer where the error grows most (docs/log.md#blaming-a-layer), and output error less input error of
a node (docs/log.md#blaming-a-node).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import ModelError, ParityError
from edgedistil.core.export_records import (
    ExplainRecord,
    FloatGain,
    NodeError,
    ParityFigures,
    PartError,
)
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.core.rundir import artefact_files, artefact_sha256
from edgedistil.parity.compare import compare, reduce_outputs
from edgedistil.parity.gate import load_artefact
from edgedistil.parity.instrument import (
    OUTPUT_PART,
    InstrumentedGraph,
    instrument_graph,
    run_session,
)
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.states import all_states, batch_first, boundary_layouts, pytorch_states

# In place of an infinite error: records cannot hold infinities.
NON_FINITE_ERROR = 1e9
# Parts of the operator types that read weights; the others only pass an error on.
_WEIGHT_OPERATORS = ("MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization")

Array = NDArray[Any]
# Quantizes the artefact again with the named nodes left in float; returns the new file.
Requantize = Callable[[Sequence[str]], Path]


def explain(
    model_file: Path,
    probes: Probes,
    reference_file: Path | None = None,
    *,
    requantize: Requantize | None = None,
    max_gains: int = 3,
) -> ExplainRecord:
    """Finds the part and the node that add the error, and what leaving parts in float gains.

    Args:
        model_file: The artefact, whether or not it passed the parity check.
        probes: The inputs, with PyTorch's outputs and hidden states.
        reference_file: The fp32 artefact of the same graph that passed; needed to name the node.
        requantize: Quantizes the artefact again with some nodes of `reference_file` left in float.
        max_gains: Number of parts, worst first, that are tried with `requantize`.
    Raises:
        ModelError: A graph cannot be read or run, or its parts cannot be separated.
    """
    graph = instrument_graph(model_file, probes.boundaries)
    reference = None
    if reference_file is not None:
        reference = instrument_graph(reference_file, probes.boundaries)
    batch = _batch_with_all_states(probes)

    parts = _part_errors(graph, probes, batch)
    # The worst part is the one that adds most, not the one where the error is largest.
    by_own_error = sorted(parts, key=lambda part: part.own, reverse=True)
    worst_part = by_own_error[0].part

    # Within that part, node by node against the fp32 artefact, which has the same tensors.
    nodes: list[NodeError] = []
    if reference is not None:
        nodes = _node_errors(graph, reference, worst_part, batch)
    no_node = NotMeasured(not_measured=_reason_without_node(reference))

    # What it would gain to leave a part in float; each trial quantizes and runs the artefact again.
    tried_parts = [part.part for part in by_own_error[:max_gains]]
    return ExplainRecord(
        artefact_sha256=artefact_sha256(model_file),
        task=probes.task,
        parts=parts,
        worst_part=worst_part,
        worst_node=nodes[0] if nodes else no_node,
        nodes=nodes,
        bytes=_artefact_bytes(model_file),
        figures=_figures_or_reason(model_file, probes),
        gains=_float_gains(requantize, reference, tried_parts, probes),
        provenance=provenance(),
    )


def _batch_with_all_states(probes: Probes) -> ProbeBatch:
    batches = [batch for batch in probes if batch.full_hidden_KBLD is not None]
    if not batches:
        raise ModelError(
            "the probes contain no complete hidden states",
            hint="edgedistil export writes probes that do",
        )
    # Several sequences, so that padding and neighbours take part.
    return max(batches, key=lambda batch: batch.sequences)


def _reason_without_node(reference: InstrumentedGraph | None) -> str:
    if reference is None:
        return "no fp32 artefact to compare with"
    return "no tensor of the worst part has the same name in the fp32 artefact"


# --- parts ---------------------------------------------------------------------------------------


def _part_errors(graph: InstrumentedGraph, probes: Probes, batch: ProbeBatch) -> list[PartError]:
    own_errors = _own_errors(graph, batch, probes.boundaries)
    reached_errors = _reached_errors(graph, probes)
    parts = []
    for part, own in own_errors.items():
        reached, reached_max_abs = reached_errors[part]
        parts.append(
            PartError(part=part, own=own, reached=reached, reached_max_abs=reached_max_abs)
        )
    return parts


def _own_errors(
    graph: InstrumentedGraph, batch: ProbeBatch, boundaries: Sequence[str]
) -> dict[str, float]:
    """Relative error of each part's output when the part is fed PyTorch's hidden states."""
    # One pass for all parts: a boundary is read, and its consumers get PyTorch's states instead.
    names = [*graph.boundaries.values(), *_output_names(graph)]
    outputs = graph.run(names, batch.feeds(), _states(graph, batch))
    # Hidden states at padding are arbitrary.
    attended_BL = batch.attention_mask_BL == 1
    errors = {}
    for part, expected_BLD in zip(boundaries, all_states(batch), strict=True):
        actual_BLD = batch_first(outputs[graph.boundaries[part]], batch)
        errors[part] = relative_error(expected_BLD[attended_BL], actual_BLD[attended_BL])
    # An encoder's output is that of its last LayerNorm: no node comes after it.
    if graph.parts[OUTPUT_PART]:
        reduced = reduce_outputs(batch, outputs)
        errors[OUTPUT_PART] = max(
            relative_error(expected, reduced[name]) for name, expected in batch.outputs.items()
        )
    return errors


def _reached_errors(graph: InstrumentedGraph, probes: Probes) -> dict[str, tuple[float, float]]:
    """(relative error, largest difference) of each part's output in the running artefact.

    Runs one batch of each length, without replacing anything: earlier errors are included.
    """
    session = graph.session([*graph.boundaries.values(), *_output_names(graph)])
    # Part → (PyTorch's, the artefact's) values of each batch.
    pairs: dict[str, list[tuple[Array, Array]]] = defaultdict(list)
    # One batch of each length is enough to see where errors grow.
    batches = {batch.length: batch for batch in probes}.values()
    sequences = sum(batch.sequences for batch in batches)
    with console.progress("errors by layer", sequences, unit="sequences") as bar:
        for batch in batches:
            outputs = run_session(session, batch.feeds())
            rows_R, positions_R = batch.hidden_rows_R2.T
            boundaries = zip(graph.boundaries.items(), batch.hidden_KRD, strict=True)
            for (part, tensor), expected_RD in boundaries:
                actual_BLD = batch_first(outputs[tensor], batch)
                pairs[part].append((expected_RD, actual_BLD[rows_R, positions_R]))
            reduced = reduce_outputs(batch, outputs)
            for name, expected in batch.outputs.items():
                pairs[OUTPUT_PART].append((expected, reduced[name]))
            bar.advance(batch.sequences)
    return {part: _pooled_error(part_pairs) for part, part_pairs in pairs.items()}


def _pooled_error(pairs: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """(relative error, largest difference) over all batches."""
    expected = np.concatenate([pair[0].ravel() for pair in pairs]).astype(np.float64)
    actual = np.concatenate([pair[1].ravel() for pair in pairs])
    max_abs = float(np.abs(expected - actual).max())
    if not np.isfinite(max_abs):
        max_abs = NON_FINITE_ERROR
    return relative_error(expected, actual), max_abs


def relative_error(expected: Array, actual: Array) -> float:
    """‖actual - expected‖ / ‖expected‖; `NON_FINITE_ERROR` if `actual` holds NaN or an infinity.

    For `expected` of norm 0: 0 if `actual` is 0 as well, else 1.
    """
    a = expected.astype(np.float64).ravel()
    b = actual.astype(np.float64).ravel()
    if not np.isfinite(b).all():
        return NON_FINITE_ERROR
    norm = float(np.linalg.norm(a))
    distance = float(np.linalg.norm(b - a))
    if norm > 0:
        return distance / norm
    return float(distance > 0)


def _states(graph: InstrumentedGraph, batch: ProbeBatch) -> dict[str, Array]:
    """PyTorch's hidden states under the artefact's tensor names."""
    return pytorch_states(graph, batch, boundary_layouts(graph, batch))


def _output_names(graph: InstrumentedGraph) -> list[str]:
    """Names of the graph's outputs that are not a part's boundary."""
    boundaries = set(graph.boundaries.values())
    return [output.name for output in graph.model.graph.output if output.name not in boundaries]


# --- nodes ---------------------------------------------------------------------------------------


def _node_errors(
    graph: InstrumentedGraph, reference: InstrumentedGraph, part: str, batch: ProbeBatch
) -> list[NodeError]:
    """Error that each node of a part adds to exact inputs, worst first.

    A node is judged if a tensor of the same name exists in the fp32 artefact; all such tensors are
    fed the fp32 artefact's values. Nodes between two of them (quantize, multiply integers, scale)
    are judged as one, under the name of their MatMul.
    """
    # Tensors that both artefacts have; what quantization inserted has no counterpart.
    states = _states(graph, batch)
    own_names = set(graph.float_outputs(graph.parts[part]))
    reference_names = reference.float_outputs(reference.parts[part])
    shared = [name for name in reference_names if name in own_names]
    if not shared:
        return []

    # The fp32 artefact's tensors, in the artefact's dtypes; some have another layout there.
    expected = reference.run(shared, batch.feeds(), _states(reference, batch))
    computed = graph.run(shared, batch.feeds(), states)
    shared = [name for name in shared if expected[name].shape == computed[name].shape]
    exact = {name: expected[name].astype(computed[name].dtype) for name in shared}

    # Every shared tensor is computed from exact inputs: its consumers read the fed values.
    outputs = graph.run(shared, batch.feeds(), {**exact, **states})

    producers = {name: node for node in graph.parts[part] for name in node.output}
    errors = []
    for name in shared:
        node = _weight_node(producers, name, stop={*exact, *states})
        own = relative_error(expected[name], outputs[name])
        errors.append(
            NodeError(node=node.name or name, operator=node.op_type, output=name, own=own)
        )
    return sorted(errors, key=lambda error: error.own, reverse=True)


def _weight_node(
    producers: Mapping[str, onnx.NodeProto], tensor: str, *, stop: set[str]
) -> onnx.NodeProto:
    """Returns the weights' operator between `stop` and a tensor, else the tensor's producer."""
    # Backwards from the tensor: an error at an Add or a LayerNorm comes from the weights before it.
    pending = [tensor]
    seen: set[str] = set()
    while pending:
        node = producers[pending.pop()]
        if any(operator in node.op_type for operator in _WEIGHT_OPERATORS):
            return node
        inputs = [
            name
            for name in node.input
            if name in producers and name not in stop and name not in seen
        ]
        seen.update(inputs)
        pending += inputs
    return producers[tensor]


# --- gains ---------------------------------------------------------------------------------------


def _float_gains(
    requantize: Requantize | None,
    reference: InstrumentedGraph | None,
    parts: Sequence[str],
    probes: Probes,
) -> list[FloatGain] | NotMeasured:
    """Figures and size of the artefact with one part left in float, for each of `parts`."""
    if requantize is None or reference is None:
        return NotMeasured(not_measured="no part was quantized again")
    gains = []
    with console.progress("leaving parts in float", len(parts), unit="parts") as bar:
        for part in parts:
            model_file = requantize([node.name for node in reference.parts[part]])
            figures = _figures(model_file, probes)
            gains.append(FloatGain(part=part, figures=figures, bytes=_artefact_bytes(model_file)))
            bar.advance()
    return gains


def _figures(model_file: Path, probes: Probes) -> ParityFigures:
    run = load_artefact(model_file)
    # A generator, so that the complete logits of one batch only are in memory.
    outputs = (reduce_outputs(batch, run(batch.feeds())) for batch in probes)
    return compare(probes, outputs).overall


def _figures_or_reason(model_file: Path, probes: Probes) -> ParityFigures | NotMeasured:
    try:
        return _figures(model_file, probes)
    except ParityError as error:
        # NaN in an output: there are no figures, but the part that produced it is worth finding.
        return NotMeasured(not_measured=error.message)


def _artefact_bytes(model_file: Path) -> int:
    return sum(file.stat().st_size for file in artefact_files(model_file))
