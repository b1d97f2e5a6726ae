"""Checks what `edgedistil export` was asked for, before torch is imported or a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.export_records import ProbeText
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.options import ArtefactFormat, ExportOptions
from edgedistil.core.precision import (
    AUTO,
    DEFAULT_PRECISIONS,
    PRECISION_REQUESTS,
    PrecisionRequest,
)
from edgedistil.core.recipe import load_recipe
from edgedistil.core.rundir import RunDir
from edgedistil.core.sentence_vector import Pooling
from edgedistil.core.task import ENCODER_TASK
from edgedistil.core.text import read_lines
from edgedistil.core.toml import did_you_mean
from edgedistil.export.probe_text import built_in_text
from edgedistil.export.source import MODELS_FILE, ExportSource, find_sources
from edgedistil.export.target import find_target, require_runtime
from edgedistil.export.vector_options import VectorOptions


@dataclass(frozen=True)
class ExportRequest:
    """An export whose arguments are right.

    Attributes:
        run: Receives the exports.
        sources: Models, with the task of each.
        options: With the recipe's values where the user set none.
        lines: Text of the parity check; None for the built-in text.
        probe_text: What the text is.
    """

    run: RunDir
    sources: list[ExportSource]
    options: ExportOptions
    lines: list[str] | None
    probe_text: ProbeText

    def text(self, source: ExportSource) -> list[str]:
        """Returns the text that a model is compared with PyTorch on."""
        return self.lines or built_in_text(source.load_tokenizer())


def prepare_export(run_name: str, options: ExportOptions) -> ExportRequest:
    """Checks all arguments, cheap ones first, and opens or creates the run.

    Raises:
        InputError: A precision, device, model or text is missing, unknown or not supported.
        TargetError: The target's onnxruntime is too old for a precision.
    """
    _check_names(options)
    lines = read_lines(options.text) if options.text is not None else None
    find_target(options.target)
    run, sources = find_sources(run_name, model=options.model, task=options.task)
    with removed_if_unused(run):
        if options.push is not None:
            _check_push(run, sources, options.push)
        options = _with_recipe(options, run)
        sources = _with_vector_options(sources, options)
        requested_precisions(sources[0], options)
        probe_text: ProbeText = "user"
        if lines is None and options.model is not None and not run.heldout_text.exists():
            probe_text = "built-in"
        elif lines is None:
            heldout = run.require(run.heldout_text, "edgedistil distill RECIPE")
            lines, probe_text = read_lines(heldout), "held-out"
    return ExportRequest(run, sources, options, lines, probe_text)


@contextmanager
def removed_if_unused(run: RunDir) -> Iterator[None]:
    """Removes the run's folder after a failure in the block, if nothing was exported into it."""
    try:
        yield
    except BaseException:
        models = run.path / MODELS_FILE
        # A run of a recipe, or with a rejected artefact, has other files.
        if run.path.is_dir() and set(run.path.iterdir()) <= {models}:
            models.unlink(missing_ok=True)
            run.path.rmdir()
        raise


def requested_precisions(source: ExportSource, options: ExportOptions) -> list[PrecisionRequest]:
    """Returns the precisions that are made of a model, float32 first.

    Raises:
        InputError: A precision or the target is unknown.
        TargetError: The target's onnxruntime is too old for a precision.
    """
    requests: list[PrecisionRequest] = ["fp32"]
    if not source.float_only:
        requests = checked_precisions(options.precisions or DEFAULT_PRECISIONS)
    target, family = find_target(options.target), read_model_folder(source.folder).family
    for request in requests:
        require_runtime(target, request, family)
    return requests


def checked_precisions(names: Sequence[str]) -> list[PrecisionRequest]:
    """Returns precisions by name, without repetitions, float32 first.

    float32 is always made: the others are made from it.

    Raises:
        InputError: A name is unknown; the message suggests the closest one.
    """
    # Typed by the table, so that what comes out are requests and not any text.
    by_name = {request: request for request in PRECISION_REQUESTS}
    requests: list[PrecisionRequest] = ["fp32"]
    for name in names:
        if name not in PRECISION_REQUESTS:
            raise InputError(
                f"unknown precision '{name}'{did_you_mean(name, PRECISION_REQUESTS)}",
                hint=f"expected one of: {', '.join(PRECISION_REQUESTS)}",
            )
        requests.append(by_name[name])
    unique = list(dict.fromkeys(requests))
    # The search writes the artefact of its result's precision, so both cannot be made at once.
    return [name for name in unique if not (AUTO.name in unique and name == AUTO.result)]


def _with_vector_options(
    sources: Sequence[ExportSource], options: ExportOptions
) -> list[ExportSource]:
    """Returns the sources with what the user states about their sentence vectors.

    Raises:
        InputError: No source is an encoder, or a folder says something else.
    """
    stated = VectorOptions(options.pooling, options.normalize, options.dimension)
    if stated == VectorOptions():
        return list(sources)
    if not any(source.task == ENCODER_TASK for source in sources):
        raise InputError(
            f"--pooling, --normalize and --dimension are about sentence vectors, and "
            f"{sources[0].name} is exported for {sources[0].task}",
            hint=f"add --task {ENCODER_TASK}",
        )
    described = []
    for source in sources:
        source = replace(source, vector_options=stated)
        vector = source.sentence_vector()
        if vector is not None and vector.cut_from is not None:
            console.warn(
                f"{source.name}: vectors are cut from {vector.cut_from} to {vector.dimension} "
                "values; a model that was not trained for it loses more than the size suggests"
            )
        described.append(source)
    return described


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
    poolings = get_args(Pooling)
    if options.pooling is not None and options.pooling not in poolings:
        raise InputError(
            f"unknown pooling '{options.pooling}'{did_you_mean(options.pooling, poolings)}",
            hint=f"expected one of: {', '.join(poolings)}",
        )
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


def destinations(
    run: RunDir, sources: Sequence[ExportSource], address: str
) -> list[tuple[str, str]]:
    """Returns name and address of each export folder; several get their name as a suffix."""
    names = [run.export(source.name, source.task).name for source in sources]
    if len(names) == 1:
        return [(names[0], address)]
    return [(name, f"{address}-{name}") for name in names]


def _check_push(run: RunDir, sources: Sequence[ExportSource], address: str) -> None:
    """Raises InputError if a folder could not be uploaded: an export may take half an hour."""
    from edgedistil.export.push import check_address

    for _, destination in destinations(run, sources, address):
        check_address(destination)
