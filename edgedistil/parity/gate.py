"""The parity check that an artefact must pass before it is published.

`check_artefact` runs an ONNX file on the probes and applies the tolerances of its precision; the
result is a `ParityRecord`. `require_parity` turns a failed record into an error. Outputs that were
computed elsewhere (a board, an emulator) go through `judge` with the same tolerances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.cpu import this_cpu
from edgedistil.core.errors import ModelError, ParityError
from edgedistil.core.export_records import (
    CertificateRecord,
    InvarianceRecord,
    ParityFigures,
    ParityRecord,
    RankFigures,
    Tolerance,
    ToleranceResult,
)
from edgedistil.core.format import artefact_name
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.core.records import Method, NotMeasured, provenance
from edgedistil.core.rundir import artefact_sha256
from edgedistil.core.session import PROVIDERS, SessionOptions
from edgedistil.core.task import TASKS, find_task
from edgedistil.parity.certificate import certify
from edgedistil.parity.compare import Comparison, Outputs, compare, reduce_outputs
from edgedistil.parity.formula import WeightSource
from edgedistil.parity.invariance import check_invariance
from edgedistil.parity.part_check import MAX_SHARE, check_parts, wrong_parts
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.rank_agreement import compare_rankings
from edgedistil.parity.tolerances import (
    rank_tolerances,
    reference_tolerances,
    scaled,
    tolerances_for,
)

Feeds = Mapping[str, NDArray[Any]]
RunModel = Callable[[Feeds], Outputs]

_LOAD_HINT = (
    "the file or its external data is corrupt or incomplete, or needs a newer onnxruntime:"
    " export it again"
)


def check_artefact(
    model_file: Path,
    probes: Probes,
    *,
    precision: Precision,
    model: str,
    task: str,
    run: RunModel | None = None,
    source: WeightSource | None = None,
    with_neighbours: bool = True,
) -> ParityRecord:
    """Compares an ONNX file on this machine with PyTorch's outputs and weights.

    Args:
        model_file: The graph, with its external data in the same folder.
        probes: The inputs, with PyTorch's outputs.
        precision: Selects the tolerances.
        model: student, teacher, or the model's name.
        task: Task of the artefact; must be the probes' task.
        run: Computes the outputs instead of an onnxruntime session on this machine.
        source: The model's tensors, for the certificate; None where they are not at hand.
        with_neighbours: Whether texts are also run alone, padded, and next to others.
    Returns:
        The record; `passed` says whether every tolerance, the certificate and the invariance hold.
    Raises:
        ModelError: onnxruntime cannot load the file, or it lacks an output or an input.
        ParityError: It cannot run a shape of the probes, or an output holds NaN.
    """
    if task != probes.task:
        raise ModelError(f"the probes are of the task {probes.task}, the artefact is of {task}")
    run_model = run or load_artefact(model_file, precision)
    label = f"parity check: {model} {task} {precision}"
    outputs = _reduced_outputs(run_model, probes, label=label)
    comparison = compare(probes, outputs, precision=precision)
    # Another runtime computes outputs only; its parts cannot be fed.
    if run is None and precision in probes.references:
        parts = check_parts(model_file, probes, precision)
        comparison = replace(comparison, parts=parts)
    comparison = replace(comparison, ranking=compare_rankings(probes.pool, run_model))
    record = judge(
        comparison,
        precision=precision,
        model=model,
        task=task,
        artefact_sha256=artefact_sha256(model_file),
        runtime=f"onnxruntime {ort.__version__}",
    )
    checks: dict[str, Any] = {}
    # Another runtime runs the probes as they are, and nothing else.
    if run is None and with_neighbours:
        checks["invariance"] = check_invariance(run_model, probes, precision)
    if source is not None:
        checks["certificate"] = certify(model_file, source)
    checked = record.model_copy(update=checks)
    return checked.model_copy(update={"passed": not list_failures(checked)})


def judge(
    comparison: Comparison,
    *,
    precision: Precision,
    model: str,
    task: str,
    artefact_sha256: str,
    runtime: str,
    method: Method = "measured",
    device: str = "host",
) -> ParityRecord:
    """Applies the tolerances of a precision to a comparison.

    Args:
        comparison: Figures of the artefact.
        precision: Selects the tolerances.
        model: student, teacher, or the model's name.
        task: Task of the artefact.
        artefact_sha256: Digest of the artefact, external data included.
        runtime: Name and version of what computed the outputs.
        method: How the outputs were computed.
        device: Where the outputs were computed.
    Raises:
        ModelError: The task is unknown.
        ParityError: A tolerance is on a figure that these probes do not have.
    """
    overall = comparison.overall
    # A regression decides nothing but has a concordance; every other task decides something.
    regression = overall.decisions == 0 and isinstance(overall.concordance, float)
    task_info = find_task(task)
    if task_info is None:
        raise ModelError(f"unknown task '{task}', expected one of {', '.join(TASKS)}")
    parts = comparison.parts
    tolerances = tolerances_for(
        precision,
        task_info.name,
        regression=regression,
        by_parts=bool(parts) or _has_reference_roundings(comparison),
        bounds=comparison.bounds,
    )
    # All of them, also after a failure: the message lists every tolerance that does not hold.
    results = [
        check_tolerance(scaled(tolerance, comparison.largest_output), overall)
        for tolerance in tolerances
    ]
    results += _check_reference(comparison, precision)
    if comparison.ranking is not None:
        results += [
            check_tolerance(tolerance, comparison.ranking)
            for tolerance in rank_tolerances(precision)
        ]
    record = ParityRecord(
        model=model,
        task=task,
        precision=precision,
        artefact_sha256=artefact_sha256,
        runtime=runtime,
        method=method,
        device=device,
        overall=overall,
        by_length=comparison.by_length,
        results=results,
        passed=all(result.holds for result in results) and not wrong_parts(parts, precision),
        provenance=provenance(),
    )
    added: dict[str, Any] = {"parts": list(parts)} if parts else {}
    if comparison.ranking is not None:
        added["ranking"] = comparison.ranking
    return record.model_copy(update=added)


def _has_reference_roundings(comparison: Comparison) -> bool:
    """Whether the error against the same roundings is within the bound of a correct part.

    The rest of the distance from float32 is the rounding, by which the export was judged.
    """
    share = comparison.overall.reference_share
    return isinstance(share, float) and share <= MAX_SHARE


def _check_reference(comparison: Comparison, precision: Precision) -> list[ToleranceResult]:
    """Bounds against PyTorch with the same roundings, over all lengths and at the worst one."""
    tolerances = reference_tolerances(precision)
    if tolerances is None or isinstance(comparison.overall.reference_share, NotMeasured):
        return []
    # Over few values one flipped rounding decides, so a short length may have no share.
    results = [check_tolerance(tolerances.overall, comparison.overall)]
    shares = {
        figures.length: figures.reference_share
        for figures in comparison.by_length
        if isinstance(figures.length, int) and isinstance(figures.reference_share, float)
    }
    if shares:
        worst = max(shares, key=lambda length: shares[length])
        at_worst = next(row for row in comparison.by_length if row.length == worst)
        of_length = check_tolerance(tolerances.one_length, at_worst)
        results.append(of_length.model_copy(update={"length": worst}))
    return results


def check_tolerance(tolerance: Tolerance, figures: ParityFigures | RankFigures) -> ToleranceResult:
    """Checks one figure against its bound, which is inclusive.

    Raises:
        ParityError: The figure is absent on these probes, so the bound would prove nothing.
    """
    value = getattr(figures, tolerance.figure)
    if isinstance(value, NotMeasured):
        raise ParityError(
            f"the tolerance on {tolerance.figure} cannot be checked: {value.not_measured}"
        )
    at_most = tolerance.bound == "at most"
    holds = value <= tolerance.value if at_most else value >= tolerance.value
    return ToleranceResult(tolerance=tolerance, got=value, holds=holds)


def require_parity(record: ParityRecord) -> None:
    """Raises an error for a record that did not pass.

    Raises:
        ParityError: Lists every tolerance that does not hold, and by how much it is missed.
    """
    if record.passed:
        return
    raise ParityError(
        f"{artefact_name(record)} does not match the model it was exported from:"
        f" {'; '.join(list_failures(record))}",
        hint="edgedistil export --explain shows the error layer by layer",
    )


def list_failures(record: ParityRecord) -> list[str]:
    """Formats every tolerance that does not hold and every problem of the certificate."""
    failures = [format_failure(result) for result in record.results if not result.holds]
    if isinstance(record.parts, list):
        failures += wrong_parts(record.parts, record.precision)
    if isinstance(record.certificate, CertificateRecord):
        failures += record.certificate.problems
    if isinstance(record.invariance, InvarianceRecord) and not record.invariance.holds:
        failures.append(format_variance(record.invariance))
    return failures


def format_variance(record: InvarianceRecord) -> str:
    """Formats changes by neighbours or padding that are larger than their bound."""
    assert record.bound is not None, "a change without a bound is not a failure"
    return (
        f"a text's outputs change by up to {record.padded:.3g} with padding and by"
        f" {record.neighbours:.3g} with neighbours, expected at most {record.bound:.3g}"
        f" ({record.changed} of {record.answers} answers change)"
    )


def format_failure(result: ToleranceResult) -> str:
    """Formats a failed tolerance: figure, value, bound, and by how much it is missed."""
    tolerance = result.tolerance
    distance = f"{abs(tolerance.value - result.got):.3g}"
    if tolerance.bound == "at least":
        excess = f"{distance} too little"
    elif tolerance.value > 0:
        excess = f"{result.got / tolerance.value:.3g} times the bound"
    else:
        excess = f"{distance} too much"
    place = f" at {result.length} tokens" if result.length is not None else ""
    return (
        f"{tolerance.figure} is {result.got:.4g},"
        f" expected {tolerance.bound} {tolerance.value:g} ({excess}){place}"
    )


# --- running an artefact -------------------------------------------------------------------------


def load_artefact(model_file: Path, precision: Precision = "fp32") -> RunModel:
    """Loads an ONNX file into a CPU session and returns a function from feeds to outputs.

    Args:
        model_file: The graph, with its external data in the same folder.
        precision: With integer products, sums are exact on CPUs that would saturate, as
            session.json advises.
    Raises:
        ModelError: The file is missing or corrupt, or this onnxruntime cannot load it.
    """
    # Otherwise onnxruntime's default options: what most users run.
    cpu = this_cpu()
    saturates = not cpu.is_arm and not cpu.has("vnni")
    exact = PRECISIONS[precision].integer_matmul and saturates
    options = SessionOptions(exact_int8=exact).to_onnxruntime()
    try:
        session = ort.InferenceSession(model_file, options, providers=PROVIDERS)
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {model_file}: {_first_line(error)}",
            hint=_LOAD_HINT,
        ) from error
    # Names are read once per session, not once per call.
    input_names = {node.name for node in session.get_inputs()}
    output_names = [node.name for node in session.get_outputs()]

    def run(feeds: Feeds) -> Outputs:
        values = session.run(output_names, _select_feeds(feeds, input_names))
        return dict(zip(output_names, values, strict=True))

    return run


def _select_feeds(feeds: Feeds, input_names: set[str]) -> dict[str, NDArray[Any]]:
    """Matches feeds to a graph's inputs; only token types may be added or dropped, as zeros."""
    unused = {name: array for name, array in feeds.items() if name not in input_names}
    # Zeros are what a graph without token types assumes; anything else would change the outputs.
    if unused.keys() - {"token_type_ids"} or any(array.any() for array in unused.values()):
        raise ModelError(
            f"the artefact has no input {', '.join(unused)}, which its probes need;"
            f" it has: {', '.join(input_names)}"
        )
    missing = input_names - feeds.keys()
    if missing == {"token_type_ids"}:
        # PyTorch was called without token types: it then adds zeros itself.
        feeds = {**feeds, "token_type_ids": feeds["input_ids"] * 0}
    elif missing:
        raise ModelError(
            f"the artefact also needs {', '.join(sorted(missing))},"
            " which a text encoder does not take"
        )
    return {name: feeds[name] for name in input_names}


def _reduced_outputs(run: RunModel, probes: Probes, *, label: str) -> Iterator[Outputs]:
    """Runs the probes batch by batch; at most one batch of complete logits is in memory."""
    with console.progress(label, probes.sequences, unit="sequences") as bar:
        for batch in probes:
            yield reduce_outputs(batch, _run_batch(run, batch))
            bar.advance(batch.sequences)


def _run_batch(run: RunModel, batch: ProbeBatch) -> Outputs:
    try:
        return run(batch.feeds())
    except ModelError:  # from _select_feeds: the message is already specific
        raise
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ParityError(
            f"the artefact cannot run {batch.sequences} × {batch.length} tokens:"
            f" {_first_line(error)}",
            hint="a tracer can bake a batch size or a length into the graph:"
            " export it with dynamic axes",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
