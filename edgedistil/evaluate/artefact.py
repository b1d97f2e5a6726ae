"""Score the ONNX artefact of a fine-tuned model: onnxruntime, tokenizers and numpy; torch stays out of this path.

Scoring runs in a fresh process, which refuses to go on if torch is loaded there: what is scored is what a device runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import onnxruntime
from tokenizers import Tokenizer

from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.evaluate import squad
from edgedistil.evaluate.encode import Encoded, Ids, encode_texts, open_tokenizer, pad_id
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.scoring import Forward, Logits, Scored, arrays, score_dev
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data

TIMED_EXAMPLES = 100
WARM_UP_CALLS = 5
CONDITIONS = (
    f"the first {TIMED_EXAMPLES} dev examples, one at a time at their own length, one thread, after {WARM_UP_CALLS} "
    "warm-up calls; tokenization left out; p50; the artefacts take turns, PyTorch runs in a process of its own"
)
T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """An artefact's scores and its latency."""

    scored: Scored
    latency_ms: float


def in_fresh_process(work: Callable[..., T], *arguments: Any) -> T:
    """`work(*arguments)` in a process of its own, started anew: nothing that this one has loaded is there."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def score_artefacts(
    spec: TaskSpec, data: Path | None, folder: Path, graphs: Sequence[Path]
) -> list[Timed]:
    """The dev set's scores by each graph alone, and the times of a single example, taken in turns.

    Args:
        folder: Holds `tokenizer.json`.
        graphs: ONNX files of one model.
    Raises:
        EdgeDistilError: torch is loaded in this process.
        ModelError: A graph does not load.
    """
    refuse_torch()
    dev = load_data(spec, data).dev
    tokenizer = open_tokenizer(folder)
    scored = [
        score_dev(
            ort_forward(graph, threads=0),
            tokenizer,
            dev,
            kind=spec.kind,
            metric=spec.metric,
            max_length=spec.training.max_length,
            parts=spec.parts,
        )
        for graph in graphs
    ]
    forwards = [ort_forward(graph, threads=1) for graph in graphs]
    latencies_ms = single_example_ms(forwards, tokenizer, dev, spec)
    refuse_torch()
    return [Timed(each, ms) for each, ms in zip(scored, latencies_ms, strict=True)]


def refuse_torch() -> None:
    """Returns if torch is not loaded here.

    Raises:
        EdgeDistilError: It is: the path that a device runs would be another one.
    """
    if "torch" in sys.modules:
        raise EdgeDistilError(
            "torch is loaded in the process that scores an artefact", hint="score it in a fresh one"
        )


def ort_forward(graph: Path, *, threads: int) -> Forward:
    """Runs batches through a session on the CPU; `threads` 0 leaves the number to onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
    except (
        Exception
    ) as error:  # onnxruntime raises its own kinds, which share no base but Exception
        raise ModelError(f"{graph} does not load: {str(error).splitlines()[0]}") from error
    wanted = {each.name for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    order = ["start_logits", "end_logits"] if "start_logits" in names else ["logits"]

    def forward(input_ids: Ids, mask: Ids, type_ids: Ids) -> Logits:
        named = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": type_ids}
        return tuple(
            session.run(order, {name: array for name, array in named.items() if name in wanted})
        )

    return forward


def single_example_ms(
    forwards: Sequence[Forward], tokenizer: Tokenizer, dev: Sequence[Example], spec: TaskSpec
) -> list[float]:
    """p50 of one call with one dev example, for each model; they take turns, so that a busy moment hits all.

    Conditions: as CONDITIONS says.
    """
    encoded = _first_encoded(tokenizer, dev[:TIMED_EXAMPLES], spec)
    batches = [arrays([each], pad_id(tokenizer)) for each in encoded]
    samples: list[list[float]] = [[] for _ in forwards]
    for batch in [*batches[:WARM_UP_CALLS], *batches]:
        for forward, taken in zip(forwards, samples, strict=True):
            started = time.perf_counter_ns()
            forward(*batch)
            taken.append((time.perf_counter_ns() - started) / 1e6)
    return [median_low(taken[min(WARM_UP_CALLS, len(batches)) :]) for taken in samples]


def _first_encoded(tokenizer: Tokenizer, dev: Sequence[Example], spec: TaskSpec) -> list[Encoded]:
    if spec.kind == "span":
        return [
            squad.windows(tokenizer, example, spec.training.max_length)[0].encoded
            for example in dev
        ]
    return encode_texts(tokenizer, [example.texts for example in dev], spec.training.max_length)
