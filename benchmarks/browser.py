"""Compares one thread of WebAssembly in Chromium with one native thread on this machine.

    python benchmarks/browser.py runs/tiny/export/student-feature-extraction/onnx/model_int8.onnx

Both run in rounds, in turn, each in a fresh process; a round's figure is the median of its calls,
and the ratio is the median over the rounds. Aim: at most 2.5 for the int8 student; exit code 3
above it. `--fastest` takes the fastest call of a round, for a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from edgedistil.core.format import mebibytes
from edgedistil.profiling.artefacts import Artefact, file_artefact
from edgedistil.profiling.workload import SAMPLE_TEXT, Workload, build_workloads
from edgedistil.runtime.browser.target import BrowserTarget
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job
from edgedistil.runtime.target import Target

AIM = 2.5


def measure(
    target: Target, artefact: Artefact, workload: Workload, figure: Callable[[list[int]], float]
) -> dict[int, float]:
    """Returns the milliseconds of a call at each length, with one thread."""
    job = Job(
        models={artefact.label: artefact.job_model()},
        cases=[Case(name=str(n), keys=keys) for n, keys in workload.lengths.items()],
        threads=1,
        min_calls=30,
        min_seconds=0.5,
        timeout_seconds=600,
    )
    reply = run_job(target, [artefact], job, workload)
    cases = reply.models[artefact.label].cases
    return {int(name): figure(case.samples_ns) / 1e6 for name, case in cases.items()}


def main() -> None:
    """Measures, prints a table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--length", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fastest", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    targets: dict[str, Target] = {"native": LocalTarget(), "wasm": BrowserTarget.find()}
    figure: Callable[[list[int]], float] = min if options.fastest else statistics.median
    results = []
    for path in options.model:
        artefact = file_artefact(path)
        lengths = options.length or [16, 32, 64, 128, 256]
        workloads = build_workloads(
            [artefact.tokenizer],
            SAMPLE_TEXT.read_text(encoding="utf-8").splitlines(),
            source="the built-in sample text",
            lengths=lengths,
            pairs=1,
        )
        rounds: dict[str, list[dict[int, float]]] = {name: [] for name in targets}
        for _ in range(options.rounds):
            for name, target in targets.items():
                rounds[name].append(measure(target, artefact, workloads.of(artefact), figure))
        print(f"{path} ({mebibytes(artefact.file_bytes)} MiB), one thread")
        for length in lengths:
            times = {name: [part[length] for part in parts] for name, parts in rounds.items()}
            native, wasm = (statistics.median(times[name]) for name in targets)
            ratio = statistics.median(
                w / n for n, w in zip(times["native"], times["wasm"], strict=True)
            )
            print(f"  {length:4} tokens: native {native:8.2f} ms, wasm {wasm:8.2f} ms: {ratio:.2f}")
            results.append(
                {"model": path.name, "tokens": length, "times_ms": times, "ratio": ratio}
            )
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    worst = max(result["ratio"] for result in results)
    print(f"largest ratio {worst:.2f}, aim {AIM}")
    sys.exit(0 if worst <= AIM else 3)


if __name__ == "__main__":
    main()
