"""Accuracy of `distill --plan` on this machine: planned against real seconds and peak memory.

    python benchmarks/plan_accuracy.py [--steps 30] [--repeats 1]

Plan and run alternate, each in a process of its own, so that peaks are separate: recipes/mlm.toml
with fewer steps, its variants, and a teacher of BERT-base's shape with random weights, which cost
the same as trained ones. Writes benchmarks/results/plan_accuracy-DATE.md. The aim is a ratio
between 0.75 and 1.25. Other work on the machine falsifies the seconds: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from page import (
    RESULTS,
    argument_parser,
    host_line,
    load_averages,
    system_line,
    today,
    write_page,
    write_raw,
)
from transformers import BertConfig, BertForMaskedLM

from edgedistil.core.places import cache_root
from edgedistil.models.teacher import load_teacher

LOWEST, HIGHEST = 0.75, 1.25
# Programs of the child processes; each prints a record as JSON on its last line.
_LOAD = "import sys, edgedistil; recipe = edgedistil.load_recipe('mlm', sys.argv[1:]); "
PLAN_PROGRAM = _LOAD + "print(edgedistil.plan(recipe).model_dump_json())"
RUN_PROGRAM = _LOAD + "print(edgedistil.distill(recipe)[1].model_dump_json())"
COLUMNS = (
    "case",
    "steps",
    "tokens/s",
    "planned s",
    "real s",
    "planned/real",
    "planned MiB",
    "real MiB",
    "planned/real",
)


@dataclass(frozen=True)
class Pair:
    """A plan and the run that it estimated."""

    case: str
    steps: int
    tokens_per_s: float
    planned_s: float
    real_s: float
    planned_bytes: int
    real_bytes: int

    @property
    def seconds_ratio(self) -> float:
        return self.planned_s / self.real_s

    @property
    def memory_ratio(self) -> float:
        return self.planned_bytes / self.real_bytes


def main() -> None:
    arguments = parse_arguments()
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "bert-base-random"
        write_base_teacher(base)
        for _ in range(arguments.repeats):
            for name, overrides in cases(arguments.steps, base).items():
                if arguments.case is None or arguments.case in name:
                    pairs.append(plan_and_run(name, overrides))
    page = render(pairs, arguments)
    print(page)
    if arguments.case is None:
        write_page(RESULTS, "plan_accuracy", page)
        write_raw(RESULTS, "plan_accuracy", {"pairs": pairs})


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=30, help="steps of the longest case")
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of all cases")
    parser.add_argument(
        "--case", help="only cases whose name contains this; the page is then not written"
    )
    return parser.parse_args()


def cases(steps: int, base: Path) -> dict[str, list[str]]:
    """Name of each case → overrides of recipes/mlm.toml."""
    # The quality of the teacher's head does not matter here, so it is fitted for one step.
    short_evaluation = ["train.heldout_tokens=8192", "teacher.fit.steps=1"]
    base_teacher = [
        f'teacher.source="{base}"',
        'teacher.mlm_head="own"',
        "train.global_batch=16",
        "train.micro_batch=16",
    ]
    return {
        "MiniLM → 3 layers, masked positions": [f"train.steps={steps}", *short_evaluation],
        "the same in micro-batches of 8": [
            f"train.steps={steps // 2}",
            "train.micro_batch=8",
            *short_evaluation,
        ],
        "the same, all positions": [
            f"train.steps={steps // 2}",
            'loss.positions="all"',
            *short_evaluation,
        ],
        "BERT-base → 6 layers, masked positions": [
            f"train.steps={max(1, steps // 4)}",
            *base_teacher,
            *short_evaluation,
        ],
    }


def write_base_teacher(folder: Path) -> None:
    """Writes a BERT-base with random weights and the tokenizer of the small teacher."""
    small = load_teacher("asset:minilm", revision=None, cache=cache_root())
    torch.manual_seed(5)
    config = BertConfig(vocab_size=small.tokenizer.size, max_position_embeddings=512)
    BertForMaskedLM(config).save_pretrained(folder)
    for file in small.folder.iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            shutil.copy(file, folder / file.name)


# --- measuring -----------------------------------------------------------------------------------


def plan_and_run(case: str, overrides: Sequence[str]) -> Pair:
    """Plans and runs one case, in two processes."""
    with tempfile.TemporaryDirectory() as folder:
        planned = record_of_process(PLAN_PROGRAM, overrides, Path(folder))["devices"][0]
        real = record_of_process(RUN_PROGRAM, overrides, Path(folder))
    pair = Pair(
        case=case,
        steps=real["steps"],
        tokens_per_s=real["tokens_per_s"],
        planned_s=planned["seconds"],
        real_s=real["seconds"],
        planned_bytes=planned["memory_bytes"],
        real_bytes=real["peak_memory_bytes"],
    )
    ratios = f"seconds {pair.seconds_ratio:.2f} memory {pair.memory_ratio:.2f}"
    print(f"{pair} {ratios}", file=sys.stderr, flush=True)
    return pair


def record_of_process(program: str, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs a program in a fresh process and returns the record that it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", program, *overrides],
        env={**os.environ, "EDGEDISTIL_RUNS": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


# --- page ----------------------------------------------------------------------------------------


def render(pairs: Sequence[Pair], arguments: argparse.Namespace) -> str:
    """Renders the result page with the verdict on the aim."""
    missed = list(missed_aims(pairs))
    verdict = "met by all"
    if missed:
        verdict = f"**missed** by {', '.join(missed)}"
    lines = [
        f"# `distill --plan` compared with the run, {today()}",
        "",
        f"{host_line(cores=torch.get_num_threads())}, {system_line()}, torch {torch.__version__},"
        f" transformers {transformers.__version__}.",
        "Command: `python benchmarks/plan_accuracy.py"
        f" --steps {arguments.steps} --repeats {arguments.repeats}`",
        f"Load at the end: {load_averages()}. Plan and run alternate, each in a process of its own,"
        " on recipes/mlm.toml with these steps and 8,192 held-out tokens.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
        *(pair_line(pair) for pair in pairs),
        "",
        f"The aim, planned/real between {LOWEST} and {HIGHEST} for seconds and memory: {verdict}.",
    ]
    return "\n".join(lines) + "\n"


def pair_line(pair: Pair) -> str:
    return (
        f"| {pair.case} | {pair.steps} | {pair.tokens_per_s:,.0f}"
        f" | {pair.planned_s:.1f} | {pair.real_s:.1f} | {pair.seconds_ratio:.2f}"
        f" | {pair.planned_bytes / 2**20:,.0f} | {pair.real_bytes / 2**20:,.0f}"
        f" | {pair.memory_ratio:.2f} |"
    )


def missed_aims(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yields each ratio that is outside the aim."""
    for pair in pairs:
        for figure, ratio in (("seconds", pair.seconds_ratio), ("memory", pair.memory_ratio)):
            if not LOWEST <= ratio <= HIGHEST:
                yield f"{pair.case} ({figure} {ratio:.2f})"


if __name__ == "__main__":
    main()
