"""Tokens per second of the demo's distillation: one process with two threads, or two with one each.

    python benchmarks/threads_or_processes.py [--steps 40] [--rounds 2] [--write]

Both learn the same batches (recipes/tiny.toml, global batch 16, one precision) and take turns, each
in processes of its own; figures are of the training loop alone, by its record. About three minutes
on two quiet cores; other work on them falsifies the figures. With --write the record goes to
benchmarks/results/threads_or_processes-DATE.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from page import RESULTS, argument_parser, load_averages, write_raw

# Variant → (processes, threads of each).
VARIANTS = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
# One short evaluation at the beginning and one at the end, so that the loop is the training.
SETTINGS = {
    "train.precision": '"bfloat16"',
    "train.heldout_tokens": "2048",
    "train.evaluate_every": "1000000",
    "train.checkpoint_minutes": "1000",
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each variant")
    parser.add_argument("--write", action="store_true", help="write the record")
    arguments = parser.parse_args()

    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(arguments.rounds):
        for name, (processes, threads) in VARIANTS.items():
            rate = tokens_per_s(processes, threads, steps=arguments.steps)
            rates[name].append(rate)
            print(f"round {number + 1}: {name}: {rate:,.0f} tokens/s", flush=True)

    medians = {name: statistics.median(values) for name, values in rates.items()}
    first, second = medians.values()
    print(f"two processes / two threads: {second / first:.2f}; {load_averages()}")
    if arguments.write:
        content = {"steps": arguments.steps, "tokens_per_s": rates}
        print(write_raw(RESULTS, "threads_or_processes", content))


def tokens_per_s(processes: int, threads: int, *, steps: int) -> float:
    """Distils for some steps in a temporary folder; returns the tokens per second of the loop."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "EDGEDISTIL_RUNS": folder,
            "OMP_NUM_THREADS": str(threads),
        }
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        # The dashes end torchrun's own options.
        command += ["-m", *(["--"] if processes > 1 else []), "edgedistil", "distill", "tiny"]
        for key, value in {**SETTINGS, "train.steps": str(steps)}.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        record: dict[str, Any] = json.loads((Path(folder) / "tiny" / "distill.json").read_text())
    return float(record["tokens_per_s"])


if __name__ == "__main__":
    main()
