"""Is the measurement any good? `profile` again and again: spread of p50 and of the speed ratio, and the runner's cost.

    python benchmarks/profile_repeat.py [--run NAME] [--times 10]      writes benchmarks/results/profile_repeat-DAY.md

Each time is the command itself in a process of its own, with its default settings: its whole time is told, too.
"""

from __future__ import annotations

import argparse
import math
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from edgedistil.core.records import Figure, NotMeasured, ProfileRecord, provenance, read_record
from edgedistil.core.rundir import RunDir, open_run
from edgedistil.runtime.protocol import RUNNER

RESULTS = Path(__file__).parent / "results"
BOUND_SECONDS, BOUND_COST_US, RATE = 30, 20, 0.95


def own_cost_us(calls: int = 200_000) -> float:
    """Microseconds that the runner's timed loop itself adds to a call: the loop around a call that does nothing."""
    runner = runpy.run_path(str(RUNNER))
    budget = runner["CallBudget"](calls, 0, 60)

    def nothing(_outputs: object, _feed: object) -> None:
        return None

    best = float("inf")
    for _ in range(5):
        _, wall = runner["timed_calls"](nothing, [{}], budget)
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


def once(run: RunDir, flags: Sequence[str]) -> tuple[ProfileRecord, float]:
    """The record of one `edgedistil profile`, and the seconds from its start to its end."""
    command = [sys.executable, "-m", "edgedistil", "profile", "--run", run.name, *flags]
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return read_record(run.profile("host", "measured"), ProfileRecord), time.monotonic() - begun


def ratios(records: Sequence[ProfileRecord]) -> dict[str, list[tuple[float, float, float]]]:
    """Figure → value, low and high of each record's claim."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for record in records:
        for claim in record.claims:
            if claim.claim != "size":
                bounds = (_known(claim.value), _known(claim.low), _known(claim.high))
                found.setdefault(claim.figure, []).append(bounds)
    return found


def _known(figure: Figure) -> float:
    assert not isinstance(figure, NotMeasured)
    return figure


def claim_lines(figures: dict[str, list[tuple[float, float, float]]]) -> list[str]:
    lines = [
        "| figure | median | lowest | highest | spread | median interval | intervals that hold the median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        values = [value for value, _, _ in runs]
        middle = statistics.median(values)
        width = statistics.median((high - low) / 2 / value for value, low, high in runs)
        lines.append(
            f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} | ±{spread(values):.1%} | "
            f"±{width:.1%} | {covered(runs)} of {len(runs)} |"
        )
    return lines


def covered(runs: Sequence[tuple[float, float, float]]) -> int:
    """How many intervals hold the median of all runs."""
    middle = statistics.median(value for value, _, _ in runs)
    return sum(low <= middle <= high for _, low, high in runs)


def least_covered(trials: int, rate: float) -> int:
    """Fewest of `trials` that are not yet unlikely (under 5%) at `rate`, if they were independent."""
    chance = 0.0
    for count in range(trials + 1):
        chance += math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count)
        if chance >= 0.05:
            return count
    return trials


def quotients(records: Sequence[ProfileRecord]) -> list[float]:
    """Spread of what a reader would divide himself: teacher's p50 over the student's, rows of the same record."""
    found = []
    times = p50s(records)
    for (name, precision, threads, length), teacher in times.items():
        student = times.get((name.replace("teacher", "student"), precision, threads, length))
        if name.startswith("teacher") and student is not None:
            found.append(spread([a / b for a, b in zip(teacher, student, strict=True)]))
    return found


def verdict(holds: bool) -> str:
    return "**met**" if holds else "**MISSED**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="latest")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--flags", nargs="*", default=[], help="for `profile`; none: its defaults")
    asked = parser.parse_args()
    run, load = open_run(asked.run), os.getloadavg()[0]
    done = [once(run, asked.flags) for _ in range(asked.times)]
    records, seconds = [each for each, _ in done], [each for _, each in done]
    made = provenance("python benchmarks/profile_repeat.py")
    figures, times, cost = ratios(records), p50s(records), own_cost_us()
    spreads = {key: spread(values) for key, values in times.items()}
    of_ratios = [spread([value for value, _, _ in runs]) for runs in figures.values()]
    held, trials = (
        sum(covered(runs) for runs in figures.values()),
        sum(len(runs) for runs in figures.values()),
    )
    rows = [
        f"| {name} | {precision} | {threads} | {length} | {statistics.median(times[key]):.3f} | ±{of_it:.1%} |"
        for key, of_it in spreads.items()
        for name, precision, threads, length in [key]
    ]
    ratio_spread, p50_spread = statistics.median(of_ratios), statistics.median(spreads.values())
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    text = [
        f"# `profile`, {asked.times} times, {day}",
        "",
        f"edgedistil {made.versions['edgedistil']}, onnxruntime {made.versions['onnxruntime']}, {made.host.cpu}, "
        f"{made.host.cores} cores, load before {load:.2f}. `{made.command}`, each time "
        f"`{' '.join(['edgedistil profile', *asked.flags])}` of run `{run.name}` ({len(records[0].rows)} rows).",
        "",
        "| aim | figure | |",
        "|---|---|---|",
        f"| `profile` ends within {BOUND_SECONDS} s | {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} | "
        f"{verdict(max(seconds) <= BOUND_SECONDS)} |",
        f"| the runner adds less than {BOUND_COST_US} µs a call | {cost:.2f} µs | {verdict(cost < BOUND_COST_US)} |",
        f"| a ratio's spread is smaller than p50's | median ±{ratio_spread:.1%} against ±{p50_spread:.1%} | "
        f"{verdict(ratio_spread < p50_spread)} |",
        f"| the {RATE:.0%} intervals hold the median of the runs | {held} of {trials} ({held / trials:.0%}) | "
        f"{verdict(held >= least_covered(trials, RATE))} |",
        "",
        f"Spread: half of highest − lowest, relative to the median. At {RATE:.0%}, fewer than "
        f"{least_covered(trials, RATE)} of {trials} would be unlikely. A quotient of two rows' p50, instead of models "
        f"that take turns, has a spread of ±{statistics.median(quotients(records)):.1%} (median).",
        "",
        "## Speed ratios",
        "",
        *claim_lines(figures),
        "",
        f"## p50 (spread: median ±{p50_spread:.1%}, largest ±{max(spreads.values()):.1%})",
        "",
        "| artefact | precision | threads | length | p50 ms | spread |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    out = RESULTS / f"profile_repeat-{day}.md"
    out.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
