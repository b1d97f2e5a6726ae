"""Measurements that `cost_model.py` needs from this machine: times of encoders and ratios of pairs.

    python benchmarks/cost_model_host.py --tokenizer FOLDER [--rounds 2] [--blocks 12]

Writes benchmarks/results/cost_model_host.json. Everything runs on one thread. The shapes that
constants are fitted on run alone in a process; the two models of a judged pair take turns in one
process, as in `edgedistil profile`. Takes about five minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cost_model_shapes import FITTED, JUDGED, PRECISIONS, Encoder, export_all
from page import RESULTS, argument_parser, today

from edgedistil.core import console
from edgedistil.core.places import cache_root
from edgedistil.core.records import provenance
from edgedistil.core.rundir import write_json
from edgedistil.core.text import read_lines
from edgedistil.profiling import workload
from edgedistil.profiling.latency import process_ratio, speed_ratio
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel, Reply
from edgedistil.runtime.target import raise_failure

OUT = RESULTS / "cost_model_host.json"
LENGTHS = (16, 32, 64, 128, 256)
TEACHER, STUDENT = "teacher", "student"

# (shape or pair, precision, tokens): what one figure is about.
Key = tuple[str, str, int]
# Milliseconds of (teacher, student) in one block.
Block = tuple[float, float]


def main() -> None:
    arguments = parse_arguments()
    export_all(shapes_folder())
    if arguments.export_only:
        return
    load_before = os.getloadavg()[0]
    work = workload.build_workload(
        arguments.tokenizer,
        read_lines(workload.SAMPLE_TEXT),
        source="built-in",
        lengths=LENGTHS,
        pairs=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)
        alone, pairs = measure(work, inputs, rounds=arguments.rounds, blocks=arguments.blocks)
    source = provenance("python benchmarks/cost_model_host.py")
    content = {
        "day": today(),
        "cpu": source.host.cpu,
        "kernels": host.conditions()["kernels"],
        "versions": source.versions,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "rounds": arguments.rounds,
        "blocks": arguments.blocks,
        "fitted": fitted_rows(alone),
        "pairs": pair_rows(pairs),
    }
    write_json(OUT, content)
    console.result(f"{OUT}: {len(alone)} times, {len(pairs)} ratios")


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--rounds", type=int, default=2, help="repetitions of everything, in fresh processes"
    )
    parser.add_argument(
        "--blocks", type=int, default=12, help="blocks in which a pair takes turns, per round"
    )
    parser.add_argument("--export-only", action="store_true", help="only export the models")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder of a BERT's tokenizer"
    )
    return parser.parse_args()


def shapes_folder() -> Path:
    """Folder of the exported shapes, in the cache."""
    return cache_root() / "benchmarks" / "cost_model_shapes"


# --- measuring -----------------------------------------------------------------------------------


def measure(
    work: workload.Workload, inputs: Path, *, rounds: int, blocks: int
) -> tuple[dict[Key, list[list[float]]], dict[Key, list[list[Block]]]]:
    """Measures all shapes and pairs.

    Returns:
        Milliseconds of every call, and of every block, by key and round.
    """
    alone: dict[Key, list[list[float]]] = defaultdict(list)
    pairs: dict[Key, list[list[Block]]] = defaultdict(list)
    processes = rounds * len(PRECISIONS) * (len(FITTED) + len(JUDGED))
    with console.progress("measuring shapes", processes, unit="processes") as bar:
        for _ in range(rounds):
            for precision in PRECISIONS:
                for encoder in FITTED:
                    times = run_alone(encoder, precision, work, inputs)
                    for length, milliseconds in times.items():
                        alone[encoder.name, precision, length].append(milliseconds)
                    bar.advance()
                for name, pair in JUDGED.items():
                    ratios = run_in_turns(pair, precision, work, inputs, blocks)
                    for length, block_times in ratios.items():
                        pairs[name, precision, length].append(block_times)
                    bar.advance()
    return alone, pairs


def run_alone(
    encoder: Encoder, precision: str, work: workload.Workload, inputs: Path
) -> dict[int, list[float]]:
    """Milliseconds of every call at each length, in a process of its own."""
    job = Job(
        models={STUDENT: JobModel(file=f"{STUDENT}/model.onnx")},
        cases=[Case(name=str(length), keys=keys) for length, keys in work.lengths.items()],
        min_calls=12,
        min_seconds=0.15,
        max_seconds=4,
    )
    reply = _run(job, {STUDENT: encoder.graph(shapes_folder(), precision)}, inputs)
    times = {}
    for name, case in reply.models[STUDENT].cases.items():
        times[int(name)] = [nanoseconds / 1e6 for nanoseconds in case.samples_ns]
    return times


def run_in_turns(
    pair: tuple[Encoder, Encoder],
    precision: str,
    work: workload.Workload,
    inputs: Path,
    blocks: int,
) -> dict[int, list[Block]]:
    """Milliseconds of both models in each block and length: the fastest call of the block."""
    alternations = [
        Alternation(
            name=str(length),
            first=TEACHER,
            second=STUDENT,
            keys=keys,
            blocks=blocks,
            # Short inputs need more calls per block for the same duration.
            calls_per_block=max(3, min(12, 512 // length)),
        )
        for length, keys in work.lengths.items()
    ]
    job = Job(
        models={label: JobModel(file=f"{label}/model.onnx") for label in (TEACHER, STUDENT)},
        cases=[Case(name="first", keys=work.lengths[LENGTHS[0]])],
        phases=[],
        alternate=alternations,
    )
    teacher, student = (encoder.graph(shapes_folder(), precision) for encoder in pair)
    reply = _run(job, {TEACHER: teacher, STUDENT: student}, inputs)
    times = {}
    for result in reply.alternation:
        times[int(result.name)] = [
            (min(block.first_ns) / 1e6, min(block.second_ns) / 1e6) for block in result.blocks
        ]
    return times


def _run(job: Job, graphs: Mapping[str, Path], inputs: Path) -> Reply:
    files = {f"{label}/model.onnx": path for label, path in graphs.items()}
    target = LocalTarget()
    reply = target.run(job, {"inputs.npz": inputs, **files})
    raise_failure(reply, source=target.source)
    return reply


# --- rows of the result file ---------------------------------------------------------------------


def fitted_rows(alone: Mapping[Key, Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """Median over the rounds of each round's median."""
    rows = []
    for (shape, precision, tokens), rounds in alone.items():
        medians = [statistics.median(milliseconds) for milliseconds in rounds]
        rows.append(
            {
                "shape": shape,
                "precision": precision,
                "tokens": tokens,
                "ms": statistics.median(medians),
                "rounds_ms": [round(median, 4) for median in medians],
            }
        )
    return rows


def pair_rows(pairs: Mapping[Key, Sequence[Sequence[Block]]]) -> list[dict[str, Any]]:
    """Speed ratio of each pair with its interval, over all rounds and in each round."""
    rows = []
    for (pair, precision, tokens), rounds in pairs.items():
        ratio = speed_ratio(rounds)
        blocks = list(chain.from_iterable(rounds))
        rows.append(
            {
                "pair": pair,
                "precision": precision,
                "tokens": tokens,
                "ratio": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
                "rounds": [round(process_ratio(part), 4) for part in rounds],
                "teacher_ms": statistics.median(teacher for teacher, _ in blocks),
                "student_ms": statistics.median(student for _, student in blocks),
            }
        )
    return rows


if __name__ == "__main__":
    main()
