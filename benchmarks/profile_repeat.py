"""Is the measurement any good? `profile` again and again: spread of p50 and of the speed ratio, and the runner's cost.

python benchmarks/profile_repeat.py [--run NAME] [--times 10]      writes benchmarks/profile_repeat.md
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgedistil.profiling import stage
from edgedistil.profiling.messages import RUNNER
from edgedistil.records import ProfileRecord, provenance

OUT = Path(__file__).with_suffix(".md")


def own_cost_us(calls: int = 200_000) -> float:
    """Microseconds that the runner's timed loop itself adds to a call: the loop around a call that does nothing."""
    timed_calls = runpy.run_path(str(RUNNER))["timed_calls"]

    def nothing(_outputs: object, _feed: object) -> None:
        return None

    best = float("inf")
    for _ in range(5):
        _, wall = timed_calls(nothing, [{}], calls, 0, 60)
        best = min(best, wall / calls / 1000)
    return best


def spread(values: Sequence[float]) -> float:
    """Half the distance between the lowest and the highest, relative to the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def p50s(records: Sequence[ProfileRecord]) -> dict[tuple[str, str, int, str], list[float]]:
    found: dict[tuple[str, str, int, str], list[float]] = {}
    for record in records:
        for row in record.rows:
            if isinstance(row.latency_ms, float):
                key = (f"{row.model} {row.task}", row.precision, row.threads, str(row.length))
                found.setdefault(key, []).append(row.latency_ms)
    return found


def claim_lines(records: Sequence[ProfileRecord]) -> list[str]:
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        for claim in record.claims:
            bounds = (claim.value, claim.low, claim.high)
            if claim.claim != "size" and all(isinstance(each, float) for each in bounds):
                figures.setdefault(claim.figure, []).append(bounds)  # type: ignore[arg-type]
    lines = [
        "| figure | median | lowest | highest | spread | intervals that hold the median |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        values = [value for value, _, _ in runs]
        middle = statistics.median(values)
        covered = sum(low <= middle <= high for _, low, high in runs)
        lines.append(
            f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} | ±{spread(values):.1%} | "
            f"{covered} of {len(runs)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="latest")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--threads", type=int, action="append", help="none: 1 and all")
    parser.add_argument("--length", type=int, action="append", help="none: 16 to 256")
    asked = parser.parse_args()
    records, seconds = [], []
    for _ in range(asked.times):
        begun = time.monotonic()
        run, found = stage.profile(asked.run, threads=asked.threads, lengths=asked.length)
        seconds.append(time.monotonic() - begun)
        records += found
    made = provenance("python benchmarks/profile_repeat.py")
    loads = [row.conditions.get("load before", "?") for record in records for row in record.rows[:1]]
    rows = [
        f"| {name} | {precision} | {threads} | {length} | {statistics.median(values):.3f} | ±{spread(values):.1%} |"
        for (name, precision, threads, length), values in p50s(records).items()
    ]
    spreads = [spread(values) for values in p50s(records).values()]
    text = [
        f"# `profile`, {asked.times} times",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, edgedistil {made.versions['edgedistil']}, onnxruntime "
        f"{made.versions['onnxruntime']}, {made.host.cpu}, {made.host.cores} cores; load of the machine before each "
        f"run: {', '.join(loads)}. Made by `{made.command}` on run `{run.name if run else '-'}`.",
        "",
        f"One run took {statistics.median(seconds):.0f} s ({min(seconds):.0f} to {max(seconds):.0f}). "
        f"The runner's own cost is {own_cost_us():.2f} µs a call.",
        "",
        "Spread: half of highest − lowest, relative to the median.",
        "",
        "## Speed ratios",
        "",
        *claim_lines(records),
        "",
        f"## p50 (spread: median ±{statistics.median(spreads):.1%}, largest ±{max(spreads):.1%})",
        "",
        "| artefact | precision | threads | length | p50 ms | spread |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    OUT.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
