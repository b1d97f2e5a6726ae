"""Calls with many texts: measured time and memory against the cost model's, on this machine.

    python benchmarks/bulk.py --prepare            only exports the graphs: slow, once
    python benchmarks/bulk.py [--rounds 3]         about 8 minutes on an idle machine
    python benchmarks/bulk.py --small              one small graph, 1 minute: whether it works

Every shape, precision and length has a process of its own on one thread, in which calls with 1, 4
and 16 texts follow each other; their order turns from round to round. The gain of a batch is its
texts per second against those of single texts in the same process. The null model of the gain is 1:
a call takes as long as its multiply-adds. Memory is the peak of a fresh process for each number of
texts; its null model is the predicted peak of a single text. Prints the judged ratios, and writes a
page and a raw record to benchmarks/results. Constants of the cost model are the shipped ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cost_model_shapes import JUDGED_ENCODERS, Encoder, export_all, shapes_folder
from page import (
    RESULTS,
    argument_parser,
    host_line,
    load_averages,
    today,
    write_page,
    write_raw,
)

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import DeviceFileError
from edgedistil.costmodel.constants import ONNXRUNTIME_CONSTANTS, core_family
from edgedistil.costmodel.memory import memory_band
from edgedistil.costmodel.model import latency_band, predict_seconds
from edgedistil.costmodel.workload import NodeWork
from edgedistil.profiling.counting import count_batches
from edgedistil.runtime import host
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.match import match_device
from edgedistil.runtime.protocol import Case, Job, JobModel, Reply

PRECISIONS = ("fp32", "int8")
BATCHES = (1, 4, 16)
LENGTHS = (16, 64, 256)
VOCABULARY = 30_522
# BERT-base takes ten minutes more and has DistilBERT's widths.
ENCODERS = tuple(e for e in JUDGED_ENCODERS if not e.has_head and e.layers < 12)
_LABEL = "m"


@dataclass(frozen=True)
class Cell:
    """One shape, precision, length and batch: measured and predicted.

    Attributes:
        shape, precision, tokens, texts: What was called.
        ms: Median call, the median of the rounds.
        cpu_ms: Processor time of a call: other work on the machine hardly lengthens it.
        predicted_ms, low_ms, high_ms: Middle and ends of the predicted band.
        gain: Texts per second against single texts, by processor time.
        predicted_gain: The same, predicted.
        peak_bytes, predicted_peak_bytes, null_peak_bytes: Measured peak, predicted one, and the
            predicted peak of a single text.
        peak_inside: Whether the measured peak is inside the predicted band.
    """

    shape: str
    precision: str
    tokens: int
    texts: int
    ms: float
    cpu_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    gain: float
    predicted_gain: float
    peak_bytes: int
    predicted_peak_bytes: float
    null_peak_bytes: float
    peak_inside: bool


@dataclass(frozen=True)
class _Graph:
    path: Path

    def job_files(self) -> dict[str, Path]:
        return {str(self.path): self.path}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--prepare", action="store_true", help="only export the graphs")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions in fresh processes")
    parser.add_argument("--small", action="store_true", help="one small graph, no result files")
    arguments = parser.parse_args()
    export_all(shapes_folder())
    if arguments.prepare:
        return
    spec = match_device(host.identity())
    if spec is None:
        raise DeviceFileError("this machine matches no device file")
    encoders = ENCODERS[-1:] if arguments.small else ENCODERS
    lengths = LENGTHS[:2] if arguments.small else LENGTHS
    load_before = load_averages()
    cells: list[Cell] = []
    total = len(encoders) * len(PRECISIONS) * len(lengths)
    with console.progress("measuring batches", total, unit="graphs") as bar:
        for encoder in encoders:
            for precision in PRECISIONS:
                for length in lengths:
                    bar.note(f"{encoder.name} {precision}, {length} tokens")
                    cells += measure(encoder, precision, length, spec, arguments.rounds)
                    bar.advance()
    text = page(cells, spec, load_before)
    console.result(text)
    if not arguments.small:
        write_page(RESULTS, "bulk", text)
        write_raw(RESULTS, "bulk", {"device": spec.name, "cells": [asdict(cell) for cell in cells]})


# --- measuring -----------------------------------------------------------------------------------


def measure(
    encoder: Encoder, precision: str, length: int, spec: DeviceSpec, rounds: int
) -> list[Cell]:
    """Returns the cells of one graph at one length."""
    graph = encoder.graph(shapes_folder(), precision)
    times: dict[int, list[tuple[float, float]]] = {texts: [] for texts in BATCHES}
    for number in range(rounds):
        start = number % len(BATCHES)
        order = BATCHES[start:] + BATCHES[:start]
        reply = _run(graph, length, order)
        for name, case in reply.models[_LABEL].cases.items():
            median_ms = statistics.median(case.samples_ns) / 1e6
            times[int(name)].append((median_ms, case.cpu_ns / len(case.samples_ns) / 1e6))
    peaks = {texts: _peak(_run(graph, length, (texts,), timed=False)) for texts in BATCHES}
    counted = count_batches(graph, [length], BATCHES)
    work = {texts: counted[length, texts] for texts in BATCHES}
    data = graph.with_name(f"{graph.name}_data")
    file_bytes = graph.stat().st_size + data.stat().st_size

    constants = ONNXRUNTIME_CONSTANTS[core_family(spec)]
    seconds = {n: predict_seconds(work[n], spec, constants, threads=1) for n in BATCHES}
    memory = {n: _memory(file_bytes, work[n], spec) for n in BATCHES}
    cpu_ms = {n: statistics.median(cpu for _, cpu in times[n]) for n in BATCHES}
    cells = []
    for texts in BATCHES:
        band = latency_band(work[texts], spec, constants, threads=1)
        low, high = memory[texts]
        cells.append(
            Cell(
                shape=encoder.name,
                precision=precision,
                tokens=length,
                texts=texts,
                ms=statistics.median(ms for ms, _ in times[texts]),
                cpu_ms=cpu_ms[texts],
                predicted_ms=1000 * seconds[texts],
                low_ms=band.low,
                high_ms=band.high,
                gain=texts * cpu_ms[1] / cpu_ms[texts],
                predicted_gain=texts * seconds[1] / seconds[texts],
                peak_bytes=peaks[texts],
                predicted_peak_bytes=math.sqrt(low * high),
                null_peak_bytes=math.sqrt(math.prod(memory[1])),
                peak_inside=low <= peaks[texts] <= high,
            )
        )
    return cells


def _memory(file_bytes: int, work: Sequence[NodeWork], spec: DeviceSpec) -> tuple[float, float]:
    page_bytes = spec.memory.page_kib.value * 1024
    band = memory_band(file_bytes, external=True, work=work, page_bytes=page_bytes)
    return band.low, band.high


def _run(graph: Path, length: int, batches: Sequence[int], *, timed: bool = True) -> Reply:
    """Runs calls with several numbers of texts in a fresh process."""
    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    for texts in batches:
        ids_BL = random.integers(0, VOCABULARY, (texts, length))
        arrays[f"{texts}/input_ids"] = ids_BL
        arrays[f"{texts}/attention_mask"] = np.ones_like(ids_BL)
        arrays[f"{texts}/token_type_ids"] = np.zeros_like(ids_BL)
    job = Job(
        models={_LABEL: JobModel(file=str(graph))},
        cases=[Case(name=str(texts), keys=[str(texts)]) for texts in batches],
        threads=1,
        warmup_calls=2,
        warmup_seconds=0.3 if timed else 0,
        min_calls=10 if timed else 1,
        min_seconds=0.15 if timed else 0,
        max_seconds=4,
    )
    return run_job(LocalTarget(), [_Graph(graph)], job, NpzInputs(arrays))


def _peak(reply: Reply) -> int:
    peak = reply.models[_LABEL].memory.peak
    assert peak is not None
    return peak


# --- page ----------------------------------------------------------------------------------------


def page(cells: Sequence[Cell], spec: DeviceSpec, load_before: str) -> str:
    """Returns the page: what was judged, and every cell."""
    batches = [cell for cell in cells if cell.texts > 1]
    inside = sum(cell.low_ms <= cell.cpu_ms <= cell.high_ms for cell in cells)
    model = _median_off([cell.predicted_gain / cell.gain for cell in batches])
    null = _median_off([1 / cell.gain for cell in batches])
    peak = _median_off([cell.predicted_peak_bytes / cell.peak_bytes for cell in batches])
    null_peak = _median_off([cell.null_peak_bytes / cell.peak_bytes for cell in batches])
    peaks_inside = sum(cell.peak_inside for cell in batches)
    lines = [
        "# Calls with many texts: measured and predicted",
        "",
        f"{today()}, {host_line()}, device file `{spec.name}`, one thread. Load before "
        f"{load_before}, after {load_averages()}. Made by `python benchmarks/bulk.py`.",
        "",
        f"- Time of a call: {inside} of {len(cells)} inside the predicted band.",
        f"- Gain of a batch: predicted off by {model:.1%} (median), null model (no gain) off by "
        f"{null:.1%}.",
        f"- Peak memory: {peaks_inside} of {len(batches)} inside the band; predicted off by "
        f"{peak:.1%} (median), null model (as of a single text) by {null_peak:.1%}.",
        "",
        "| shape | precision | tokens | texts | ms | processor ms | predicted (band) | gain | "
        "predicted | off | peak MiB | predicted | off |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_line, cells), ""])


def _median_off(ratios: Sequence[float]) -> float:
    return statistics.median(abs(ratio - 1) for ratio in ratios)


def _line(cell: Cell) -> str:
    parts = [
        cell.shape,
        cell.precision,
        str(cell.tokens),
        str(cell.texts),
        f"{cell.ms:.2f}",
        f"{cell.cpu_ms:.2f}",
        f"{cell.predicted_ms:.2f} ({cell.low_ms:.2f}–{cell.high_ms:.2f})",
        f"{cell.gain:.2f}",
        f"{cell.predicted_gain:.2f}",
        f"{cell.predicted_gain / cell.gain - 1:+.0%}",
        f"{cell.peak_bytes / 2**20:.0f}",
        f"{cell.predicted_peak_bytes / 2**20:.0f}",
        f"{cell.predicted_peak_bytes / cell.peak_bytes - 1:+.0%}",
    ]
    return f"| {' | '.join(parts)} |"


if __name__ == "__main__":
    main()
