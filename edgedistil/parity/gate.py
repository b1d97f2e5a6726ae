"""The gate: an artefact's answers on the probes against named tolerances, each with its reason.

Above the gate an artefact has a name and a record; below it, it is set apart. `check_artefact` measures and judges,
`require_parity` refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from edgedistil.core import console
from edgedistil.core.errors import ModelError, ParityError
from edgedistil.core.precision import Precision
from edgedistil.core.records import (
    Method,
    NotMeasured,
    ParityFigures,
    ParityRecord,
    Tolerance,
    ToleranceResult,
    provenance,
)
from edgedistil.core.rundir import artefact_sha256
from edgedistil.core.task import TASKS, find_task
from edgedistil.parity.compare import Comparison, compare, reduce_outputs
from edgedistil.parity.probes import ProbeBatch, Probes
from edgedistil.parity.tolerances import tolerances_for

Feeds = Mapping[str, NDArray[Any]]
Answers = Mapping[str, NDArray[Any]]
Runner = Callable[[Feeds], Answers]


def check_artefact(
    model_file: Path,
    probes: Probes,
    *,
    precision: Precision,
    model: str,
    task: str,
    session_options: ort.SessionOptions | None = None,
    run: Runner | None = None,
) -> ParityRecord:
    """The parity record of an ONNX file on this machine; whether it passed stands in it.

    Args:
        model_file: The graph; its external data lies beside it.
        probes: What PyTorch answered.
        precision: Whose tolerances apply.
        model: student, teacher, or the model's name.
        task: The probes' task.
        session_options: Of the session that runs it; onnxruntime's defaults if not given.
        run: Answers instead of an onnxruntime session here (a pass under trial, a remote shell).
    Raises:
        ModelError: onnxruntime cannot load the file, or it lacks an output or an input.
        ParityError: It cannot run a shape of the probes, or answers with NaN.
    """
    if task != probes.task:
        raise ModelError(f"the probes are of the task {probes.task}, the artefact is of {task}")
    answer = run or open_runner(model_file, session_options)
    label = f"parity {model} {task} {precision}"
    comparison = compare(probes, _answers(answer, probes, label=label))
    return judge(
        comparison,
        precision=precision,
        model=model,
        task=task,
        artefact_sha256=artefact_sha256(model_file),
        runtime=f"onnxruntime {ort.__version__}",
    )


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
    """The verdict on a comparison: for outputs that were computed elsewhere, say where and how."""
    one_value = comparison.overall.decisions == 0 and isinstance(
        comparison.overall.concordance, float
    )
    row = find_task(task)
    if row is None:
        raise ModelError(f"no tolerances for the task '{task}'; there are: {', '.join(TASKS)}")
    bounds = tolerances_for(precision, row.name, one_value=one_value)
    results = [check_tolerance(each, comparison.overall) for each in bounds]
    return ParityRecord(
        model=model,
        task=task,
        precision=precision,
        artefact_sha256=artefact_sha256,
        runtime=runtime,
        method=method,
        device=device,
        overall=comparison.overall,
        by_length=comparison.by_length,
        results=results,
        passed=all(result.holds for result in results),
        provenance=provenance(),
    )


def check_tolerance(tolerance: Tolerance, figures: ParityFigures) -> ToleranceResult:
    """Whether a figure keeps its bound.

    Raises:
        ParityError: The figure is absent on these probes: a bound that nothing was held against proves nothing.
    """
    got = getattr(figures, tolerance.figure)
    if isinstance(got, NotMeasured):
        raise ParityError(
            f"the tolerance on {tolerance.figure} cannot be checked: {got.not_measured}"
        )
    holds = got <= tolerance.value if tolerance.bound == "at most" else got >= tolerance.value
    return ToleranceResult(tolerance=tolerance, got=got, holds=holds)


def require_parity(record: ParityRecord) -> None:
    """Returns if the artefact passed.

    Raises:
        ParityError: Names every tolerance that does not hold, and by how much.
    """
    if record.passed:
        return
    failed = [tell_failure(result) for result in record.results if not result.holds]
    raise ParityError(
        f"{record.model} {record.task} {record.precision} is not the model it was made from: {'; '.join(failed)}",
        hint="edgedistil export --explain shows the error layer by layer",
    )


def tell_failure(result: ToleranceResult) -> str:
    """Which bound, what was got, and how far beyond."""
    tolerance = result.tolerance
    beyond = (
        f"{result.got / tolerance.value:.3g} times the bound"
        if tolerance.bound == "at most" and tolerance.value > 0
        else f"{abs(tolerance.value - result.got):.3g} too {'much' if tolerance.bound == 'at most' else 'little'}"
    )
    return f"{tolerance.figure} is {result.got:.4g}, expected {tolerance.bound} {tolerance.value:g} ({beyond})"


def open_runner(model_file: Path, session_options: ort.SessionOptions | None = None) -> Runner:
    """A function that answers feeds with an onnxruntime session on the CPU.

    Raises:
        ModelError: The file is missing, torn, or not for this runtime.
    """
    try:
        session = ort.InferenceSession(
            model_file, session_options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {model_file}: {_first_line(error)}",
            hint="the file or its external data is damaged or incomplete, or needs a newer runtime: export it again",
        ) from error
    taken = {each.name for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]

    def run(feeds: Feeds) -> Answers:
        return dict(zip(names, session.run(names, _only_taken(feeds, taken)), strict=True))

    return run


def _only_taken(feeds: Feeds, taken: set[str]) -> dict[str, NDArray[Any]]:
    """The feeds that a graph has inputs for. Only token types may be left over, and only if they are all zero."""
    left = {name: array for name, array in feeds.items() if name not in taken}
    if left.keys() - {"token_type_ids"} or any(array.any() for array in left.values()):
        raise ModelError(
            f"the artefact takes no {', '.join(left)}, which its probes need; it takes {', '.join(taken)}"
        )
    lacking = taken - feeds.keys()
    if lacking == {
        "token_type_ids"
    }:  # the source was asked without: zeros are what it then adds itself
        feeds = {**feeds, "token_type_ids": feeds["input_ids"] * 0}
    elif lacking:
        raise ModelError(
            f"the artefact also takes {', '.join(sorted(lacking))}, which is no input of a text encoder"
        )
    return {name: feeds[name] for name in taken}


def _answers(run: Runner, probes: Probes, *, label: str) -> Iterator[Answers]:
    """Reduced at once, so that the whole vocabulary at every position exists for one batch only."""
    with console.progress(label, probes.sequences, unit="sequences") as bar:
        for batch in probes:
            yield reduce_outputs(batch, _answer(run, batch))
            bar.advance(batch.sequences)


def _answer(run: Runner, batch: ProbeBatch) -> Answers:
    try:
        return run(batch.feeds())
    except ModelError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common ancestor below Exception
        raise ParityError(
            f"the artefact cannot run {batch.sequences} × {batch.length} tokens: {_first_line(error)}",
            hint="a tracer can bake a batch size or a length into the graph: export it with dynamic axes",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
