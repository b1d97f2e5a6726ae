"""`edgedistil export`: trace, fuse, quantize, prove, package. An artefact gets its name after the gate let it pass."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from edgedistil.core import console
from edgedistil.core.errors import CorpusError, InputError, ParityError
from edgedistil.core.precision import AUTO, PRECISION_REQUESTS, PrecisionRequest
from edgedistil.core.recipe import load_recipe
from edgedistil.core.records import ExportRecord, ParityRecord, read_record, write_record
from edgedistil.core.rundir import RunDir, mark_latest, replacing
from edgedistil.core.text import read_lines
from edgedistil.export.artefacts import Job, Made, build, set_apart
from edgedistil.export.origin import Origin, find_origins
from edgedistil.export.ort_format import to_ort
from edgedistil.export.package import write_package
from edgedistil.export.quantization_target import find_target, require_runtime
from edgedistil.export.reference import make_probes
from edgedistil.export.source import load_source
from edgedistil.parity.probes import Probes

PROBE_SEED = 20
Artefacts = list[tuple[ExportRecord, ParityRecord]]


def export(
    run: str,
    *,
    quantize: list[str] | None = None,
    target: str | None = None,
    model: str | None = None,
    task: str | None = None,
    max_drop: float = 0.01,
    explain: bool = False,
    text: Path | None = None,
    format_: str = "onnx",
    single_file: bool = False,
    push: str | None = None,
) -> tuple[RunDir, Artefacts]:
    """Makes the artefacts of a run's models, or of one model, and proves each against PyTorch.

    Args:
        run: The run whose student and teacher are exported; without effect when `model` is given.
        quantize: Precisions; the recipe's if not given. float32 is always made: the others come from it.
        target: Device whose instruction set they are made for.
        model: Folder or hub id; a run named after it holds the result.
        task: Of `model`; inferred from its config if not given.
        max_drop: `auto`: most agreement that may be lost.
        explain: Show the error layer by layer.
        text: Lines for the probes; the run's held-out text if not given.
        format_: `onnx`, or `ort` for onnxruntime's own format beside it.
        single_file: Weights inside the graph file instead of beside it.
        push: Hub repository, or file:// URL, that the folder is sent to.
    Returns:
        The run, and each artefact's record with its proof.
    Raises:
        InputError: A precision, device, model or text that is not there or not supported.
        ParityError: An artefact is not what it was made from; it lies in the run's `rejected`, and nothing that was
            exported before has changed.
    """
    if format_ not in {"onnx", "ort"}:
        raise InputError(f"no format '{format_}'; there are: onnx, ort")
    if quantize:
        checked_precisions(quantize)  # a typing error is told before anything is read
    chosen, origins = find_origins(run, model=model, task=task)
    device = find_target(target or _recipe_target(chosen))
    precisions = checked_precisions(quantize or _recipe_precisions(chosen))
    for precision in precisions:
        require_runtime(device, precision)
    lines = read_lines(text or _heldout(chosen, model))
    console.say(f"exporting run {chosen.name} for {device.name}: {', '.join(precisions)}")
    made: Artefacts = []
    for origin in origins:
        job = Job(
            precisions=tuple(precisions if origin.quantized else ["fp32"]),
            target=device,
            max_drop=max_drop,
            single_file=single_file,
            explain=explain,
            ort_format=format_ == "ort",
        )
        made += _export_one(chosen, origin, job, lines)
    mark_latest(chosen)
    if push is not None:
        _push(chosen, origins, push)
    return chosen, made


def export_folder(
    run: RunDir,
    folder: Path,
    *,
    name: str,
    role: Literal["teacher", "student", "other"],
    task: str,
    precisions: Sequence[str],
    text: list[str],
    target: str | None = None,
) -> Artefacts:
    """Artefacts of one model folder, proven and packaged as `run.export(name, task)`; which run is latest stays.

    Args:
        run: Holds the result: exports, parity, probes, and what a gate refused.
        precisions: As `quantize` of `export`; float32 is always made.
        text: Lines for probes and calibration.
    Raises:
        InputError: A precision, device or model that is not there or not supported.
        ParityError: An artefact is not what it was made from.
    """
    device = find_target(target)
    wanted = checked_precisions(precisions)
    for precision in wanted:
        require_runtime(device, precision)
    origin = Origin(name, role, folder, task, quantized=True)
    return _export_one(run, origin, Job(precisions=tuple(wanted), target=device), text)


def checked_precisions(names: Sequence[str]) -> list[PrecisionRequest]:
    """Returns the requested precisions without repetitions, float32 first.

    Raises:
        InputError: A name is unknown; the message suggests the closest one.
    """
    by_name = {request: request for request in PRECISION_REQUESTS}
    requests: list[PrecisionRequest] = ["fp32"]
    for name in names:
        if name not in PRECISION_REQUESTS:
            close = difflib.get_close_matches(name, PRECISION_REQUESTS, n=1, cutoff=0.5)
            advice = f"; did you mean '{close[0]}'?" if close else ""
            raise InputError(
                f"no precision '{name}'{advice}", hint=f"there are: {', '.join(PRECISION_REQUESTS)}"
            )
        requests.append(by_name[name])
    unique = list(dict.fromkeys(requests))
    # The search writes the artefact of its result's precision, so both cannot be made at once.
    return [name for name in unique if not (AUTO.name in unique and name == AUTO.result)]


def _export_one(run: RunDir, origin: Origin, job: Job, lines: list[str]) -> Artefacts:
    started = time.perf_counter()
    source = load_source(origin.folder, name=origin.name, role=origin.role, task=origin.task)
    console.say(f"{source.name} {source.task}: {type(source.model).__name__}")
    # Text that the artefact is fitted to never judges it: calibration and search read the other half.
    probes = make_probes(source.model, source.tokenizer, source.task, lines[::2], seed=PROBE_SEED)
    folder = run.export(source.name, source.task)
    with (
        ExitStack() as commits
    ):  # all is written before anything gets its name: a full disk changes nothing
        aside = commits.enter_context(replacing(folder))
        _keep_others(folder, aside, job, probes)
        made = build(source, probes, aside, job, calibration=lines[1::2] or lines, started=started)
        _refuse_failed(run, made, aside, probes)
        proven = [(each.record, each.parity) for each in made if each.parity is not None]
        for each in made:
            write_record(aside / f"export.{each.record.precision}.json", each.record)
            if job.ort_format:
                to_ort(aside / each.record.files[0].path)
        _package(aside, run, source.folder, source.name, source.task, proven)
        probes.save(commits.enter_context(replacing(run.probes(source.name, source.task))))
        for each, (_, parity) in zip(made, proven, strict=True):
            place = run.parity(source.name, source.task, each.record.precision)
            write_record(commits.enter_context(replacing(place)), parity)
            if each.explained is not None:
                explained = place.with_suffix(".explain.json")
                write_record(commits.enter_context(replacing(explained)), each.explained)
    return proven


def _keep_others(folder: Path, aside: Path, job: Job, probes: Probes) -> None:
    """Artefacts of the same weights in other precisions stay in the folder."""
    (aside / "onnx").mkdir(parents=True)
    for path in sorted(folder.glob("export.*.json")):
        record = read_record(path, ExportRecord)
        if record.precision in job.precisions or record.source_sha256 != probes.source_sha256:
            continue
        (aside / path.name).write_bytes(path.read_bytes())
        for file in record.files:
            (aside / file.path).hardlink_to(folder / file.path)


def _refuse_failed(run: RunDir, made: list[Made], aside: Path, probes: Probes) -> None:
    failed = [each for each in made if not each.passed]
    if not failed:
        return
    places = [set_apart(run, each, aside, probes) for each in failed]
    told = "; ".join(each.failure for each in failed)
    raise ParityError(
        f"{told}",
        hint=f"set apart in {', '.join(str(place) for place in places)}; what was exported before has not changed; "
        "edgedistil export --explain shows the error layer by layer",
    )


def _package(aside: Path, run: RunDir, source: Path, name: str, task: str, made: Artefacts) -> None:
    records = [read_record(path, ExportRecord) for path in sorted(aside.glob("export.*.json"))]
    new = {record.precision: parity for record, parity in made}
    parities = [
        new.get(each.precision) or read_record(run.parity(name, task, each.precision), ParityRecord)
        for each in records
    ]
    write_package(
        aside,
        source_folder=source,
        task=task,
        model_name=f"{run.name} {name} ({task})",
        records=records,
        parities=parities,
        command=" ".join(["edgedistil", *sys.argv[1:]]),
    )


def _push(run: RunDir, origins: list[Origin], address: str) -> None:
    from edgedistil.export.push import push_package

    for origin in origins:
        folder = next(iter(run.exports.glob(f"{origin.name}-{origin.task or '*'}")))
        place = address if len(origins) == 1 else f"{address}-{folder.name}"
        console.say(f"pushed to {push_package(folder, place)}")


def _heldout(run: RunDir, model: str | None) -> Path:
    if model is not None and not run.heldout_text.exists():
        raise CorpusError(
            f"no text to prove {model} on",
            hint="add --text FILE: real text of the kind that it will read, a sequence a line, a hundred lines will do",
        )
    return run.require(run.heldout_text, "edgedistil distill RECIPE")


def _recipe_precisions(run: RunDir) -> list[str]:
    return (
        list(load_recipe(run.recipe).export.precisions) if run.recipe.exists() else ["fp32", "int8"]
    )


def _recipe_target(run: RunDir) -> str | None:
    return load_recipe(run.recipe).export.target if run.recipe.exists() else None
