"""What `cost_model.py` needs from this machine: times of encoders to fit constants on, ratios of pairs to judge by.

    python benchmarks/cost_model_host.py [--rounds 2] [--blocks 12]      writes benchmarks/results/cost_model_host.json

One thread. Fitted shapes run alone in a process; judged pairs take turns in one process, as in `profile`. Wants a
quiet machine: about five minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cost_model_shapes import FITTED, JUDGED, PRECISIONS, Encoder, make_all

from edgedistil.core import console
from edgedistil.core.assets import cache_root
from edgedistil.core.records import provenance
from edgedistil.core.rundir import write_json
from edgedistil.core.text import read_lines
from edgedistil.profiling import workload
from edgedistil.profiling.latency import speed_ratio
from edgedistil.runtime import host
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Alternation, Case, Job, JobModel, Reply
from edgedistil.runtime.target import raise_failure

OUT = Path(__file__).parent / "results" / "cost_model_host.json"
LENGTHS = (16, 32, 64, 128, 256)


def shapes_place() -> Path:
    return cache_root() / "benchmarks" / "cost_model_shapes"


def _alone(
    encoder: Encoder, precision: str, work: workload.Workload, inputs: Path
) -> dict[int, list[float]]:
    """Milliseconds of every call at each length, in a process of its own."""
    job = Job(
        models={"one": JobModel(file="one/model.onnx")},
        cases=[Case(name=str(length), keys=keys) for length, keys in work.lengths.items()],
        min_calls=12,
        min_seconds=0.15,
        max_seconds=4,
    )
    reply = _run(job, {"one": encoder.graph(shapes_place(), precision)}, inputs)
    cases = reply.models["one"].cases
    return {int(name): [each / 1e6 for each in case.samples_ns] for name, case in cases.items()}


def _in_turns(
    pair: Sequence[Encoder], precision: str, work: workload.Workload, inputs: Path, blocks: int
) -> dict[int, list[tuple[float, float]]]:
    """Per length the two models' times in each block: the fastest of its calls."""
    labels = ("teacher", "student")
    job = Job(
        models={label: JobModel(file=f"{label}/model.onnx") for label in labels},
        cases=[Case(name="first", keys=work.lengths[LENGTHS[0]])],
        phases=[],
        alternate=[
            Alternation(
                name=str(length),
                first=labels[0],
                second=labels[1],
                keys=keys,
                blocks=blocks,
                calls_per_block=max(3, min(12, 512 // length)),
            )
            for length, keys in work.lengths.items()
        ],
    )
    graphs = {
        label: each.graph(shapes_place(), precision)
        for label, each in zip(labels, pair, strict=True)
    }
    reply = _run(job, graphs, inputs)
    return {
        int(answer.name): [
            (min(block.first_ns) / 1e6, min(block.second_ns) / 1e6) for block in answer.blocks
        ]
        for answer in reply.alternation
    }


def _run(job: Job, graphs: dict[str, Path], inputs: Path) -> Reply:
    target = LocalTarget()
    reply = target.run(
        job,
        {"inputs.npz": inputs, **{f"{label}/model.onnx": path for label, path in graphs.items()}},
    )
    raise_failure(reply, source=target.source)
    return reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=2, help="of everything, each in fresh processes"
    )
    parser.add_argument(
        "--blocks", type=int, default=12, help="in which a pair takes turns, a round"
    )
    parser.add_argument("--make", action="store_true", help="only make the models")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of a BERT")
    asked = parser.parse_args()
    make_all(shapes_place())
    if asked.make:
        return
    load = os.getloadavg()[0]
    work = workload.build_workload(
        asked.tokenizer,
        read_lines(workload.SAMPLE_TEXT),
        source="built-in",
        lengths=LENGTHS,
        pairs=1,
    )
    alone: dict[tuple[str, str, int], list[list[float]]] = {}
    turns: dict[tuple[str, str, int], list[list[tuple[float, float]]]] = {}
    jobs = asked.rounds * len(PRECISIONS) * (len(FITTED) + len(JUDGED))
    with (
        tempfile.TemporaryDirectory() as folder,
        console.progress("measuring shapes", jobs, unit="processes") as bar,
    ):
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)
        for _ in range(asked.rounds):
            for precision in PRECISIONS:
                for each in FITTED:
                    for length, samples in _alone(each, precision, work, inputs).items():
                        alone.setdefault((each.name, precision, length), []).append(samples)
                    bar.advance()
                for name, *pair in JUDGED:
                    for length, blocks in _in_turns(
                        pair, precision, work, inputs, asked.blocks
                    ).items():
                        turns.setdefault((name, precision, length), []).append(blocks)
                    bar.advance()
    made = provenance("python benchmarks/cost_model_host.py")
    write_json(
        OUT,
        {
            **_about(made.versions, made.host.cpu, load, asked),
            "fitted": _times(alone),
            "pairs": _pairs(turns),
        },
    )
    console.result(f"{OUT}: {len(alone)} times, {len(turns)} ratios")


def _about(
    versions: dict[str, str], cpu: str, load: float, asked: argparse.Namespace
) -> dict[str, Any]:
    return {
        "day": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu,
        "kernels": host.conditions()["kernels"],
        "versions": versions,
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "rounds": asked.rounds,
        "blocks": asked.blocks,
    }


def _times(alone: dict[tuple[str, str, int], list[list[float]]]) -> list[dict[str, Any]]:
    """The median over rounds of each round's median."""
    return [
        {
            **dict(zip(("shape", "precision", "tokens"), key, strict=True)),
            "ms": statistics.median(statistics.median(samples) for samples in rounds),
            "rounds_ms": [round(statistics.median(samples), 4) for samples in rounds],
        }
        for key, rounds in alone.items()
    ]


def _pairs(
    turns: dict[tuple[str, str, int], list[list[tuple[float, float]]]],
) -> list[dict[str, Any]]:
    found = []
    for key, rounds in turns.items():
        ratio = speed_ratio(rounds)
        everything = [block for blocks in rounds for block in blocks]
        found.append(
            {
                **dict(zip(("pair", "precision", "tokens"), key, strict=True)),
                "ratio": ratio.value,
                "low": ratio.low,
                "high": ratio.high,
                "rounds": [round(speed_ratio([blocks]).value, 4) for blocks in rounds],
                "teacher_ms": statistics.median(first for first, _ in everything),
                "student_ms": statistics.median(second for _, second in everything),
            }
        )
    return found


if __name__ == "__main__":
    main()
