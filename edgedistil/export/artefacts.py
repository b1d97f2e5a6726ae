"""Builds the artefacts of one model: the float32 graph, the other precisions, and their parity."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedistil.core import console
from edgedistil.core.errors import ModelError, ParityError, ShapeError
from edgedistil.core.export_records import (
    ExplainRecord,
    ExportRecord,
    FileFacts,
    ParityRecord,
    ProbeText,
)
from edgedistil.core.format import artefact_name
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import Precision, PrecisionRequest, graph_name, result_of
from edgedistil.core.records import provenance, write_record
from edgedistil.core.rundir import RunDir, replacing, sha256_file, write_text
from edgedistil.export.linears import bytes_by_part, float_weights
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.passes.sentence_vector import append_sentence_vector
from edgedistil.export.precisions import (
    REQUANTIZABLE,
    BuildContext,
    make_graph,
    requantize_excluding,
)
from edgedistil.export.quantization_target import Advice
from edgedistil.export.quantized_reference import reference_outputs
from edgedistil.export.reference import Reference
from edgedistil.export.source import ExportSource
from edgedistil.export.storage import save_graph
from edgedistil.export.target import TRACE_OPSET, find_target
from edgedistil.export.trace import takes_token_types, trace_model
from edgedistil.export.weight_source import head_weights
from edgedistil.models.facts import model_facts
from edgedistil.parity.gate import check_artefact, list_failures
from edgedistil.parity.localize import explain
from edgedistil.parity.onnx_file import check_onnx_file
from edgedistil.parity.probes import Probes, ReferenceOutputs


@dataclass(frozen=True)
class BuiltArtefact:
    """An artefact in an unpublished folder, with the result of its parity check.

    Attributes:
        record: Facts about the artefact.
        parity: None if its outputs could not be compared: NaN, wrong shapes, or a failed run.
        explanation: Error of each part of the model, if it was requested.
        uncompared: Why its outputs could not be compared; empty if they were.
        reference: Outputs of PyTorch with the artefact's roundings; None if it rounds nothing.
    """

    record: ExportRecord
    parity: ParityRecord | None
    explanation: ExplainRecord | None = None
    uncompared: str = ""
    reference: ReferenceOutputs | None = None

    @property
    def passed(self) -> bool:
        """Whether the parity check passed."""
        return self.parity is not None and self.parity.passed

    @property
    def failure(self) -> str:
        """One sentence with the checks that do not hold, or why nothing was compared."""
        problems = [self.uncompared]
        # With parity, the checks that do not hold are the reason.
        if self.parity is not None:
            problems = list_failures(self.parity)
        return f"{artefact_name(self.record)} failed the parity check: {'; '.join(problems)}"


@contextmanager
def open_build(
    source: ExportSource,
    folder: Path,
    options: ExportOptions,
    *,
    text: Sequence[str],
    probe_text: ProbeText = "held-out",
) -> Iterator[BuildContext]:
    """Loads and traces a model, and yields what its artefacts are built from.

    Args:
        source: The model.
        folder: Unpublished export folder; a scratch folder in it exists until the end.
        options: Target and bound of `auto`.
        text: Lines for calibration and search.
        probe_text: What the text is, for the record.
    Raises:
        ModelError: The model cannot be loaded.
        EdgeDistilError: A graph pass found an unexpected graph.
    """
    # Trace and rewrite once: all precisions are made from this graph.
    model = source.load_model()
    console.say(f"{source.name} {source.task}: {type(model).__name__}")
    tokenizer = source.load_tokenizer()
    token_types = takes_token_types(model, tokenizer)
    graph = trace_model(model, task=source.task, token_types=token_types)
    fused = run_standard_passes(graph, model.config)
    sentence = source.load_sentence_encoder(model)
    if sentence is not None:
        append_sentence_vector(graph, sentence.vector, head_weights(sentence))
    # On the same disk as the folder, and removed before the folder is published.
    with TemporaryDirectory(prefix=".tried.", dir=folder) as scratch:
        yield BuildContext(
            source=source,
            model=model,
            sentence=sentence,
            tokenizer=tokenizer,
            graph=graph,
            fused=fused,
            float_file=folder / "onnx" / graph_name("fp32"),
            target=find_target(options.target),
            text=text,
            probe_text=probe_text,
            scratch=Path(scratch),
            max_drop=options.max_drop,
        )


def build_artefact(
    context: BuildContext,
    request: PrecisionRequest,
    options: ExportOptions,
    probes: Probes,
    *,
    started: float,
) -> BuiltArtefact:
    """Writes one artefact and runs its parity check.

    Args:
        context: The model; its float32 artefact has to be written first.
        request: The precision.
        options: How the graph is stored, and whether its error is explained.
        probes: Inputs and outputs of the parity check.
        started: `time.perf_counter()` when the work began, for the record.
    Returns:
        The artefact, whether or not it passed.
    Raises:
        CorpusError: The precision needs calibration text, which is empty.
        ModelError: The precision cannot hold a weight.
        StorageError: The graph cannot be written.
    """
    graph, advice = make_graph(context, request)
    _print_advice(request, advice)
    precision = result_of(request)
    file = context.float_file.with_name(graph_name(precision))
    files = save_graph(graph, file, external=not options.single_file)
    check_onnx_file(file)

    float32 = Reference(context.model, context.source.task, context.sentence)
    reference = reference_outputs(float32, graph, probes)
    if reference is not None:
        probes = probes.with_reference(precision, reference)
    # The record is written after the parity check, whose time is part of the artefact's.
    parity, uncompared = _check_parity(context, file, probes, precision)
    record = ExportRecord(
        model=context.source.name,
        role=context.source.role,
        task=context.source.task,
        precision=precision,
        files=[_file_facts(path, context.folder) for path in files],
        source_sha256=probes.source_sha256,
        parameters=model_facts(context.model, name=context.source.name).parameters,
        opset=TRACE_OPSET,
        ir_version=graph.ir_version,
        target_device=context.target.name,
        reasons={**_common_reasons(options), **advice.reasons},
        fused=dict(context.fused),
        probe_text=context.probe_text,
        kept_float=float_weights(graph),
        bytes_by_part=bytes_by_part(graph),
        seconds=time.perf_counter() - started,
        provenance=provenance(),
    )
    explanation = _explain(context, file, probes) if options.explain else None
    return BuiltArtefact(record, parity, explanation, uncompared, reference)


def _check_parity(
    context: BuildContext, file: Path, probes: Probes, precision: Precision
) -> tuple[ParityRecord | None, str]:
    """Returns the parity of an artefact, or None and why its outputs cannot be compared."""
    name, task = context.source.name, context.source.task
    try:
        record = check_artefact(
            file,
            probes,
            precision=precision,
            model=name,
            task=task,
            source=context.weight_source,
        )
        return record, ""
    except (ParityError, ModelError, ShapeError) as error:
        # It is rejected like one that is too far off
        # (docs/decisions.md#an-artefact-that-cannot-be-compared-is-rejected).
        return None, str(error.message)


def _explain(context: BuildContext, file: Path, probes: Probes) -> ExplainRecord:
    """Finds the part of the model that adds the error, and prints the error of each part."""
    # The float32 artefact has no better one to be compared with.
    reference_file = context.float_file if file != context.float_file else None
    # Parts of an 8-bit artefact are also tried in float32, to see what that gains.
    requantize = None
    if file.name in {graph_name(precision) for precision in REQUANTIZABLE}:
        requantize = partial(requantize_excluding, context)
    record = explain(file, probes, reference_file, requantize=requantize)
    for part in record.parts:
        console.say(f"  {file.name} · {part.part}: own error {part.own:.3g}")
    return record


def _print_advice(request: PrecisionRequest, advice: Advice) -> None:
    for warning in advice.warnings:
        console.warn(warning)
    for decision, reason in advice.reasons.items():
        console.say(f"  {request} · {decision}: {reason}")


def _common_reasons(options: ExportOptions) -> dict[str, str]:
    """Reasons that are the same for every precision."""
    storage = (
        "weights in a file next to the graph: mapped into memory, so a session starts faster and "
        "its peak is lower"
    )
    if options.single_file:
        storage = "one file, as requested"
    return {
        "tracer": "TorchScript: one named node per module call, a quarter of dynamo's time, and "
        "attention as one node",
        "opset": f"{TRACE_OPSET}: the first with LayerNormalization; every runtime since "
        "onnxruntime 1.14 has it",
        "storage": storage,
    }


def _file_facts(file: Path, folder: Path) -> FileFacts:
    return FileFacts(
        path=str(file.relative_to(folder)), bytes=file.stat().st_size, sha256=sha256_file(file)
    )


def quarantine(run: RunDir, artefact: BuiltArtefact, folder: Path, probes: Probes) -> Path:
    """Moves an artefact that failed into the run's `rejected` folder, with its records and probes.

    Returns:
        Its folder there.
    """
    record = artefact.record
    rejected = run.rejected / f"{record.model}-{record.task}.{record.precision}"
    with replacing(rejected) as unfinished:
        unfinished.mkdir()
        # The files are moved: an artefact that failed must not stay in the folder.
        for file in record.files:
            (folder / file.path).rename(unfinished / Path(file.path).name)
        write_record(unfinished / "export.json", record)
        if artefact.parity is not None:
            write_record(unfinished / "parity.json", artefact.parity)
        write_text(unfinished / "refused.txt", f"{artefact.failure}\n")
        if artefact.explanation is not None:
            write_record(unfinished / "explain.json", artefact.explanation)
        probes.save(unfinished / "probes.npz")
    return rejected
