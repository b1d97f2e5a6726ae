"""Exports fine-tuned models and scores their artefacts on the same dev set as PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.evaluation_records import ArtefactScore
from edgedistil.core.export_records import ExportRecord
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import AUTO, PRECISIONS
from edgedistil.core.records import provenance, read_record, text_sha256, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.toml import did_you_mean
from edgedistil.evaluate.artefact import ArtefactResult, in_fresh_process, score_artefacts
from edgedistil.evaluate.cells import CellFile, CellPlan, Timing, read_cell, read_finished
from edgedistil.evaluate.example_latency import CONDITIONS, ExampleLatency, example_latencies
from edgedistil.evaluate.tasks import load_data

# Training texts that the parity check and the calibration of static ranges use: enough for both,
# and few enough to run in seconds.
_PROBE_TEXTS = 256
# Every artefact is compared with float32 as well, to separate export from quantization.
_REFERENCE = "fp32"


@dataclass(frozen=True)
class _Artefact:
    """An exported artefact of a fine-tuned model.

    Attributes:
        precision: Its precision.
        graph: The ONNX file.
        bytes: Size of the graph with its weights.
        folder: Folder of the export, with the tokenizer.
    """

    precision: str
    graph: Path
    bytes: int
    folder: Path


def check_precision(name: str) -> None:
    """Raises InputError if artefacts of a precision cannot be scored."""
    # `auto` searches for a precision, and what it finds may differ between seeds.
    if name == AUTO.name:
        raise InputError(f"--artefact {name}: expected one precision, for example int8")
    if name not in PRECISIONS:
        raise InputError(
            f"--artefact: unknown precision '{name}'{did_you_mean(name, PRECISIONS)}",
            hint=f"expected one of: {', '.join(PRECISIONS)}",
        )


def artefact_cells(plans: Sequence[CellPlan], precision: str) -> list[CellFile]:
    """Returns the cells of fine-tuned models in PyTorch, in float32 and in another precision.

    Args:
        plans: Cells whose fine-tuned weights are stored.
        precision: Precision of the artefacts.
    Raises:
        ParityError: The outputs of an artefact differ from PyTorch's.
    """
    files: list[CellFile] = []
    for plan in plans:
        # With `--artefact fp32` the two are the same.
        precisions = list(dict.fromkeys([_REFERENCE, precision]))
        _score_missing(plan, precisions)
        files.append(_with_timing(plan))
        files += [read_cell(_file(plan, name)) for name in precisions]
    return files


# --- artefacts -----------------------------------------------------------------------------------


def _file(plan: CellPlan, precision: str) -> Path:
    return plan.sibling(f".{precision}.json")


def _key(plan: CellPlan, precision: str) -> str:
    return text_sha256(f"{plan.key} {precision}")


def _score_missing(plan: CellPlan, precisions: Sequence[str]) -> None:
    """Exports and scores the artefacts of a cell, unless their files are up to date."""
    finished = [read_finished(_file(plan, name), _key(plan, name)) for name in precisions]
    if all(file is not None for file in finished):
        return
    by_precision = {artefact.precision: artefact for artefact in _export(plan, precisions[-1])}
    artefacts = [by_precision[name] for name in precisions]

    console.say(f"{plan.label}: scoring {', '.join(precisions)} without torch")
    graphs = [artefact.graph for artefact in artefacts]
    results = in_fresh_process(score_artefacts, plan.spec, plan.data, artefacts[0].folder, graphs)
    for artefact, result in zip(artefacts, results, strict=True):
        write_record(_file(plan, artefact.precision), _cell_file(plan, artefact, result))


def _export(plan: CellPlan, precision: str) -> list[_Artefact]:
    from edgedistil.export.publish import export_model
    from edgedistil.export.request import checked_precisions
    from edgedistil.export.source import read_source

    # Training texts: calibration on dev texts would adapt the artefact to what it is scored on.
    examples = load_data(plan.spec, plan.data).train[:_PROBE_TEXTS]
    texts = [" ".join(example.texts) for example in examples]
    # A run directory of its own: the run's exports are those of the distilled model.
    export_run = RunDir(plan.sibling(".onnx"))
    name, task = plan.source.name, plan.spec.task_kind.task
    source = read_source(plan.weights, name=name, role="other", task=task)
    options = ExportOptions(precisions=checked_precisions([precision]))
    export_model(export_run, source, options, text=texts)
    folder = export_run.export(name, task)
    return [_read_artefact(folder, path) for path in sorted(folder.glob("export.*.json"))]


def _read_artefact(folder: Path, path: Path) -> _Artefact:
    record = read_record(path, ExportRecord)
    # The graph and, unless it is a single file, its weights.
    size = sum(file.bytes for file in record.files)
    return _Artefact(record.precision, folder / record.files[0].path, size, folder)


def _cell_file(plan: CellPlan, artefact: _Artefact, result: ArtefactResult) -> CellFile:
    """Returns the cell of an artefact: that of PyTorch with other scores."""
    # Task, seed and hyper-parameters are those of the fine-tuned model.
    base = read_cell(plan.file)
    cell = base.cell.model_copy(
        update={
            "scores": result.scores.scores,
            "artefact": artefact.precision,
            "warnings": [*base.cell.warnings, *result.scores.warnings],
            "provenance": provenance(),
        }
    )
    return base.model_copy(
        update={
            "key": _key(plan, artefact.precision),
            "cell": cell,
            "predictions": result.scores.predictions,
            "per_question": result.scores.per_question,
            "timing": _timing(artefact.bytes, result.latency),
        }
    )


def _timing(size: int, latency: ExampleLatency) -> Timing:
    return Timing(bytes=size, latency_ms=latency.p50_ms, disturbed=latency.disturbed)


# --- PyTorch -------------------------------------------------------------------------------------


def _with_timing(plan: CellPlan) -> CellFile:
    """Returns the cell with PyTorch's size and latency, measured once in a new process."""
    file = read_cell(plan.file)
    # A fresh process, as for the artefacts; later evaluations read the stored figure.
    if file.timing is None:
        latency = in_fresh_process(pytorch_latency, plan)
        size = sum(path.stat().st_size for path in plan.weights.glob("*.safetensors"))
        file = file.model_copy(update={"timing": _timing(size, latency)})
        write_record(plan.file, file)
    return file


def pytorch_latency(plan: CellPlan) -> ExampleLatency:
    """Measures the p50 of single dev examples in PyTorch, in float32 with one thread."""
    from edgedistil.evaluate.encode import open_tokenizer
    from edgedistil.evaluate.task_model import load_task_model, torch_forward, torch_threads

    spec = plan.spec
    dev = load_data(spec, plan.data).dev
    with torch_threads(1):
        model = load_task_model(plan.weights, spec.task_kind).cpu()
        forward = torch_forward(model, spec.task_kind)
        return example_latencies([forward], open_tokenizer(plan.weights), dev, spec)[0]


# --- comparison ----------------------------------------------------------------------------------


def artefact_scores(files: Sequence[CellFile]) -> list[ArtefactScore]:
    """Returns score, size and latency of each artefact and of PyTorch.

    Scores and latencies are medians over the seeds; the drop is the median of the seeds' drops.
    """
    groups: dict[tuple[str, str, str], list[CellFile]] = {}
    for file in files:
        key = (file.cell.task, file.cell.model, file.cell.artefact)
        groups.setdefault(key, []).append(file)
    return [
        _artefact_score(group, groups[(task, model, "pytorch")])
        for (task, model, _), group in groups.items()
    ]


def _artefact_score(files: Sequence[CellFile], pytorch: Sequence[CellFile]) -> ArtefactScore:
    # Seed by seed, because both scores are then of the same weights.
    reference = {file.cell.seed: file.score for file in pytorch}
    timings = [file.timing for file in files if file.timing is not None]
    cell = files[0].cell
    return ArtefactScore(
        task=cell.task,
        model=cell.model,
        artefact=cell.artefact,
        metric=cell.metric,
        seeds=sorted(file.cell.seed for file in files),
        median=median(file.score for file in files),
        drop=median(reference[file.cell.seed] - file.score for file in files),
        bytes=timings[0].bytes,
        latency_ms=median(timing.latency_ms for timing in timings),
        latency_conditions=CONDITIONS,
        # A median over the seeds is disturbed if one of its figures is.
        disturbed=next((t.disturbed for t in timings if t.disturbed is not None), None),
    )
