"""`edgedistil export`: traces, fuses, quantizes, checks and packages the models of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from edgedistil.core import console
from edgedistil.core.card_inputs import read_card_inputs
from edgedistil.core.errors import CorpusError, InputError
from edgedistil.core.model_card import render_card
from edgedistil.core.options import ArtefactFormat, ExportOptions
from edgedistil.core.precision import DEFAULT_PRECISIONS
from edgedistil.core.recipe import load_recipe
from edgedistil.core.rundir import RunDir, mark_latest
from edgedistil.core.text import read_lines
from edgedistil.export.publish import (
    Artefacts,
    checked_precisions,
    export_model,
    requested_precisions,
)
from edgedistil.export.quantization_target import find_target
from edgedistil.export.source import ExportSource, find_sources


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
    # Check everything that is cheap to check before a run is created and a model is loaded.
    _check_names(options)
    run, sources = find_sources(run_name, model=options.model, task=options.task)
    if options.push is not None:
        _check_push(run, sources, options.push)
    options = _with_recipe(options, run)
    requests = requested_precisions(sources[0], options)
    text = read_lines(options.text or _heldout_text(run, options.model))

    # Export one model after the other: only one is in memory at a time.
    target = find_target(options.target)
    console.say(f"exporting run {run.name} for {target.name}: {', '.join(requests)}")
    artefacts: Artefacts = []
    for source in sources:
        artefacts += export_model(run, source, options, text=text)
    # A failed export is never the latest run.
    mark_latest(run)
    if options.push is not None:
        _push(run, sources, options.push)
    return run, artefacts


def _check_names(options: ExportOptions) -> None:
    """Raises InputError if a format or a precision is unknown, or an address is invalid.

    Also for a task without a model, which nothing would use.
    """
    # The command line offers choices only, but a caller in Python may pass any text.
    formats = get_args(ArtefactFormat)
    if options.format not in formats:
        raise InputError(
            f"unknown format '{options.format}'; expected one of: {', '.join(formats)}"
        )
    checked_precisions(options.precisions or ())
    if options.task is not None and options.model is None:
        raise InputError("--task needs --model: the tasks of a run's models are fixed")
    # One model has one address; those of a run are checked when its models are known.
    if options.push is not None and options.model is not None:
        from edgedistil.export.push import check_address

        check_address(options.push)


def _with_recipe(options: ExportOptions, run: RunDir) -> ExportOptions:
    """Fills options that were not given with the recipe's, if the run has a recipe."""
    precisions: Sequence[str] = DEFAULT_PRECISIONS
    target = None
    if run.recipe.exists():
        section = load_recipe(run.recipe).export
        precisions, target = section.precisions, section.target
    return replace(
        options,
        precisions=checked_precisions(options.precisions or precisions),
        target=options.target or target,
    )


def _heldout_text(run: RunDir, model: str | None) -> Path:
    """The run's held-out text.

    Raises:
        CorpusError: The run was created for a model, which has no held-out text.
        RunError: The run has no held-out text yet.
    """
    if model is not None and not run.heldout_text.exists():
        raise CorpusError(
            f"no text to compare {model} with PyTorch on",
            hint="add --text FILE: a hundred lines of real text of the kind that it will read, "
            "one sequence a line",
        )
    return run.require(run.heldout_text, "edgedistil distill RECIPE")


def _destinations(
    run: RunDir, sources: Sequence[ExportSource], address: str
) -> list[tuple[Path, str]]:
    """Returns each export folder with its address; several get their folder's name as a suffix."""
    folders = [run.export(source.name, source.task) for source in sources]
    if len(folders) == 1:
        return [(folders[0], address)]
    return [(folder, f"{address}-{folder.name}") for folder in folders]


def _check_push(run: RunDir, sources: Sequence[ExportSource], address: str) -> None:
    """Raises InputError if a folder could not be uploaded: an export may take half an hour."""
    from edgedistil.export.push import check_address

    for _, destination in _destinations(run, sources, address):
        check_address(destination)


def _push(run: RunDir, sources: Sequence[ExportSource], address: str) -> None:
    """Uploads the export folders."""
    # The import takes a second, and most exports are not uploaded.
    from edgedistil.export.push import push_package

    for folder, destination in _destinations(run, sources, address):
        # More complete than the folder's own card if the same bytes were profiled before.
        card = render_card(read_card_inputs(run, folder))
        console.say(f"uploaded to {push_package(folder, destination, card=card)}")
