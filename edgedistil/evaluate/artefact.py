"""Scores ONNX artefacts of fine-tuned models with onnxruntime, tokenizers and numpy.

Scoring runs in a fresh process and raises an error if torch is loaded there, so what is scored is
what a device runs (docs/decisions.md#one-scoring-path).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import onnxruntime

from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.core.session import PROVIDERS, SessionOptions
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate.encode import Ids, open_tokenizer, pad_batch, pad_id
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.kind import TaskKind
from edgedistil.evaluate.scoring import DevScores, Forward, Logits
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data
from edgedistil.evaluate.workers import worker_pool

# One p50 per artefact and seed: 100 calls bound the time that evaluation spends on it. The claims
# about speed are measured by `edgedistil profile`.
TIMED_EXAMPLES = 100
# Allocations and caches settle within the first few calls.
WARM_UP_CALLS = 5
CONDITIONS = (
    f"the first {TIMED_EXAMPLES} dev examples, one at a time at their own length, one thread, "
    f"after {WARM_UP_CALLS} warm-up calls; tokenization left out; p50; the artefacts take turns, "
    "PyTorch runs in a process of its own"
)
T = TypeVar("T")


@dataclass(frozen=True)
class ArtefactResult:
    """Scores and latency of one artefact.

    Attributes:
        scores: Scores on the dev set.
        latency_ms: p50 of single dev examples, as CONDITIONS describes.
    """

    scores: DevScores
    latency_ms: float


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
    latencies_ms = single_example_ms(forwards, tokenizer, dev, spec)

    # Nothing that was called above may have imported it either.
    check_torch_is_absent()
    return [ArtefactResult(*result) for result in zip(scores, latencies_ms, strict=True)]


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


def single_example_ms(
    forwards: Sequence[Forward], tokenizer: TextTokenizer, dev: Sequence[Example], spec: TaskSpec
) -> list[float]:
    """Measures the p50 of a call with a single dev example, for each model.

    Args:
        forwards: Models, which take turns so that other load on the machine affects all of them.
        tokenizer: Their tokenizer.
        dev: Dev examples.
        spec: The task.
    Returns:
        Milliseconds, one figure for each model; an observed value.
    Conditions: as CONDITIONS describes.
    """
    max_length = spec.training.max_length
    # One sequence per call and no padding, as a device receives texts.
    sequences = spec.task_kind.first_sequences(tokenizer, dev[:TIMED_EXAMPLES], max_length)
    batches = [pad_batch([sequence], pad_id(tokenizer)) for sequence in sequences]
    _call_in_turns(forwards, batches[:WARM_UP_CALLS])
    # `median_low` returns an observed value also for an even number of samples.
    return [median_low(samples) for samples in _call_in_turns(forwards, batches)]


def _call_in_turns(
    forwards: Sequence[Forward], batches: Sequence[tuple[Ids, Ids, Ids]]
) -> list[list[float]]:
    """Runs each batch through all models; returns each model's times in milliseconds."""
    samples_ms: list[list[float]] = [[] for _ in forwards]
    for batch in batches:
        for forward, samples in zip(forwards, samples_ms, strict=True):
            started_ns = time.perf_counter_ns()
            forward(*batch)
            samples.append((time.perf_counter_ns() - started_ns) / 1e6)
    return samples_ms
