"""Fine-tuned student → ONNX → the same dev set: PyTorch, fp32 and the asked precision side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.records import (
    ArtefactScore,
    ExportRecord,
    provenance,
    read_record,
    text_sha256,
    write_record,
)
from edgedistil.core.rundir import RunDir
from edgedistil.core.task import task_of_kind
from edgedistil.evaluate.artefact import (
    CONDITIONS,
    Timed,
    in_fresh_process,
    score_artefacts,
    single_example_ms,
)
from edgedistil.evaluate.cells import CellFile, CellPlan, Timing, key_of, read_cell
from edgedistil.evaluate.tasks import load_data

_PROBE_TEXTS = 256


@dataclass(frozen=True)
class _Artefact:
    precision: str
    graph: Path
    bytes: int
    folder: Path


def artefact_cells(plans: Sequence[CellPlan], precision: str) -> list[CellFile]:
    """The cells of the artefacts of fine-tuned models: fp32 and `precision` of each, and PyTorch's own timing.

    Raises:
        ParityError: An artefact is not what it was made from.
    """
    return [file for plan in plans for file in _of_one(plan, precision)]


def check_precision(name: str) -> None:
    """Returns if an artefact of that precision can be asked for: told before hours of fine-tuning, not after.

    Raises:
        InputError: It cannot.
    """
    from edgedistil.export.stage import checked_precisions

    if name == "auto":
        raise InputError("--artefact auto: expected one precision, for example int8")
    checked_precisions([name])


def _of_one(plan: CellPlan, precision: str) -> list[CellFile]:
    precisions = list(dict.fromkeys(["fp32", precision]))
    files = {
        each: plan.file.with_name(f"{plan.source.name}-{plan.seed}.{each}.json")
        for each in precisions
    }
    keys = {each: text_sha256(f"{plan.key} {each}") for each in precisions}
    if any(key_of(files[each]) != keys[each] for each in precisions):
        made = {each.precision: each for each in _export(plan, precision)}
        console.say(f"{plan.label}: scoring {', '.join(precisions)} without torch")
        chosen = [made[each] for each in precisions]
        graphs = [each.graph for each in chosen]
        timed = in_fresh_process(score_artefacts, plan.spec, plan.data, chosen[0].folder, graphs)
        for artefact, result in zip(chosen, timed, strict=True):
            write_record(
                files[artefact.precision],
                _cell_file(plan, artefact, result, keys[artefact.precision]),
            )
    return [_timed_pytorch(plan), *(read_cell(file) for file in files.values())]


def _export(plan: CellPlan, precision: str) -> list[_Artefact]:
    from edgedistil.export.stage import export_folder

    texts = [
        " ".join(example.texts) for example in load_data(plan.spec, plan.data).train[:_PROBE_TEXTS]
    ]
    room = RunDir(plan.file.with_name(f"{plan.source.name}-{plan.seed}.onnx"))
    name, task = plan.source.name, task_of_kind(plan.spec.kind)
    export_folder(
        room,
        plan.weights,
        name=name,
        role="other",
        task=task,
        precisions=[precision],
        text=texts,
    )
    folder = room.export(name, task)
    return [_read(folder, path) for path in sorted(folder.glob("export.*.json"))]


def _read(folder: Path, path: Path) -> _Artefact:
    record = read_record(path, ExportRecord)
    size = sum(file.bytes for file in record.files)
    return _Artefact(record.precision, folder / record.files[0].path, size, folder)


def _cell_file(plan: CellPlan, artefact: _Artefact, timed: Timed, key: str) -> CellFile:
    base = read_cell(plan.file)
    cell = base.cell.model_copy(
        update={
            "scores": timed.scored.scores,
            "artefact": artefact.precision,
            "warnings": [*base.cell.warnings, *timed.scored.warnings],
            "provenance": provenance(),
        }
    )
    return base.model_copy(
        update={
            "key": key,
            "cell": cell,
            "predictions": timed.scored.predictions,
            "per_question": timed.scored.per_question,
            "timing": Timing(bytes=artefact.bytes, latency_ms=timed.latency_ms),
        }
    )


def _timed_pytorch(plan: CellPlan) -> CellFile:
    """The cell itself with PyTorch's size and latency, taken once in a process of its own."""
    file = read_cell(plan.file)
    if file.timing is None:
        latency_ms = in_fresh_process(pytorch_example_ms, plan)
        size = sum(path.stat().st_size for path in plan.weights.glob("*.safetensors"))
        file = file.model_copy(update={"timing": Timing(bytes=size, latency_ms=latency_ms)})
        write_record(plan.file, file)
    return file


def pytorch_example_ms(plan: CellPlan) -> float:
    """p50 of a single dev example through the fine-tuned model in PyTorch, float32, one thread."""
    from edgedistil.evaluate.encode import open_tokenizer
    from edgedistil.evaluate.finetune import fine_tuned_model, torch_forward, torch_threads

    data = load_data(plan.spec, plan.data)
    with torch_threads(1):
        forward = torch_forward(fine_tuned_model(plan.weights, kind=plan.spec.kind).cpu())
        return single_example_ms([forward], open_tokenizer(plan.weights), data.dev, plan.spec)[0]


def artefact_scores(files: Sequence[CellFile]) -> list[ArtefactScore]:
    """Score, size and latency of each artefact beside PyTorch: medians over the seeds, the drop seed by seed."""
    groups: dict[tuple[str, str, str], dict[int, CellFile]] = {}
    for file in files:
        groups.setdefault((file.cell.task, file.cell.model, file.cell.artefact), {})[
            file.cell.seed
        ] = file
    found = []
    for (task, model, artefact), by_seed in groups.items():
        pytorch = groups[(task, model, "pytorch")]
        timings = [file.timing for file in by_seed.values() if file.timing is not None]
        found.append(
            ArtefactScore(
                task=task,
                model=model,
                artefact=artefact,
                metric=next(iter(by_seed.values())).cell.metric,
                seeds=sorted(by_seed),
                median=median(_score(file) for file in by_seed.values()),
                drop=median(_score(pytorch[seed]) - _score(file) for seed, file in by_seed.items()),
                bytes=timings[0].bytes,
                latency_ms=median(timing.latency_ms for timing in timings),
                latency_conditions=CONDITIONS,
            )
        )
    return found


def _score(file: CellFile) -> float:
    return file.cell.scores[file.cell.metric]
