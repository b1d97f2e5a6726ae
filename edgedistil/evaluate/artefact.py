"""Scores ONNX artefacts of fine-tuned models with onnxruntime, tokenizers and numpy.

Scoring runs in a fresh process and raises an error if torch is loaded there, so what is scored is
what a device runs (docs/decisions.md#one-scoring-path).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime

from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.core.session import PROVIDERS, SessionOptions
from edgedistil.evaluate.encode import Ids, open_tokenizer
from edgedistil.evaluate.example_latency import ExampleLatency, example_latencies
from edgedistil.evaluate.kind import TaskKind
from edgedistil.evaluate.scoring import DevScores, Forward, Logits
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data
from edgedistil.evaluate.workers import worker_pool

T = TypeVar("T")


@dataclass(frozen=True)
class ArtefactResult:
    """Scores and latency of one artefact.

    Attributes:
        scores: Scores on the dev set.
        latency: Of single dev examples.
    """

    scores: DevScores
    latency: ExampleLatency


def in_fresh_process(work: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a new process, which has none of this one's modules loaded."""
    try:
        with worker_pool(1) as pool:
            return pool.submit(work, *arguments).result()
    except BrokenProcessPool as error:
        raise EdgeDistilError(
            "the process that scores an artefact was killed", hint="memory may have run out"
        ) from error


def score_artefacts(
    spec: TaskSpec, data: Path | None, folder: Path, graphs: Sequence[Path]
) -> list[ArtefactResult]:
    """Scores graphs on the dev set and measures their latency in turns.

    Args:
        spec: The task.
        data: Folder with official files of public data sets, if any.
        folder: Folder with `tokenizer.json`.
        graphs: ONNX files of one model.
    Raises:
        EdgeDistilError: torch is loaded in this process.
        ModelError: A graph does not load.
    """
    check_torch_is_absent()
    dev = load_data(spec, data).dev
    tokenizer = open_tokenizer(folder)
    kind = spec.task_kind

    # Scores with all cores, latencies with one thread.
    scores = []
    for graph in graphs:
        forward = ort_forward(graph, kind, threads=0)
        scores.append(kind.score(forward, tokenizer, dev, spec.scoring))
    forwards = [ort_forward(graph, kind, threads=1) for graph in graphs]
    latencies = example_latencies(forwards, tokenizer, dev, spec)

    # Nothing that was called above may have imported it either.
    check_torch_is_absent()
    return [ArtefactResult(*result) for result in zip(scores, latencies, strict=True)]


def check_torch_is_absent() -> None:
    """Raises EdgeDistilError if torch is loaded in this process."""
    if "torch" in sys.modules:
        raise EdgeDistilError(
            "torch is loaded in the process that scores an artefact; expected onnxruntime alone",
            hint="score it in a fresh process",
        )


def ort_forward(graph: Path, kind: TaskKind, *, threads: int) -> Forward:
    """Returns a function that runs batches through an onnxruntime session on the CPU.

    Args:
        graph: ONNX file.
        kind: Kind of the task, which decides the outputs.
        threads: Threads of one operator; 0: one per core.
    Raises:
        ModelError: The graph does not load.
    """
    options = SessionOptions(threads=threads).to_onnxruntime()
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=list(PROVIDERS))
    # onnxruntime's exceptions have no common base class but Exception.
    except Exception as error:
        raise ModelError(f"{graph} does not load: {str(error).splitlines()[0]}") from error
    inputs = {item.name for item in session.get_inputs()}

    def forward(input_ids: Ids, mask: Ids, type_ids: Ids) -> Logits:
        arrays = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": type_ids}
        # DistilBERT's graph has no token types.
        feeds = {name: array for name, array in arrays.items() if name in inputs}
        return tuple(session.run(list(kind.outputs), feeds))

    return forward
