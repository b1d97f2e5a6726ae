"""Measurements that `cost_model.py` needs from this machine: times of encoders and ratios of pairs.

    python benchmarks/cost_model_host.py --tokenizer FOLDER [--rounds 2] [--blocks 12]

Writes benchmarks/results/cost_model_host.DEVICE.json, DEVICE being the device file that this
machine matches. Every shape runs alone in a process on one thread, the judged shapes on all cores
too; the two models of a judged pair take turns in one process on one thread, as in
`edgedistil profile`. A row has the median call and, on one thread, the processor time of a call:
other work on the machine lengthens the first and hardly the second. Takes about ten minutes on a
quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cost_model_shapes import FITTED, JUDGED, JUDGED_ENCODERS, Encoder, export_all, shapes_folder
from cost_model_work import LENGTHS, PRECISIONS, record_path
from page import argument_parser, today

from edgedistil.core import console
from edgedistil.core.errors import DeviceFileError
from edgedistil.core.records import provenance
from edgedistil.core.rundir import write_json
from edgedistil.core.text import read_lines
from edgedistil.profiling import workload
from edgedistil.profiling.latency import process_ratio, speed_ratio
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.match import match_device
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel, Reply
from edgedistil.runtime.target import raise_failure

TEACHER, STUDENT = "teacher", "student"

# (shape, precision, threads, tokens), or (pair, precision, tokens): what one figure is about.
AloneKey = tuple[str, str, int, int]
PairKey = tuple[str, str, int]
# Milliseconds of (teacher, student) in one block.
Block = tuple[float, float]


@dataclass(frozen=True)
class Times:
    """Times of one shape at one length in one process.

    Attributes:
        p50_ms: Median call.
        cpu_ms: Processor time of a call, over all threads.
    """

    p50_ms: float
    cpu_ms: float


def main() -> None:
    arguments = parse_arguments()
    export_all(shapes_folder())
    if arguments.export_only:
        return
    device = arguments.device or this_device()
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
        threads = 1 if arguments.one_thread else host.usable_threads()
        alone, pairs = measure(
            work, inputs, rounds=arguments.rounds, blocks=arguments.blocks, threads=threads
        )
    source = provenance("python benchmarks/cost_model_host.py")
    content = {
        "day": today(),
        "device": device,
        "cpu": source.host.cpu,
        "kernels": host.conditions()["kernels"],
        "versions": source.versions,
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "rounds": arguments.rounds,
        "blocks": arguments.blocks,
        "alone": alone_rows(alone),
        "pairs": pair_rows(pairs),
    }
    path = record_path(device)
    write_json(path, content)
    console.result(f"{path}: {len(alone)} times, {len(pairs)} ratios")


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--rounds", type=int, default=2, help="repetitions of everything, in fresh processes"
    )
    parser.add_argument(
        "--blocks", type=int, default=12, help="blocks in which a pair takes turns, per round"
    )
    parser.add_argument(
        "--one-thread", action="store_true", help="no rows on all cores: for a busy machine"
    )
    parser.add_argument("--export-only", action="store_true", help="only export the models")
    parser.add_argument("--device", help="device file of this machine, if it matches none")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder of a BERT's tokenizer"
    )
    return parser.parse_args()


def this_device() -> str:
    """Name of the device file that this machine matches."""
    spec = match_device(host.identity())
    if spec is None:
        raise DeviceFileError("this machine matches no device file", hint="pass --device NAME")
    return spec.name


# --- measuring -----------------------------------------------------------------------------------


def measure(
    work: workload.Workload, inputs: Path, *, rounds: int, blocks: int, threads: int
) -> tuple[dict[AloneKey, list[Times]], dict[PairKey, list[list[Block]]]]:
    """Measures all shapes and pairs.

    Args:
        work: The inputs, which are stored in the file `inputs`.
        inputs: See above.
        rounds: Repetitions in fresh processes.
        blocks: Blocks in which a pair takes turns, per round.
        threads: Threads at which the judged shapes are measured besides one.
    Returns:
        Times of every shape and blocks of every pair, by round.
    """
    alone: dict[AloneKey, list[Times]] = defaultdict(list)
    pairs: dict[PairKey, list[list[Block]]] = defaultdict(list)
    runs = [(encoder, 1) for encoder in (*FITTED, *JUDGED_ENCODERS)]
    if threads > 1:
        runs += [(encoder, threads) for encoder in JUDGED_ENCODERS]
    processes = rounds * len(PRECISIONS) * (len(runs) + len(JUDGED))
    with console.progress("measuring shapes", processes, unit="processes") as bar:
        for _ in range(rounds):
            for precision in PRECISIONS:
                for encoder, count in runs:
                    times = run_alone(encoder, precision, work, inputs, threads=count)
                    for length, figures in times.items():
                        alone[encoder.name, precision, count, length].append(figures)
                    bar.advance()
                for name, pair in JUDGED.items():
                    ratios = run_in_turns(pair, precision, work, inputs, blocks)
                    for length, block_times in ratios.items():
                        pairs[name, precision, length].append(block_times)
                    bar.advance()
    return alone, pairs


def run_alone(
    encoder: Encoder, precision: str, work: workload.Workload, inputs: Path, *, threads: int
) -> dict[int, Times]:
    """Times at each length, in a process of its own."""
    job = Job(
        models={STUDENT: JobModel(file=f"{STUDENT}/model.onnx")},
        cases=[Case(name=str(length), keys=keys) for length, keys in work.lengths.items()],
        threads=threads,
        min_calls=12,
        min_seconds=0.15,
        max_seconds=4,
    )
    reply = _run(job, {STUDENT: encoder.graph(shapes_folder(), precision)}, inputs)
    times = {}
    for name, case in reply.models[STUDENT].cases.items():
        calls = len(case.samples_ns)
        median_ns = statistics.median(case.samples_ns)
        times[int(name)] = Times(p50_ms=median_ns / 1e6, cpu_ms=case.cpu_ns / calls / 1e6)
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


def alone_rows(alone: Mapping[AloneKey, Sequence[Times]]) -> list[dict[str, Any]]:
    """Medians over the rounds."""
    rows = []
    for (shape, precision, threads, tokens), rounds in alone.items():
        row: dict[str, Any] = {
            "shape": shape,
            "precision": precision,
            "threads": threads,
            "tokens": tokens,
            "ms": round(statistics.median(times.p50_ms for times in rounds), 4),
            "rounds_ms": [round(times.p50_ms, 4) for times in rounds],
        }
        if threads == 1:
            row["cpu_ms"] = round(statistics.median(times.cpu_ms for times in rounds), 4)
        rows.append(row)
    return rows


def pair_rows(pairs: Mapping[PairKey, Sequence[Sequence[Block]]]) -> list[dict[str, Any]]:
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
