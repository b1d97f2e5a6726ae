"""`edgedistil export`: traces, fuses, quantizes, checks and packages the models of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgedistil.core import console
from edgedistil.core.card_inputs import read_card_inputs
from edgedistil.core.model_card import render_card
from edgedistil.core.options import ExportOptions
from edgedistil.core.rundir import RunDir, mark_latest
from edgedistil.export.request import (
    ExportRequest,
    destinations,
    prepare_export,
    removed_if_unused,
    requested_precisions,
)
from edgedistil.export.target import find_target

if TYPE_CHECKING:
    from edgedistil.export.publish import Artefacts


def export(run_name: str, options: ExportOptions) -> tuple[RunDir, Artefacts]:
    """Exports a run's models, or one model, and compares each artefact with PyTorch.

    Args:
        run_name: The run whose student and teacher are exported; ignored if `options.model` is set.
        options: Models, precisions, target and storage.
    Returns:
        The run, and record and parity of each artefact.
    Raises:
        InputError: A precision, device, model or text is missing, unknown or not supported.
        TargetError: The target's onnxruntime is too old for a precision.
        ParityError: An artefact failed the parity check. It is in the run's `rejected` folder, and
            earlier exports have not changed.
    """
    request = prepare_export(run_name, options)
    artefacts = _export(request)
    if options.push is not None:
        _push(request, options.push)
    return request.run, artefacts


def export_student(run_name: str, options: ExportOptions) -> Artefacts:
    """Exports a run's student as `export` does, without the teacher.

    Args:
        run_name: The run.
        options: Precisions, target and storage.
    Returns:
        Record and parity of each artefact.
    Raises:
        InputError: A precision, device or text is missing, unknown or not supported.
        TargetError: The target's onnxruntime is too old for a precision.
        ParityError: An artefact failed the parity check.
    """
    request = prepare_export(run_name, options)
    students = [source for source in request.sources if source.role == "student"]
    return _export(replace(request, sources=students))


def _export(request: ExportRequest) -> Artefacts:
    """Exports the models of a request, one after the other."""
    run, options = request.run, request.options
    with removed_if_unused(run):
        # Imports torch, which takes seconds: only once the arguments are right.
        from edgedistil.export.publish import export_model

        _announce(request)
        # Export one model after the other: only one is in memory at a time.
        artefacts: Artefacts = []
        for source in request.sources:
            text, probe_text = request.text(source), request.probe_text
            artefacts += export_model(run, source, options, text=text, probe_text=probe_text)
    # A failed export is never the latest run.
    mark_latest(run)
    return artefacts


def _announce(request: ExportRequest) -> None:
    """Prints what is exported, and on which text it is compared."""
    target = find_target(request.options.target)
    precisions = requested_precisions(request.sources[0], request.options)
    console.say(f"exporting run {request.run.name} for {target.name}: {', '.join(precisions)}")
    if request.probe_text == "built-in":
        console.say(
            "no --text: outputs are compared with PyTorch on the built-in text (prose in many "
            "languages, code, emoji). A hundred lines of what the model will read are a better "
            "proof: --text FILE, one sequence a line"
        )


def _push(request: ExportRequest, address: str) -> None:
    """Uploads the export folders."""
    # The import takes a second, and most exports are not uploaded.
    from edgedistil.export.push import push_package

    for name, destination in destinations(request.run, request.sources, address):
        folder = request.run.exports / name
        # More complete than the folder's own card if the same bytes were profiled before.
        card = render_card(read_card_inputs(request.run, folder))
        console.say(f"uploaded to {push_package(folder, destination, card=card)}")
