"""Exports one model: builds its artefacts, checks their parity, and publishes the folder.

Nothing is published before everything is written and every artefact has passed. If one fails, it
goes to the run's `rejected` folder and earlier exports stay as they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.errors import ParityError
from edgedistil.core.export_records import ExportRecord, ParityRecord, ProbeText
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import PrecisionRequest, result_of
from edgedistil.core.records import read_record, write_record
from edgedistil.core.rundir import RunDir, replacing
from edgedistil.core.task import ENCODER_TASK
from edgedistil.export.artefacts import BuiltArtefact, build_artefact, open_build, quarantine
from edgedistil.export.conformance import write_conformance
from edgedistil.export.ort_format import convert_to_ort
from edgedistil.export.package import write_package
from edgedistil.export.package_check import check_package
from edgedistil.export.reference import make_probes
from edgedistil.export.request import requested_precisions
from edgedistil.export.sentence_modules import omitted_parts
from edgedistil.export.source import ExportSource
from edgedistil.parity.probes import Probes

# Another one than the search's (`precisions.SEARCH_SEED`).
PROBE_SEED = 20

Artefacts = list[tuple[ExportRecord, ParityRecord]]


def export_model(
    run: RunDir,
    source: ExportSource,
    options: ExportOptions,
    *,
    text: Sequence[str],
    probe_text: ProbeText = "held-out",
) -> Artefacts:
    """Exports one model into `run.export(source.name, source.task)`.

    Args:
        run: Receives the export folder, parity records and probes, and rejected artefacts.
        source: The model.
        options: Precisions (fp32 and int8 if None), target and storage; the other options do not
            apply to a single model.
        text: Lines for the parity check, calibration and search.
        probe_text: What the text is, for the record.
    Returns:
        Record and parity of each artefact.
    Raises:
        InputError: A precision, the target or the model is unknown or not supported.
        TargetError: The target's onnxruntime is too old for a precision.
        ParityError: An artefact failed the parity check.
    """
    started = time.perf_counter()
    _report_left_out(source)
    requests = requested_precisions(source, options)
    # Everything is written before the first file gets its name, so a full disk changes nothing
    # (docs/log.md#full-disk-during-export). `commits` renames in reverse: the folder is the last.
    with ExitStack() as commits:
        folder = commits.enter_context(replacing(run.export(source.name, source.task)))
        (folder / "onnx").mkdir(parents=True)
        artefacts, probes = _build(
            run,
            source,
            options,
            folder,
            requests=requests,
            text=text,
            probe_text=probe_text,
            started=started,
        )
        _reject_failed(run, artefacts, folder, probes)

        # All artefacts passed: write records, the other formats, and the files around them.
        _write_artefact_files(folder, artefacts, options)
        passed = [(item.record, item.parity) for item in artefacts if item.parity is not None]
        _write_package(folder, run, source, passed)
        check_package(folder, source.folder, text)
        write_conformance(folder)
        probes.save(commits.enter_context(replacing(run.probes(source.name, source.task))))
        for artefact in artefacts:
            _write_parity(run, artefact, commits)
    return passed


# --- steps ---------------------------------------------------------------------------------------


def _build(
    run: RunDir,
    source: ExportSource,
    options: ExportOptions,
    folder: Path,
    *,
    requests: Sequence[PrecisionRequest],
    text: Sequence[str],
    probe_text: ProbeText,
    started: float,
) -> tuple[list[BuiltArtefact], Probes]:
    """Builds all requested artefacts in an unpublished folder, and checks their parity."""
    # Text that an artefact is fitted to never judges it: calibration and search read the other
    # half (docs/decisions.md#the-search-judges-on-other-text-than-the-parity-check).
    judging_text, fitting_text = text[::2], text[1::2] or text
    artefacts = []
    with open_build(source, folder, options, text=fitting_text, probe_text=probe_text) as context:
        model, tokenizer = context.model, context.tokenizer
        probes = make_probes(
            model,
            tokenizer,
            source.task,
            judging_text,
            seed=PROBE_SEED,
            sentence=context.sentence,
        )
        if probes.change_by_padding:
            console.warn(
                f"{source.name}: padding changes the outputs of the model itself, in PyTorch by up"
                f" to {probes.change_by_padding:.2g} of the largest, so no artefact has the same"
                " outputs in any batch: run texts alone, or pad on the other side"
            )
        _copy_other_precisions(run, source, folder, requests, probes)
        for request in requests:
            artefact = build_artefact(context, request, options, probes, started=started)
            if artefact.reference is not None:
                probes = probes.with_reference(artefact.record.precision, artefact.reference)
            artefacts.append(artefact)
            # The first artefact's time includes the trace and the probes.
            started = time.perf_counter()
    return artefacts, probes


def _copy_other_precisions(
    run: RunDir,
    source: ExportSource,
    folder: Path,
    requests: Sequence[PrecisionRequest],
    probes: Probes,
) -> None:
    """Copies published artefacts of the same weights in precisions that are not made again."""
    # `auto` writes another precision's files: a link to those would be written through.
    replaced = {result_of(request) for request in requests}
    published = run.export(source.name, source.task)
    for path in sorted(published.glob("export.*.json")):
        record = read_record(path, ExportRecord)
        if record.precision in replaced or record.source_sha256 != probes.source_sha256:
            continue
        (folder / path.name).write_bytes(path.read_bytes())
        for file in record.files:
            # A link, not a copy: the published folder is removed in the end.
            (folder / file.path).hardlink_to(published / file.path)


def _reject_failed(
    run: RunDir, artefacts: Sequence[BuiltArtefact], folder: Path, probes: Probes
) -> None:
    """Moves artefacts that failed the parity check out of the folder.

    Raises:
        ParityError: At least one artefact failed.
    """
    failed = [artefact for artefact in artefacts if not artefact.passed]
    if not failed:
        return
    folders = [str(quarantine(run, artefact, folder, probes)) for artefact in failed]
    raise ParityError(
        "; ".join(artefact.failure for artefact in failed),
        hint=f"moved to {', '.join(folders)}; earlier exports have not changed; "
        "edgedistil export --explain shows the error of every layer",
    )


def _write_artefact_files(
    folder: Path, artefacts: Sequence[BuiltArtefact], options: ExportOptions
) -> None:
    """Writes the record of each artefact, and its .ort file if it was requested."""
    for artefact in artefacts:
        record = artefact.record
        write_record(folder / f"export.{record.precision}.json", record)
        if options.format == "ort":
            convert_to_ort(folder / record.files[0].path)


def _write_package(folder: Path, run: RunDir, source: ExportSource, artefacts: Artefacts) -> None:
    """Writes config, tokenizer and card for the new artefacts and the copied ones."""
    # The new parity records have no names yet, the copied artefacts' are in the run.
    parities = {record.precision: parity for record, parity in artefacts}
    records = [read_record(path, ExportRecord) for path in sorted(folder.glob("export.*.json"))]
    for record in records:
        if record.precision not in parities:
            path = run.parity(source.name, source.task, record.precision)
            parities[record.precision] = read_record(path, ParityRecord)
    write_package(
        folder,
        source,
        title=f"{run.name} {source.name} ({source.task})",
        records=records,
        parities=[parities[record.precision] for record in records],
        command=" ".join(["edgedistil", *sys.argv[1:]]),
    )


def _report_left_out(source: ExportSource) -> None:
    """Warns about parts of the source that the package does not contain."""
    has_modules = source.task == ENCODER_TASK
    for part in omitted_parts(source.package_folder, has_modules=has_modules):
        console.warn(f"not exported: {part}")


def _write_parity(run: RunDir, artefact: BuiltArtefact, commits: ExitStack) -> None:
    """Writes the parity and the explanation of an artefact that passed."""
    record = artefact.record
    assert artefact.parity is not None, "artefacts that failed have been rejected"
    path = run.parity(record.model, record.task, record.precision)
    write_record(commits.enter_context(replacing(path)), artefact.parity)
    if artefact.explanation is not None:
        explain_path = path.with_suffix(".explain.json")
        write_record(commits.enter_context(replacing(explain_path)), artefact.explanation)
