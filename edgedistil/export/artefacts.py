"""One model's artefacts: the float32 graph, the precisions made from it, and the proof of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgedistil.core import console
from edgedistil.core.errors import ModelError, ParityError, ShapeError
from edgedistil.core.precision import PrecisionRequest, graph_name
from edgedistil.core.records import (
    ExplainRecord,
    ExportRecord,
    FileFacts,
    ParityRecord,
    provenance,
    write_record,
)
from edgedistil.core.rundir import RunDir, replacing, sha256_file, write_text
from edgedistil.export.census import bytes_by_part, kept_float
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.precisions import REQUANTIZABLE, Variant, Workshop, make_variant, remake
from edgedistil.export.quantization_target import Target
from edgedistil.export.source import Source
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import TRACE_OPSET, trace
from edgedistil.models.facts import model_facts
from edgedistil.parity.gate import check_artefact, format_failure
from edgedistil.parity.localize import explain
from edgedistil.parity.onnx_file import check_onnx_file
from edgedistil.parity.probes import Probes


@dataclass(frozen=True)
class Job:
    """What is made of one model."""

    precisions: tuple[PrecisionRequest, ...]
    target: Target
    max_drop: float = 0.01
    single_file: bool = False
    explain: bool = False
    ort_format: bool = False
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """An artefact in the scratch folder and its proof.

    Attributes:
        parity: Absent where no figures could be had: NaN, another shape, an artefact that does not run.
        unproven: Why there is none.
    """

    record: ExportRecord
    parity: ParityRecord | None
    explained: ExplainRecord | None = None
    unproven: str = ""

    @property
    def passed(self) -> bool:
        return self.parity is not None and self.parity.passed

    @property
    def failure(self) -> str:
        """Which tolerances do not hold, or why nothing could be compared."""
        results = self.parity.results if self.parity is not None else []
        failed = (
            "; ".join(format_failure(result) for result in results if not result.holds)
            or self.unproven
        )
        return f"{self.record.model} {self.record.task} {self.record.precision} failed its parity gate: {failed}"


def build(
    source: Source,
    probes: Probes,
    folder: Path,
    job: Job,
    *,
    calibration: Sequence[str],
    started: float,
) -> list[Made]:
    """Writes the artefacts into `folder`/onnx and checks each; whether they passed stands in their parity."""
    graph = trace(source.model, task=source.task, token_types=source.takes_token_types)
    shape = Shape.of(graph, source.model.config)
    fused = run_passes(
        graph, standard_passes(shape, token_types=source.takes_token_types, drop_token_types=False)
    )
    facts = model_facts(source.model, name=source.name)
    float_file = folder / "onnx" / graph_name("fp32")
    made = []
    with TemporaryDirectory(prefix=".tried.", dir=folder) as scratch:
        shop = Workshop(
            graph,
            float_file,
            source,
            job.target,
            calibration,
            Path(scratch),
            job.max_drop,
            job.keep,
        )
        for precision in job.precisions:
            variant = make_variant(shop, precision)
            _tell(precision, variant)
            file = folder / "onnx" / graph_name(variant.precision)
            files = save_graph(variant.graph, file, external=not job.single_file)
            check_onnx_file(file)
            record = ExportRecord(
                model=source.name,
                role=source.role,
                task=source.task,
                precision=variant.precision,
                files=[_facts(each, folder) for each in files],
                source_sha256=probes.source_sha256,
                parameters=facts.parameters,
                opset=TRACE_OPSET,
                ir_version=variant.graph.ir_version,
                target_device=job.target.name,
                reasons=_common_reasons(job) | variant.reasons,
                fused=fused,
                kept_float=kept_float(variant.graph),
                bytes_by_part=bytes_by_part(variant.graph),
                seconds=0,
                provenance=provenance(),
            )
            made.append(_proven(shop, file, record, probes, job, started=started))
            started = time.perf_counter()
    return made


def _proven(
    shop: Workshop, file: Path, record: ExportRecord, probes: Probes, job: Job, *, started: float
) -> Made:
    """The artefact with its proof. One that cannot even be compared is refused as one that is too far off."""
    parity, unproven = None, ""
    try:
        parity = check_artefact(
            file, probes, precision=record.precision, model=record.model, task=record.task
        )
    except (ParityError, ModelError, ShapeError) as error:
        unproven = str(error.message)
    timed = record.model_copy(update={"seconds": time.perf_counter() - started})
    return Made(timed, parity, _explained(shop, file, probes, job), unproven)


def _explained(shop: Workshop, file: Path, probes: Probes, job: Job) -> ExplainRecord | None:
    """Where the error of an artefact comes from, if that was asked for."""
    if not job.explain:
        return None
    is_float = file == shop.float_file
    integer = file.name in {graph_name(precision) for precision in REQUANTIZABLE}
    record = explain(
        file,
        probes,
        None if is_float else shop.float_file,
        requantize=(lambda nodes: remake(shop, nodes)) if integer else None,
    )
    for part in record.parts:
        console.say(f"  {file.name} · {part.part}: own error {part.own:.3g}")
    return record


def _tell(precision: str, variant: Variant) -> None:
    for warning in variant.warnings:
        console.warn(warning)
    for choice, why in variant.reasons.items():
        console.say(f"  {precision} · {choice}: {why}")


def set_apart(run: RunDir, made: Made, folder: Path, probes: Probes) -> Path:
    """Moves a refused artefact, its record and its proof into the run's `rejected`."""
    record = made.record
    place = run.rejected / f"{record.model}-{record.task}.{record.precision}"
    with replacing(place) as aside:
        aside.mkdir()
        for file in record.files:
            (folder / file.path).rename(aside / Path(file.path).name)
        write_record(aside / "export.json", record)
        if made.parity is not None:
            write_record(aside / "parity.json", made.parity)
        write_text(aside / "refused.txt", f"{made.failure}\n")
        if made.explained is not None:
            write_record(aside / "explain.json", made.explained)
        probes.save(aside / "probes.npz")
    return place


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
    return FileFacts(
        path=str(file.relative_to(folder)), bytes=file.stat().st_size, sha256=sha256_file(file)
    )
