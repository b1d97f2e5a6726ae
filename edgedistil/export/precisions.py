"""Makers of each precision: from the float32 graph to a graph in that precision.

A new precision is a row in `edgedistil.core.precision` and a maker here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from transformers import PreTrainedModel

from edgedistil.core.errors import CorpusError
from edgedistil.core.export_records import ParityFigures, ProbeText
from edgedistil.core.family import FAMILIES
from edgedistil.core.format import plural
from edgedistil.core.precision import Precision, PrecisionRequest
from edgedistil.core.task import ENCODER_TASK, TASKS, Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens
from edgedistil.export.calibrate import (
    METHODS,
    Feeds,
    activation_ranges,
    collect_histograms,
    collect_rows,
)
from edgedistil.export.input_scales import FixedScale, InputScale, select_scales
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import find_word_embedding
from edgedistil.export.precision_search import search
from edgedistil.export.probe_inputs import pad_sequences
from edgedistil.export.quantization_target import (
    Advice,
    advise_fp16,
    advise_int4,
    advise_int8,
    range_reason,
)
from edgedistil.export.quantize import (
    group_by_input,
    narrow_shared,
    quantizable_linears,
    quantize_dynamic,
    quantize_static,
)
from edgedistil.export.quantize_invariant import quantize_invariant
from edgedistil.export.reference import make_probes
from edgedistil.export.source import ExportSource
from edgedistil.export.storage import save_graph
from edgedistil.export.target import QuantizationTarget
from edgedistil.export.trace import input_names, takes_token_types
from edgedistil.export.weight_only import convert_to_float16, quantize_int4
from edgedistil.export.weight_source import read_weight_source
from edgedistil.models.sentence_encoder import SentenceEncoder
from edgedistil.parity.formula import WeightSource
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.probes import Probes, by_question

# 96 sequences: more would make the ranges surer and the export slower.
CALIBRATION_CALLS = 24
CALIBRATION_BATCH = 4
CALIBRATION_LENGTH = 128
# Another seed than the parity check's; and short, because the search runs its probes many times.
SEARCH_SEED = 21
SEARCH_LENGTH = 64

PrecisionGraph = tuple[ir.Model, Advice]


@dataclass(frozen=True)
class BuildContext:
    """Inputs of all artefacts of one model.

    Attributes:
        source: The model's folder and task.
        model: The model, in float32.
        sentence: The same model with the layers that make its sentence vectors; None if the graph
            has none.
        tokenizer: Its tokenizer.
        graph: The float32 graph after the standard passes; makers change copies of it.
        fused: Name of a graph pass → number of places that it changed.
        float_file: The float32 artefact; written before any other precision is made.
        target: The device that the artefacts are for.
        text: Lines that are not used by the parity check, for calibration and search.
        probe_text: What the text is.
        scratch: Folder for graphs that are tried.
        max_drop: Agreement that `auto` may lose, 0..1.
    """

    source: ExportSource
    model: PreTrainedModel
    sentence: SentenceEncoder | None
    tokenizer: TextTokenizer
    graph: ir.Model
    fused: Mapping[str, int]
    float_file: Path
    target: QuantizationTarget
    text: Sequence[str]
    probe_text: ProbeText
    scratch: Path
    max_drop: float

    @property
    def folder(self) -> Path:
        """The unpublished export folder, which holds `onnx/`."""
        return self.float_file.parent.parent

    @cached_property
    def weight_source(self) -> WeightSource:
        """What the certificates compare the artefacts with."""
        return read_weight_source(self.model, self.source.task, self.sentence)

    @cached_property
    def input_scales(self) -> Mapping[str, InputScale]:
        """Name of a linear layer's input → how it is rounded in 8 bits, without other tokens."""
        plan = advise_int8(self.target, signed=True).plan
        linears = quantizable_linears(self.graph, plan)
        names = [value.name or "" for value in group_by_input(linears)]
        samples = collect_rows(self.float_file, names, calibration_feeds(self))
        return select_scales(linears, samples, plan)

    @cached_property
    def search_probes(self) -> Probes:
        """Short probes from `text`, which select; the run's own probes judge."""
        probes = make_probes(
            self.model,
            self.tokenizer,
            self.source.task,
            self.text,
            seed=SEARCH_SEED,
            sentence=self.sentence,
        )
        return probes.up_to(SEARCH_LENGTH)

    def measure(self, file: Path) -> ParityFigures:
        """Compares an 8-bit graph file with PyTorch on the search's probes."""
        # The tolerances of the precision do not matter here, only the figures.
        record = check_artefact(
            file,
            self.search_probes,
            precision="int8",
            model=self.source.name,
            task=self.source.task,
            with_neighbours=False,
        )
        return record.overall


# --- makers --------------------------------------------------------------------------------------


def make_fp32(context: BuildContext) -> PrecisionGraph:
    """Returns the float32 graph."""
    return context.graph, Advice()


def make_fp16(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with float16 weights."""
    graph = context.graph.clone()
    convert_to_float16(graph)
    return graph, advise_fp16(context.target)


def make_int8(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with signed 8-bit weights, and activations that ignore neighbours."""
    return _make_invariant(context, signed=True)


def make_uint8(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with unsigned 8-bit weights, and activations that ignore neighbours."""
    return _make_invariant(context, signed=False)


def _make_invariant(context: BuildContext, *, signed: bool) -> PrecisionGraph:
    advice = _advise_int8(context, signed=signed)
    graph = context.graph.clone()
    quantize_invariant(graph, advice.plan, context.input_scales)
    return graph, replace(advice, reasons={**advice.reasons, **_scale_reasons(context)})


def _advise_int8(context: BuildContext, *, signed: bool) -> Advice:
    """Returns the target's advice, with the narrower weights of this graph."""
    advice = advise_int8(context.target, signed=signed)
    plan = narrow_shared(context.graph, advice.plan)
    return replace(advice, plan=plan, reasons={**advice.reasons, "range": range_reason(plan)})


def _scale_reasons(context: BuildContext) -> dict[str, str]:
    """Says why no neighbour matters, which inputs have fixed scales, and from which text."""
    scales = context.input_scales.values()
    fixed = [scale for scale in scales if isinstance(scale, FixedScale)]
    moved = sum(scale.powers is not None for scale in fixed)
    return {
        "form": _form_reason(context.source.task),
        "activations": "no token depends on another text or on padding: "
        f"{len(fixed)} inputs on fixed scales, {moved} of them after powers of two moved into the "
        f"weights; {len(scales) - len(fixed)} inputs on a scale for each token",
        "calibration": f"scales from {_calibration_sequences(context)} of text, by the "
        "smallest error of the products",
    }


def _form_reason(task: Task) -> str:
    """Says why a task's 8-bit artefact is the one that ignores neighbours."""
    if task == ENCODER_TASK:
        return (
            "a text's vector is the same in any batch, always so for vectors: they are stored and "
            "compared with those of other batches"
        )
    # docs/log.md#int8-without-neighbours
    return (
        "a text's output is the same in any batch; int8-dynamic, whose outputs are not, was "
        "measured at most 6% faster and is made on request"
    )


def make_int8_dynamic(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with signed 8-bit weights and one activation scale for each call."""
    advice = _advise_int8(context, signed=True)
    graph = context.graph.clone()
    quantize_dynamic(graph, advice.plan)
    reasons = {"activations": "one scale for each call, for query, key and value together"}
    warning = (
        "int8-dynamic: an output depends on the other texts of the call and on padding; "
        "do not store its vectors, and prefer int8"
    )
    return graph, replace(advice, reasons={**advice.reasons, **reasons}, warnings=(warning,))


def make_int4(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with 4-bit weights."""
    advice = advise_int4(context.target)
    graph = context.graph.clone()
    quantize_int4(graph, advice.plan)
    return graph, advice


def make_int8_static(context: BuildContext) -> PrecisionGraph:
    """Returns the graph with 8-bit weights and calibrated activations.

    The ranges are determined by three methods; the graph with the smallest error on the calibration
    text is returned.
    """
    advice = _advise_int8(context, signed=True)
    graphs = _calibrated_graphs(context, advice.plan)
    errors: dict[str, float] = {}
    for method, graph in graphs.items():
        file = context.scratch / "tried.onnx"
        save_graph(graph, file, external=True)
        errors[method] = context.measure(file).mean_abs
    best = min(errors, key=lambda method: errors[method])

    # Record the errors of all methods, so that the decision can be checked.
    listing = ", ".join(f"{method} {error:.4g}" for method, error in errors.items())
    reasons = {
        "activations": f"ranges calibrated on {_calibration_sequences(context)} of text",
        "calibration": f"{best}: smallest mean error on that text ({listing})",
    }
    warning = (
        "int8-static does not search for extremes in each call, and loses more agreement than int8 "
        "on other text than the calibration's"
    )
    advice = replace(advice, reasons={**advice.reasons, **reasons}, warnings=(warning,))
    return graphs[best], advice


def _calibrated_graphs(context: BuildContext, plan: Int8Plan) -> dict[str, ir.Model]:
    """Quantizes the graph with the ranges of each calibration method."""
    linears = quantizable_linears(context.graph, plan)
    inputs = [value.name or "" for value in group_by_input(linears)]
    # The activations are observed once; the methods differ only in what they cut off.
    histograms = collect_histograms(context.float_file, inputs, calibration_feeds(context))
    graphs: dict[str, ir.Model] = {}
    for method in METHODS:
        graphs[method] = context.graph.clone()
        quantize_static(graphs[method], plan, activation_ranges(histograms, method))
    return graphs


def make_auto(context: BuildContext) -> PrecisionGraph:
    """Returns the fastest 8-bit graph that loses at most `max_drop`."""
    advice = _advise_int8(context, signed=True)
    source, measure, max_drop = context.graph, context.measure, context.max_drop
    quantize = partial(quantize_invariant, scales=context.input_scales)
    result = search(
        source, advice.plan, measure, quantize=quantize, folder=context.scratch, max_drop=max_drop
    )
    graph = source.clone()
    quantize(graph, result.plan)

    # Record every step of the search, and warn if none of them holds the bound.
    bound = f"{100 * max_drop:g}%"
    in_float = ", ".join(result.plan.keep_float) or "no linear layer"
    reasons = {
        "auto": f"fastest that loses at most {bound} on the search's text; in float32: {in_float}",
        "frontier": " | ".join(step.describe() for step in result.frontier),
    }
    advice = replace(advice, reasons={**advice.reasons, **_scale_reasons(context), **reasons})
    if not result.within_bound:
        warning = f"no 8-bit artefact loses at most {bound}; only the embeddings are in 8 bits"
        advice = replace(advice, warnings=(f"auto: {warning}",))
    return graph, advice


# tests/core/test_precision.py adds a precision with one line here.
MAKERS: dict[PrecisionRequest, Callable[[BuildContext], PrecisionGraph]] = {
    "fp32": make_fp32,
    "fp16": make_fp16,
    "int8": make_int8,
    "uint8": make_uint8,
    "int8-dynamic": make_int8_dynamic,
    "int8-static": make_int8_static,
    "int4": make_int4,
    "auto": make_auto,
}


def make_graph(context: BuildContext, precision: PrecisionRequest) -> PrecisionGraph:
    """Returns the graph in a precision, and how it was made; the float32 graph is not changed.

    Raises:
        CorpusError: The precision needs calibration text, which is empty.
        ModelError: The precision cannot hold a weight.
    """
    return MAKERS[precision](context)


# --- explanation and calibration -----------------------------------------------------------------

# Precisions that `requantize_excluding` can make, to explain their error.
REQUANTIZABLE: tuple[Precision, ...] = ("int8", "uint8")


def requantize_excluding(context: BuildContext, nodes: Collection[str]) -> Path:
    """Writes the int8 graph with some nodes of the float32 graph left in float32.

    Args:
        context: The model.
        nodes: Names of MatMuls, and of the word-embedding lookup.
    Returns:
        The graph file, in the scratch folder; the next call replaces it.
    """
    plan = advise_int8(context.target, signed=True).plan
    plan = replace(plan, keep_float=tuple(nodes))
    # The lookup is not a linear layer, so the plan has a field of its own for it.
    lookup = find_word_embedding(context.graph)
    if lookup is not None and lookup.name in nodes:
        plan = replace(plan, embeddings=False)
    graph = context.graph.clone()
    quantize_invariant(graph, plan, context.input_scales)
    file = context.scratch / "requantized.onnx"
    save_graph(graph, file, external=True)
    return file


def calibration_feeds(context: BuildContext) -> list[Feeds]:
    """Tokenizes lines from all over the text into padded batches.

    Raises:
        CorpusError: The text is empty.
    """
    sample = _calibration_lines(context.text)
    config = context.model.config
    positions = FAMILIES[config.model_type].positions_limit(config.to_dict())
    max_length = min(CALIBRATION_LENGTH, positions)
    token_types = takes_token_types(context.model, context.tokenizer)
    names = input_names(token_types=token_types)
    feeds: list[Feeds] = []
    for start in range(0, len(sample), CALIBRATION_BATCH):
        lines = sample[start : start + CALIBRATION_BATCH]
        sequences = context.tokenizer.encode_framed(lines, max_length)
        longest = max(len(ids) for ids, _ in sequences)
        batch = pad_sequences(sequences, longest, context.tokenizer)
        arrays = {name: batch[name] for name in names}
        # Every sequence is a question with one choice: ranges do not depend on the others.
        choices = 1 if TASKS[context.source.task].has_choices else None
        feeds.append(by_question(arrays, choices))
    _warn_of_unknown_tokens(context, feeds)
    return feeds


def _warn_of_unknown_tokens(context: BuildContext, feeds: Sequence[Feeds]) -> None:
    unknown = sum(
        int((feed["input_ids"] == context.tokenizer.token_id("unk")).sum()) for feed in feeds
    )
    total = sum(int(feed["attention_mask"].sum()) for feed in feeds)
    warn_of_unknown_tokens(unknown, total, text="the calibration text")


def _calibration_sequences(context: BuildContext) -> str:
    return plural(len(_calibration_lines(context.text)), "sequence")


def _calibration_lines(text: Sequence[str]) -> list[str]:
    lines = [line for line in text if line.strip()]
    if not lines:
        raise CorpusError("the calibration text is empty", hint="give real text with --text FILE")
    # Lines at equal distances, so that the sample covers the complete text.
    count = min(len(lines), CALIBRATION_CALLS * CALIBRATION_BATCH)
    return [lines[int(index)] for index in np.linspace(0, len(lines) - 1, count)]
