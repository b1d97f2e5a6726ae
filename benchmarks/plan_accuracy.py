"""How far `distill --plan` is from the run itself, on this machine: seconds and peak memory.

    python benchmarks/plan_accuracy.py [--steps 30] [--repeats 1]

Plan, run, plan, run …, each in a process of its own so that peaks are theirs: recipes/tiny.toml with fewer steps, its
variants, and a teacher of BERT-base's shape with random weights, which cost the same as trained ones. Writes
benchmarks/results/plan_accuracy-DATE.md. Ratios within 0.75 and 1.25 are the aim. Other work on the machine spoils the
seconds: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertForMaskedLM

from edgedistil.core.assets import cache_root
from edgedistil.core.records import this_host
from edgedistil.models.teacher import load_teacher

RESULTS = Path(__file__).parent / "results"
LOWEST, HIGHEST = 0.75, 1.25
PLAN = "import sys; from edgedistil.distill.stage import plan; from edgedistil.core.recipe import load_recipe; "
PLAN += "print(plan(load_recipe('tiny', sys.argv[1:])).model_dump_json())"
RUN = "import sys; from edgedistil.distill.stage import distill; from edgedistil.core.recipe import load_recipe; "
RUN += "print(distill(load_recipe('tiny', sys.argv[1:]), run_name=None, resume=False)[1].model_dump_json())"


@dataclass(frozen=True)
class Pair:
    """A plan and the run it foretold."""

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


def answer(code: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    """The record that a fresh process prints as its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides],
        env={**os.environ, "EDGEDISTIL_RUNS": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def pair(case: str, overrides: list[str]) -> Pair:
    with tempfile.TemporaryDirectory() as folder:
        planned = answer(PLAN, overrides, Path(folder))["devices"][0]
        real = answer(RUN, overrides, Path(folder))
    found = Pair(
        case=case,
        steps=real["steps"],
        tokens_per_s=real["tokens_per_s"],
        planned_s=planned["seconds"],
        real_s=real["seconds"],
        planned_bytes=planned["memory_bytes"],
        real_bytes=real["peak_memory_bytes"],
    )
    print(
        f"{found} seconds {found.seconds_ratio:.2f} memory {found.memory_ratio:.2f}",
        file=sys.stderr,
        flush=True,
    )
    return found


def write_base_teacher(folder: Path) -> None:
    """BERT-base with random weights and the small teacher's words, which are BERT's."""
    small = load_teacher("asset:minilm", revision=None, cache=cache_root())
    torch.manual_seed(5)
    model = BertForMaskedLM(
        BertConfig(vocab_size=len(small.tokenizer), max_position_embeddings=512)
    )
    model.save_pretrained(folder)
    for file in small.folder.iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            shutil.copy(file, folder / file.name)


def cases(steps: int, base: Path) -> dict[str, list[str]]:
    less_judged = [
        "train.heldout_tokens=8192",
        "teacher.fit.steps=1",
    ]  # the head's quality does not matter here
    base_shaped = [
        f'teacher.source="{base}"',
        'teacher.mlm_head="own"',
        "train.global_batch=16",
        "train.micro_batch=16",
    ]
    return {
        "MiniLM → 3 layers, masked positions": [f"train.steps={steps}", *less_judged],
        "the same in micro-batches of 8": [
            f"train.steps={steps // 2}",
            "train.micro_batch=8",
            *less_judged,
        ],
        "the same, all positions": [
            f"train.steps={steps // 2}",
            'loss.positions="all"',
            *less_judged,
        ],
        "BERT-base → 6 layers, masked positions": [
            f"train.steps={max(1, steps // 4)}",
            *base_shaped,
            *less_judged,
        ],
    }


def told(pairs: list[Pair], arguments: argparse.Namespace) -> str:
    host, now = this_host(), datetime.now(UTC)
    lines = [
        f"# `distill --plan` against the run, {now:%Y-%m-%d}",
        "",
        f"{host.cpu}, {torch.get_num_threads()} of {host.cores} cores, {host.system}, Python {host.python}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}.",
        f"Command: `python benchmarks/plan_accuracy.py --steps {arguments.steps} --repeats {arguments.repeats}`",
        f"Load of the machine when it ended: {' '.join(Path('/proc/loadavg').read_text().split()[:3])}. Plan and run "
        "in turn, a process each, on recipes/tiny.toml with these steps and 8,192 held-out tokens.",
        "",
        "| case | steps | tokens/s | planned s | real s | planned/real | planned MiB | real MiB | planned/real |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.case} | {p.steps} | {p.tokens_per_s:,.0f} | {p.planned_s:.1f} | {p.real_s:.1f} | {p.seconds_ratio:.2f} "
        f"| {p.planned_bytes / 2**20:,.0f} | {p.real_bytes / 2**20:,.0f} | {p.memory_ratio:.2f} |"
        for p in pairs
    ]
    outside = [
        f"{p.case} ({what} {ratio:.2f})"
        for p in pairs
        for what, ratio in (("seconds", p.seconds_ratio), ("memory", p.memory_ratio))
        if not LOWEST <= ratio <= HIGHEST
    ]
    verdict = f"**missed** by {', '.join(outside)}" if outside else "met by all"
    lines += [
        "",
        f"The aim, planned over real between {LOWEST} and {HIGHEST} for seconds and memory: {verdict}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--case", help="only the cases whose name contains this; nothing is written then"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "bert-base-random"
        write_base_teacher(base)
        chosen = {
            name: given
            for name, given in cases(arguments.steps, base).items()
            if (arguments.case or "") in name
        }
        pairs = [
            pair(name, given) for _ in range(arguments.repeats) for name, given in chosen.items()
        ]
    text = told(pairs, arguments)
    print(text)
    if arguments.case is None:
        (RESULTS / f"plan_accuracy-{datetime.now(UTC):%Y-%m-%d}.md").write_text(
            text, encoding="utf-8"
        )


if __name__ == "__main__":
    main()
