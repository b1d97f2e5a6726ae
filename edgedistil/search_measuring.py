"""`edgedistil search --measure`: candidates with random weights, timed on the device.

This module is at the top level because it calls stages that do not import each other.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import HOST
from edgedistil.core.format import mebibytes
from edgedistil.core.precision import Precision
from edgedistil.core.recipe import Recipe
from edgedistil.core.rundir import artefact_files
from edgedistil.core.scratch import scratch_folder
from edgedistil.core.search_records import Candidate, SearchRecord
from edgedistil.core.task import ENCODER_TASK
from edgedistil.profiling.latency import summarize
from edgedistil.profiling.rows import invalid_reason
from edgedistil.runtime.disturbance import case_disturbances
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.protocol import Case, Job, JobModel, Reply
from edgedistil.runtime.target import Target
from edgedistil.search.board import open_target
from edgedistil.search.candidates import with_measured
from edgedistil.search.halving import sizes_label
from edgedistil.search.scaling import find_scales, scale_times
from edgedistil.search.stage import oldest_runtime, rank, read_teacher_folder

# Calls and seconds of a measurement: the median of fewer moves by more than a percent.
MIN_CALLS, MIN_SECONDS = 60, 3.0
# Precisions that a graph without a parity check is made in.
_MEASURED: tuple[Precision, ...] = ("fp32", "int8")


def measure_candidates(
    recipe: Recipe, record: SearchRecord, options: SearchOptions
) -> SearchRecord:
    """Measures the first candidates of a search in place of predicting them.

    Args:
        recipe: Its teacher is the one of the search.
        record: Result of the search.
        options: Number of candidates, and the device: this machine, or a board over SSH.
    Returns:
        The record with measured sizes, times and peaks of memory, in its new order. Times of the
        other candidates are scaled where three or more of their precision were measured.
    Raises:
        InputError: The device is neither this machine nor reachable over SSH, or the board is
            another device.
        TargetError: The device cannot be reached, or cannot run a graph.
    Conditions: Random weights, token 1 at every place; a fresh process for each candidate. A
        disturbed measurement is repeated once; if it is disturbed again, the prediction stays.
    """
    candidates = list(record.candidates)
    # One connection to a board for all candidates.
    with (
        open_target(options, oldest_runtime=oldest_runtime(recipe)) as target,
        scratch_folder("candidates") as folder,
    ):
        maker = GraphMaker(recipe, folder, device=options.device)
        for index, candidate in enumerate(candidates[: options.measure]):
            name = f"candidate {index + 1} of {options.measure}"
            if candidate.precision not in _MEASURED:
                console.say(f"{name}: predicted, {candidate.precision} is not measured")
                continue
            graph = maker.graph(candidate)
            time = _time_twice(graph, target, record)
            if time.problem is not None:
                console.warn(f"{name}: predicted, its measurement is not usable: {time.problem}")
                continue
            size = sum(file.stat().st_size for file in artefact_files(graph.path))
            candidates[index] = with_measured(
                candidate,
                file_bytes=size,
                ms=time.ms,
                peak_bytes=time.peak_bytes,
                budget=record.budget,
            )
            console.say(f"{name}: {time.ms:.2f} ms{_peak(time)}")
    return _scaled_by_measured(record, candidates)


def _scaled_by_measured(record: SearchRecord, candidates: list[Candidate]) -> SearchRecord:
    """The record with measured candidates, and the other ones scaled by them."""
    pairs = [
        (predicted, candidate)
        for predicted, candidate in zip(record.candidates, candidates, strict=True)
        if candidate.is_measured
    ]
    scales = find_scales(pairs)
    for scale in scales:
        console.say(scale.describe())
    scaled = scale_times(candidates, scales, record.budget)
    origin = "; ".join([record.calibration, *(scale.describe() for scale in scales)])
    return record.model_copy(update={"candidates": sorted(scaled, key=rank), "calibration": origin})


def _peak(time: GraphTime) -> str:
    return "" if time.peak_bytes is None else f", peak {mebibytes(time.peak_bytes)} MiB"


# --- graphs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CandidateGraph:
    """The graph of a candidate, as a file of a job.

    Attributes:
        path: The ONNX file; its weights are next to it.
        has_segments: Whether it takes token types.
    """

    path: Path
    has_segments: bool

    def job_files(self) -> dict[str, Path]:
        """Returns name in the job's folder → file."""
        return {file.name: file for file in artefact_files(self.path)}


@dataclass(frozen=True)
class GraphMaker:
    """Exports candidates with random weights.

    Attributes:
        recipe: Names the teacher.
        folder: Where graphs are written.
        device: Device that they are made for.
    """

    recipe: Recipe
    folder: Path
    device: str = HOST

    def graph(self, candidate: Candidate) -> CandidateGraph:
        """Returns a candidate's graph; all precisions of a size are exported at once."""
        from edgedistil.export.untrained import save_precisions
        from edgedistil.models.loading import load_config
        from edgedistil.models.untrained import untrained_student

        # Only sizes are read from the teacher: no weights are loaded.
        source = read_teacher_folder(self.recipe.teacher)
        name = sizes_label(candidate)
        files = {p: self.folder / f"{name}-{p}" / f"{name}-{p}.onnx" for p in _MEASURED}
        # A BERT's student is a DistilBERT, which takes none.
        has_segments = source.family.token_types and source.family.model_type != "bert"
        if not files["fp32"].exists():
            model = untrained_student(
                load_config(source),
                layers=candidate.layers,
                intermediate=candidate.intermediate,
                heads=candidate.heads,
                vocabulary=candidate.vocabulary,
                embedding=candidate.embedding,
            )
            save_precisions(model, files, task=ENCODER_TASK, target=self.device)
        return CandidateGraph(files[candidate.precision], has_segments)


@dataclass(frozen=True)
class GraphTime:
    """Time and memory of a graph.

    Attributes:
        ms: Median of a call.
        peak_bytes: Peak memory of the process; None if the machine does not report it.
        problem: Why no verdict may use it: throttling, or other work on the machine; None without.
    """

    ms: float
    peak_bytes: int | None
    problem: str | None


def _time_twice(graph: CandidateGraph, target: Target, record: SearchRecord) -> GraphTime:
    """Times a graph, and once more if the machine was disturbed."""
    time = time_graph(graph, target, length=record.length, threads=record.threads)
    if time.problem is None:
        return time
    return time_graph(graph, target, length=record.length, threads=record.threads)


def time_graph(graph: CandidateGraph, target: Target, *, length: int, threads: int) -> GraphTime:
    """Returns the median time of a call, and the peak memory, in a fresh process.

    Args:
        graph: The graph.
        target: The machine.
        length: Tokens of the text.
        threads: Number of threads.
    Raises:
        TargetError: The machine cannot run it.
    """
    job = Job(
        models={"graph": JobModel(file=graph.path.name)},
        cases=[Case(name="text", keys=["text"])],
        phases=["steady"],
        threads=threads,
        min_calls=MIN_CALLS,
        min_seconds=MIN_SECONDS,
    )
    # Which tokens makes no difference: every lookup reads a row.
    ids_BL = np.ones((1, length), np.int64)
    arrays = {"text/input_ids": ids_BL, "text/attention_mask": np.ones_like(ids_BL)}
    if graph.has_segments:
        arrays["text/token_type_ids"] = np.zeros_like(ids_BL)
    reply = run_job(target, [graph], job, NpzInputs(arrays))
    result = reply.models["graph"]
    ms = statistics.median(result.cases["text"].samples_ns) / 1e6
    return GraphTime(ms, result.memory.peak, _problem(reply, threads))


def _problem(reply: Reply, threads: int) -> str | None:
    """Why a measurement cannot be used, by the rules of a profile's rows; None if it can."""
    case = reply.models["graph"].cases["text"]
    invalid = invalid_reason(reply, summarize(case.samples_ns))
    if invalid is not None:
        return invalid
    return "; ".join(case_disturbances(case, reply, threads=threads, one_length=True)) or None
