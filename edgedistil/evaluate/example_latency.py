"""Latency of single dev examples, in the profiler's blocks and with its marks of disturbance."""

from __future__ import annotations

import math
import os
import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.evaluate.encode import Ids, pad_batch, pad_id
from edgedistil.evaluate.examples import Example
from edgedistil.evaluate.scoring import Forward
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.runtime.disturbance import TimedSeries, load_disturbances, series_disturbances
from edgedistil.runtime.protocol import RUNNER, Interference

# One p50 per artefact and seed: 100 calls bound the time that evaluation spends on it. The claims
# about speed are measured by `edgedistil profile`.
TIMED_EXAMPLES = 100
# A multiple of two models, so that both are first equally often.
_BLOCKS = 4
# As in a profile: allocations and caches settle in 3 calls, the processor's clock in 0.3 s.
_WARM_UP_CALLS, _WARM_UP_SECONDS = 3, 0.3
# Far above any evaluation: only a model that hangs ends here.
_MAX_SECONDS = 600.0
CONDITIONS = (
    f"the first {TIMED_EXAMPLES} dev examples, one at a time at their own length, one thread, "
    f"after {_WARM_UP_CALLS} warm-up calls and {_WARM_UP_SECONDS} s; tokenization left out; p50; "
    f"the artefacts take turns in {_BLOCKS} blocks, PyTorch runs in a process of its own; a "
    "disturbed series is measured once more"
)

Batch = tuple[Ids, Ids, Ids]


@dataclass(frozen=True)
class ExampleLatency:
    """Latency of one model.

    Attributes:
        p50_ms: Median call, an observed value.
        disturbed: Signs of other work on the machine in both of two measurements; None without.
    """

    p50_ms: float
    disturbed: str | None


def example_latencies(
    forwards: Sequence[Forward], tokenizer: TextTokenizer, dev: Sequence[Example], spec: TaskSpec
) -> list[ExampleLatency]:
    """Measures the p50 of a call with a single dev example, for each model.

    Args:
        forwards: Models, which take turns so that other load on the machine affects all of them.
        tokenizer: Their tokenizer.
        dev: Dev examples.
        spec: The task.
    Conditions: as CONDITIONS describes.
    """
    max_length = spec.training.max_length
    # One sequence per call and no padding, as a device receives texts.
    sequences = spec.task_kind.first_sequences(tokenizer, dev[:TIMED_EXAMPLES], max_length)
    batches = [pad_batch([sequence], pad_id(tokenizer)) for sequence in sequences]
    latencies, is_disturbed = _measure(forwards, batches)
    if is_disturbed:
        latencies, _ = _measure(forwards, batches)
    return latencies


def _measure(
    forwards: Sequence[Forward], batches: Sequence[Batch]
) -> tuple[list[ExampleLatency], bool]:
    """Returns the latency of each model, and whether the series was disturbed."""
    # The runner is a single file that imports nothing of this package.
    runner = runpy.run_path(str(RUNNER))
    warm_up = runner["WarmUp"](_WARM_UP_CALLS, _WARM_UP_SECONDS)
    turns = runner["take_turns"](
        [(_runner_call(forward), list(batches)) for forward in forwards],
        blocks=_BLOCKS,
        calls_per_block=math.ceil(len(batches) / _BLOCKS),
        max_seconds=_MAX_SECONDS,
        warm_up=warm_up,
    )
    blocks = turns["blocks"]
    series = TimedSeries(
        wall_ns=turns["wall_ns"],
        cpu_ns=turns["cpu_ns"],
        calls=sum(len(samples) for block in blocks for samples in block),
        threads=1,
        interference=Interference.model_validate(turns["interference"]),
    )
    signs = series_disturbances(series)
    signs += load_disturbances(warm_up.other_load, cores=os.cpu_count(), threads=1)
    latencies = []
    for index in range(len(forwards)):
        samples_ns = [sample for block in blocks for sample in block[index]]
        # `median_low` returns an observed value also for an even number of samples.
        latencies.append(ExampleLatency(median_low(samples_ns) / 1e6, "; ".join(signs) or None))
    return latencies, bool(signs)


def _runner_call(forward: Forward) -> Any:
    """Returns a function that the runner calls as it calls a session's `run`."""

    def run(_outputs: None, batch: Batch) -> None:
        forward(*batch)

    return run
