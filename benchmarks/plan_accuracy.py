"""How far `distill --plan` is from the run itself, on this machine: seconds and peak memory.

    python benchmarks/plan_accuracy.py [--steps 60]

Plan, run, plan, run …, each in a process of its own so that peaks are theirs, on recipes/tiny.toml with fewer steps and
two sizes of micro-batch. Writes benchmarks/results/plan_accuracy.json: every pair, its ratios, host and versions.
Ratios within 0.75 and 1.25 are the aim. Other work on the machine spoils the seconds: run it on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgedistil.records import provenance
from edgedistil.rundir import write_json

RESULTS = Path(__file__).parent / "results" / "plan_accuracy.json"
PLAN = "import sys; from edgedistil.distill.stage import plan; from edgedistil.recipe import load_recipe; "
PLAN += "print(plan(load_recipe('tiny', sys.argv[1:])).model_dump_json())"
RUN = "import sys; from edgedistil.distill.stage import distill; from edgedistil.recipe import load_recipe; "
RUN += "print(distill(load_recipe('tiny', sys.argv[1:]), run_name=None, resume=False)[1].model_dump_json())"


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


def pair(case: str, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        planned = answer(PLAN, overrides, Path(folder))["devices"][0]
        real = answer(RUN, overrides, Path(folder))
    figures = {
        "case": case,
        "planned_seconds": planned["seconds"],
        "real_seconds": real["seconds"],
        "planned_memory_bytes": planned["memory_bytes"],
        "real_memory_bytes": real["peak_memory_bytes"],
        "steps": real["steps"],
        "tokens_per_s": real["tokens_per_s"],
    }
    for what in ("seconds", "memory_bytes"):
        figures[f"{what}_ratio"] = figures[f"planned_{what}"] / figures[f"real_{what}"]
    print(json.dumps(figures), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    chosen = parser.parse_args()
    cases = {
        "batch of 32 rows": [f"train.steps={chosen.steps}"],
        "batch of 32 in micro-batches of 8": [f"train.steps={chosen.steps // 2}", "train.micro_batch=8"],
        "every position": [f"train.steps={chosen.steps // 2}", 'loss.positions="all"'],
    }
    pairs = [pair(case, overrides) for _ in range(chosen.repeats) for case, overrides in cases.items()]
    ratios = {what: [p[f"{what}_ratio"] for p in pairs] for what in ("seconds", "memory_bytes")}
    summary = {what: {"lowest": min(r), "highest": max(r)} for what, r in ratios.items()}
    write_json(RESULTS, {"pairs": pairs, "planned_over_real": summary, "provenance": provenance().model_dump()})
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
