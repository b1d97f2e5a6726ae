"""One model's artefacts: the float32 graph, the precisions made from it, and the proof of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import onnx_ir as ir

from edgedistil import console
from edgedistil.export.census import bytes_by_part, kept_float
from edgedistil.export.package import graph_name
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.source import Source
from edgedistil.export.storage import check_stored, save_graph
from edgedistil.export.target import Target, advise_int8, weight_only_reasons
from edgedistil.export.trace import TRACE_OPSET, trace
from edgedistil.models.facts import model_facts
from edgedistil.parity.gate import check_artefact, tell_failure
from edgedistil.parity.probes import Probes
from edgedistil.records import ExportRecord, FileFacts, ParityRecord, Precision, provenance, write_record
from edgedistil.rundir import RunDir, replacing, sha256_file


@dataclass(frozen=True)
class Job:
    """What is made of one model."""

    precisions: tuple[str, ...]
    target: Target
    max_drop: float = 0.01
    single_file: bool = False
    explain: bool = False
    ort_format: bool = False


@dataclass(frozen=True)
class Made:
    """An artefact in the scratch folder and its proof."""

    record: ExportRecord
    parity: ParityRecord

    @property
    def failure(self) -> str:
        """Which tolerances do not hold."""
        failed = "; ".join(tell_failure(result) for result in self.parity.results if not result.holds)
        return f"{self.record.model} {self.record.task} {self.record.precision} failed its parity gate: {failed}"


def build(
    source: Source, probes: Probes, folder: Path, job: Job, *, calibration: Sequence[str], started: float
) -> list[Made]:
    """Writes the artefacts into `folder`/onnx and checks each; whether they passed stands in their parity."""
    graph = trace(source.model, task=source.task, token_types=source.takes_token_types)
    shape = Shape.of(graph, source.model.config)
    fused = run_passes(graph, standard_passes(shape, token_types=source.takes_token_types, drop_token_types=False))
    facts = model_facts(source.model, name=source.name)
    made = []
    for precision in job.precisions:
        if precision != "fp32":
            started = time.perf_counter()
        variant, reasons = _variant(graph, precision, job.target, calibration, source)
        for warning in reasons.pop("warnings", "").splitlines():
            console.warn(warning)
        for choice, why in reasons.items():
            console.say(f"  {precision} · {choice}: {why}")
        file = folder / "onnx" / graph_name(precision)
        files = save_graph(variant, file, external=not job.single_file)
        check_stored(file)
        record = ExportRecord(
            model=source.name,
            role=source.role,
            task=source.task,
            precision=cast(Precision, precision),
            files=[_facts(each, folder) for each in files],
            source_sha256=probes.source_sha256,
            parameters=facts.parameters,
            opset=TRACE_OPSET,
            ir_version=variant.ir_version,
            target_device=job.target.name,
            reasons=_common_reasons(job) | reasons,
            fused=fused,
            kept_float=kept_float(variant),
            bytes_by_part=bytes_by_part(variant),
            seconds=0,
            provenance=provenance(),
        )
        parity = check_artefact(file, probes, precision=cast(Precision, precision), model=source.name, task=source.task)
        seconds = time.perf_counter() - started
        made.append(Made(record.model_copy(update={"seconds": seconds}), parity))
        del variant
    return made


def set_apart(run: RunDir, made: Made, folder: Path, probes: Probes) -> Path:
    """Moves a refused artefact, its record and its proof into the run's `rejected`."""
    record = made.record
    place = run.rejected / f"{record.model}-{record.task}.{record.precision}"
    with replacing(place) as aside:
        aside.mkdir()
        for file in record.files:
            (folder / file.path).rename(aside / Path(file.path).name)
        write_record(aside / "export.json", record)
        write_record(aside / "parity.json", made.parity)
        probes.save(aside / "probes.npz")
    return place


def _variant(
    graph: ir.Model, precision: str, target: Target, calibration: Sequence[str], source: Source
) -> tuple[ir.Model, dict[str, str]]:
    """A graph in a precision, and the reasons for how it was made; the given one stays as it is."""
    del calibration, source
    if precision == "fp32":
        return graph, {}
    copy = graph.clone()
    if precision in {"int8", "uint8"}:
        advice = advise_int8(target, signed=precision == "int8")
        quantize_dynamic(copy, replace(advice.plan))
        return copy, advice.reasons | {"warnings": "\n".join(advice.warnings)}
    reasons, warnings = weight_only_reasons(target, precision)
    raise NotImplementedError(f"{precision} {reasons} {warnings}")


def _common_reasons(job: Job) -> dict[str, str]:
    return {
        "tracer": "TorchScript: one named node per module call, a quarter of dynamo's time, and attention as one node",
        "opset": f"{TRACE_OPSET}: the first with LayerNormalization; every runtime since onnxruntime 1.14 has it",
        "storage": (
            "one file, as asked"
            if job.single_file
            else "weights beside the graph: mapped into memory, so a session starts faster and peaks lower"
        ),
    }


def _facts(file: Path, folder: Path) -> FileFacts:
    return FileFacts(path=str(file.relative_to(folder)), bytes=file.stat().st_size, sha256=sha256_file(file))
