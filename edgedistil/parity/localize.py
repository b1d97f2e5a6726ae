"""Where an artefact's error comes from: part by part against PyTorch, then node by node against a good artefact.

Errors grow on their way through the layers, so the layer where they look largest need not be the one at fault. Each
part is therefore fed PyTorch's own hidden states (the probes hold them whole for one batch) and judged by what it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import ModelError, ParityError
from edgedistil.core.records import (
    ExplainRecord,
    FloatGain,
    NodeError,
    NotMeasured,
    ParityFigures,
    PartError,
    provenance,
)
from edgedistil.core.rundir import artefact_files, artefact_sha256
from edgedistil.parity.compare import compare, reduce_outputs
from edgedistil.parity.gate import open_runner
from edgedistil.parity.instrument import OUTPUT, Opened, open_graph, run_session
from edgedistil.parity.probes import ProbeBatch, Probes

INFINITELY_FAR = 1e9  # records hold no infinities
_PRODUCTS = ("MatMul", "Gemm", "Attention", "Gather", "EmbedLayerNormalization")

Array = NDArray[Any]
Requantize = Callable[[Sequence[str]], Path]


def explain(
    model_file: Path,
    probes: Probes,
    reference_file: Path | None = None,
    *,
    requantize: Requantize | None = None,
    most_gains: int = 3,
) -> ExplainRecord:
    """The error of every part, the worst part, its worst node, and what leaving a part in float would buy.

    Args:
        model_file: The artefact, before or after the gate refused it.
        probes: What PyTorch answered.
        reference_file: A good float artefact of the same graph (the fp32 one that passed): names the node.
        requantize: Makes the artefact again with these nodes of `reference_file` left in float, and says where.
        most_gains: So many parts, worst first, are tried with `requantize`.
    Raises:
        ModelError: The graph cannot be read or run, or its parts cannot be told apart.
    """
    opened = open_graph(model_file, probes.boundaries)
    reference = open_graph(reference_file, probes.boundaries) if reference_file else None
    batch = _whole_batch(probes)
    parts = _parts(opened, probes, batch)
    order = sorted(parts, key=lambda part: part.own, reverse=True)
    worst = order[0].part
    nodes = _nodes(opened, reference, worst, batch) if reference else []
    return ExplainRecord(
        artefact_sha256=artefact_sha256(model_file),
        task=probes.task,
        parts=parts,
        worst_part=worst,
        worst_node=nodes[0] if nodes else NotMeasured(not_measured=_why_no_node(reference)),
        nodes=nodes,
        bytes=_bytes(model_file),
        figures=_figures_or_why(model_file, probes),
        gains=_gains(requantize, reference, [part.part for part in order[:most_gains]], probes),
        provenance=provenance(),
    )


def _whole_batch(probes: Probes) -> ProbeBatch:
    for batch in probes:
        if batch.whole_KBLD is not None:
            return batch
    raise ModelError(
        "the probes hold no whole hidden states", hint="edgedistil export makes probes that do"
    )


def _why_no_node(reference: Opened | None) -> str:
    return (
        "no tensor of its worst part has a namesake in the good artefact"
        if reference
        else "no good artefact given"
    )


# --- parts -----------------------------------------------------------------------------------------


def _parts(opened: Opened, probes: Probes, batch: ProbeBatch) -> list[PartError]:
    own = _own_errors(opened, batch, probes.boundaries)
    reached = _reached_errors(opened, probes)
    return [
        PartError(
            part=part, own=own[part], reached=reached[part][0], reached_max_abs=reached[part][1]
        )
        for part in own
    ]


def _own_errors(opened: Opened, batch: ProbeBatch, boundaries: Sequence[str]) -> dict[str, float]:
    """Relative error of every part's output, each part being fed what PyTorch's layers before it gave."""
    names = [*opened.boundaries.values(), *_output_names(opened)]
    answers = opened.answers(names, batch.feeds(), _pytorch_states(opened, batch))
    attended_BL = batch.attention_mask_BL == 1
    errors = {
        part: relative_error(
            expected_BLD[attended_BL],
            _batch_first(answers[opened.boundaries[part]], batch)[attended_BL],
        )
        for part, expected_BLD in zip(boundaries, _whole(batch), strict=True)
    }
    if opened.parts[OUTPUT]:  # an encoder's output is its last LayerNorm's: nothing comes after it
        reduced = reduce_outputs(batch, answers)
        errors[OUTPUT] = max(
            relative_error(expected, reduced[name]) for name, expected in batch.outputs.items()
        )
    return errors


def _reached_errors(opened: Opened, probes: Probes) -> dict[str, tuple[float, float]]:
    """(relative error, largest difference) of every part's output in the running artefact, a batch of each length."""
    session = opened.session([*opened.boundaries.values(), *_output_names(opened)])
    kept: dict[str, list[tuple[Array, Array]]] = {part: [] for part in [*opened.boundaries, OUTPUT]}
    batches = {batch.length: batch for batch in probes}.values()
    with console.progress(
        "layer by layer", sum(b.sequences for b in batches), unit="sequences"
    ) as bar:
        for batch in batches:
            answers = run_session(session, batch.feeds())
            rows_R2 = batch.hidden_rows_R2
            for expected_RD, (part, tensor) in zip(
                batch.hidden_KRD, opened.boundaries.items(), strict=True
            ):
                got_BLD = _batch_first(answers[tensor], batch)
                kept[part].append((expected_RD, got_BLD[rows_R2[:, 0], rows_R2[:, 1]]))
            reduced = reduce_outputs(batch, answers)
            kept[OUTPUT] += [(expected, reduced[name]) for name, expected in batch.outputs.items()]
            bar.advance(batch.sequences)
    return {part: _pooled(pairs) for part, pairs in kept.items()}


def _pooled(pairs: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    expected = np.concatenate([pair[0].ravel() for pair in pairs]).astype(np.float64)
    got = np.concatenate([pair[1].ravel() for pair in pairs])
    largest = float(np.abs(expected - got).max())
    return relative_error(expected, got), largest if np.isfinite(largest) else INFINITELY_FAR


def relative_error(expected: Array, got: Array) -> float:
    """‖got - expected‖ / ‖expected‖; `INFINITELY_FAR` when something in `got` is not finite."""
    a, b = expected.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    if not np.isfinite(b).all():
        return INFINITELY_FAR
    norm = float(np.linalg.norm(a))
    distance = float(np.linalg.norm(b - a))
    return distance / norm if norm > 0 else float(distance > 0)


def _output_names(opened: Opened) -> list[str]:
    boundaries = set(opened.boundaries.values())
    return [each.name for each in opened.model.graph.output if each.name not in boundaries]


def _whole(batch: ProbeBatch) -> NDArray[np.float32]:
    if batch.whole_KBLD is None:
        raise ModelError(
            "the probes hold no whole hidden states", hint="edgedistil export makes probes that do"
        )
    return batch.whole_KBLD


def _pytorch_states(opened: Opened, batch: ProbeBatch) -> dict[str, Array]:
    """What PyTorch has at the boundaries, by the artefact's names, in its element type and order of axes."""
    computed = opened.answers(list(opened.boundaries.values()), batch.feeds())
    states = {}
    for tensor, state_BLD in zip(opened.boundaries.values(), _whole(batch), strict=True):
        turned = computed[tensor].shape[0] != batch.sequences
        states[tensor] = (state_BLD.swapaxes(0, 1) if turned else state_BLD).astype(
            computed[tensor].dtype
        )
    return states


def _batch_first(states: Array, batch: ProbeBatch) -> Array:
    """Hidden states as (B, L, D), from a graph that may keep them as (L, B, D). Probes never have B = L.

    Raises:
        ModelError: They are neither.
    """
    if states.shape[:2] == (batch.sequences, batch.length):
        return states
    if states.shape[:2] == (batch.length, batch.sequences):
        return states.swapaxes(0, 1)
    raise ModelError(
        f"a LayerNorm's output has the shape {states.shape} for {batch.sequences} × {batch.length} tokens"
    )


# --- nodes -----------------------------------------------------------------------------------------


def _nodes(opened: Opened, reference: Opened, part: str, batch: ProbeBatch) -> list[NodeError]:
    """The nodes of a part by the error that each adds to exact inputs, worst first.

    A node of the artefact whose output has a namesake in the good one is judged with every such namesake's value fed to
    it; what lies between two of them (quantize, multiply integers, scale) is judged as one, under its product's name.
    """
    states = _pytorch_states(opened, batch)
    ours = set(opened.float_outputs(opened.parts[part]))
    shared = [name for name in reference.float_outputs(reference.parts[part]) if name in ours]
    if not shared:
        return []
    good = reference.answers(shared, batch.feeds(), _pytorch_states(reference, batch))
    computed = opened.answers(shared, batch.feeds(), states)
    shared = [name for name in shared if good[name].shape == computed[name].shape]
    exact = {name: good[name].astype(computed[name].dtype) for name in shared}
    answers = opened.answers(shared, batch.feeds(), {**exact, **states})
    makers = {name: node for node in opened.parts[part] for name in node.output}
    errors = [
        NodeError(
            node=node.name or name,
            operator=node.op_type,
            output=name,
            own=relative_error(good[name], answers[name]),
        )
        for name in shared
        for node in [_product(makers, name, stop={*exact, *states})]
    ]
    return sorted(errors, key=lambda each: each.own, reverse=True)


def _product(makers: dict[str, onnx.NodeProto], tensor: str, *, stop: set[str]) -> onnx.NodeProto:
    """The matrix product or look-up on the way from exact tensors to this one, else the node that makes it."""
    waiting, seen = [tensor], set[str]()
    while waiting:
        node = makers[waiting.pop()]
        if any(word in node.op_type for word in _PRODUCTS):
            return node
        new = [
            name for name in node.input if name in makers and name not in stop and name not in seen
        ]
        seen.update(new)
        waiting += new
    return makers[tensor]


# --- gains -----------------------------------------------------------------------------------------


def _gains(
    requantize: Requantize | None, reference: Opened | None, parts: Sequence[str], probes: Probes
) -> list[FloatGain] | NotMeasured:
    if requantize is None or reference is None:
        return NotMeasured(not_measured="nothing was quantized again")
    gains = []
    with console.progress("leaving parts in float", len(parts), unit="parts") as bar:
        for part in parts:
            made = requantize([node.name for node in reference.parts[part]])
            gains.append(FloatGain(part=part, figures=_figures(made, probes), bytes=_bytes(made)))
            bar.advance()
    return gains


def _figures(model_file: Path, probes: Probes) -> ParityFigures:
    run = open_runner(model_file)
    return compare(probes, (reduce_outputs(batch, run(batch.feeds())) for batch in probes)).overall


def _figures_or_why(model_file: Path, probes: Probes) -> ParityFigures | NotMeasured:
    try:
        return _figures(model_file, probes)
    except (
        ParityError
    ) as error:  # NaN: there are no figures, and where it comes from is asked for all the more
        return NotMeasured(not_measured=error.message)


def _bytes(model_file: Path) -> int:
    return sum(file.stat().st_size for file in artefact_files(model_file))
