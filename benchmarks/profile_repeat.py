"""Repeatability of `edgedistil profile`: spread of p50 and of the speed ratio.

    python benchmarks/profile_repeat.py [--run NAME] [--times 10]

Writes benchmarks/results/profile_repeat-DATE.md. Each profile is the command in a process of its
own, with its default settings; its duration and the cost of the runner's own loop are measured too.
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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from page import RESULTS, argument_parser, host_line, today, write_page, write_raw

from edgedistil.core.format import model_and_task
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import Figure, NotMeasured, provenance, read_record
from edgedistil.core.rundir import RunDir, open_run
from edgedistil.runtime.protocol import RUNNER

# Aims: duration of a profile, cost of the loop per call, and level of the confidence intervals.
MAX_SECONDS, MAX_COST_US, LEVEL = 30, 20, 0.95
# A count of covering intervals that has a smaller chance than this misses the level.
UNLIKELY = 0.05

# Artefact, precision, threads, length.
RowKey = tuple[str, str, int, str]


@dataclass(frozen=True)
class Ratio:
    """A claim's figure in one profile, with its confidence interval."""

    value: float
    low: float
    high: float


def main() -> None:
    arguments = parse_arguments()
    run, load = open_run(arguments.run), os.getloadavg()[0]
    records, seconds = [], []
    for _ in range(arguments.times):
        record, duration = profile_once(run, arguments.flags)
        records.append(record)
        seconds.append(duration)
    command = f"{' '.join(['edgedistil profile', *arguments.flags])}` of run `{run.name}"
    cost_us = loop_cost_us()
    text = render(records, seconds, command=command, load=load, cost_us=cost_us)
    print(text)
    write_page(RESULTS, "profile_repeat", text)
    raw = {"seconds": seconds, "loop_cost_us": cost_us, "profiles": list(map(figures, records))}
    write_raw(RESULTS, "profile_repeat", raw)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--run", default="latest", help="name of the run")
    parser.add_argument("--times", type=int, default=10, help="number of profiles")
    parser.add_argument("--flags", nargs="*", default=[], help="flags for `profile`; default: none")
    return parser.parse_args()


# --- measuring -----------------------------------------------------------------------------------


def profile_once(run: RunDir, flags: Sequence[str]) -> tuple[ProfileRecord, float]:
    """Runs `edgedistil profile`; returns its record and its duration in seconds."""
    command = [sys.executable, "-m", "edgedistil", "profile", "--run", run.name, *flags]
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    duration = time.monotonic() - start
    return read_record(run.profile("host", "measured"), ProfileRecord), duration


def figures(record: ProfileRecord) -> dict[str, Any]:
    """p50 and signs of disturbance of every row, and the claims."""
    rows = [
        [model_and_task(r), r.precision, r.threads, r.length, r.latency_ms, r.disturbed, r.valid]
        for r in record.rows
    ]
    claims = [
        [c.figure, c.verdict, c.value, c.low, c.high, c.disturbed]
        for c in record.claims
        if c.claim != "size"
    ]
    return {"rows": rows, "claims": claims}


def loop_cost_us(calls: int = 200_000) -> float:
    """Microseconds per call that the runner's timed loop adds, measured around an empty call."""
    runner = runpy.run_path(str(RUNNER))
    budget = runner["CallBudget"](calls, 0, 60)

    def do_nothing(_outputs: object, _feed: object) -> None:
        return None

    # The minimum of five: other work on the machine only adds time.
    costs = []
    for _ in range(5):
        _, wall_ns = runner["timed_calls"](do_nothing, [{}], budget)
        costs.append(wall_ns / calls / 1000)
    return min(costs)


# --- statistics ----------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> float:
    """Half the distance between the lowest and the highest value, relative to the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def p50_by_row(records: Sequence[ProfileRecord]) -> dict[RowKey, list[float]]:
    """p50 of every row in each record."""
    times: dict[RowKey, list[float]] = defaultdict(list)
    for record in records:
        for row in record.rows:
            if isinstance(row.latency_ms, float):
                key = (model_and_task(row), row.precision, row.threads, str(row.length))
                times[key].append(row.latency_ms)
    return times


def ratios_by_figure(records: Sequence[ProfileRecord]) -> dict[str, list[Ratio]]:
    """Speed ratios of every record, by the name of the figure."""
    ratios: dict[str, list[Ratio]] = defaultdict(list)
    for record in records:
        for claim in record.claims:
            # The size does not vary, and a disturbed machine gives no ratio.
            if claim.claim != "size" and not isinstance(claim.value, NotMeasured):
                ratio = Ratio(_measured(claim.value), _measured(claim.low), _measured(claim.high))
                ratios[claim.figure].append(ratio)
    return ratios


def _measured(figure: Figure) -> float:
    assert not isinstance(figure, NotMeasured)
    return figure


def covering(ratios: Sequence[Ratio]) -> int:
    """Number of intervals that contain the median of all ratios."""
    middle = statistics.median(ratio.value for ratio in ratios)
    return sum(ratio.low <= middle <= ratio.high for ratio in ratios)


def fewest_likely(trials: int, rate: float) -> int:
    """Smallest count of successes that is not unlikely at a rate, for independent trials."""
    chance = 0.0
    for count in range(trials + 1):
        chance += math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count)
        if chance >= UNLIKELY:
            return count
    return trials


def quotient_spreads(times: Mapping[RowKey, Sequence[float]]) -> list[float]:
    """Spread of teacher's p50 / student's p50, which a reader could divide from a table."""
    spreads = []
    for (name, precision, threads, length), teacher in times.items():
        student = times.get((name.replace("teacher", "student"), precision, threads, length))
        if name.startswith("teacher") and student is not None:
            quotients = [a / b for a, b in zip(teacher, student, strict=True)]
            spreads.append(spread(quotients))
    return spreads


# --- page ----------------------------------------------------------------------------------------


def render(
    records: Sequence[ProfileRecord],
    seconds: Sequence[float],
    *,
    command: str,
    load: float,
    cost_us: float,
) -> str:
    """Renders the result page: aims, then ratios, then p50 of every row."""
    versions = provenance("python benchmarks/profile_repeat.py").versions
    times, ratios = p50_by_row(records), ratios_by_figure(records)
    p50_spreads = [spread(values) for values in times.values()]
    lines = [
        f"# `profile`, {len(records)} times, {today()}",
        "",
        f"edgedistil {versions['edgedistil']}, onnxruntime {versions['onnxruntime']},"
        f" {host_line()}, load before {load:.2f}. `python benchmarks/profile_repeat.py`, each time"
        f" `{command}` ({len(records[0].rows)} rows).",
        "",
        *aim_lines(seconds, times, ratios, cost_us),
        "",
        "## Speed ratios",
        "",
        *ratio_lines(ratios),
        "",
        f"## p50 (spread: median ±{statistics.median(p50_spreads):.1%},"
        f" largest ±{max(p50_spreads):.1%})",
        "",
        *row_lines(times),
        "",
    ]
    return "\n".join(lines)


def aim_lines(
    seconds: Sequence[float],
    times: Mapping[RowKey, Sequence[float]],
    ratios: Mapping[str, Sequence[Ratio]],
    cost_us: float,
) -> list[str]:
    """Table of the aims, and how its figures are defined."""
    p50_spread = statistics.median(spread(values) for values in times.values())
    ratio_spread = statistics.median(
        spread([ratio.value for ratio in figures]) for figures in ratios.values()
    )
    covered = sum(covering(figures) for figures in ratios.values())
    trials = sum(len(figures) for figures in ratios.values())
    needed = fewest_likely(trials, LEVEL)
    quotient_spread = statistics.median(quotient_spreads(times))
    return [
        "| aim | figure | |",
        "|---|---|---|",
        f"| `profile` ends within {MAX_SECONDS} s | {statistics.median(seconds):.1f} s,"
        f" at most {max(seconds):.1f} | {verdict(max(seconds) <= MAX_SECONDS)} |",
        f"| the runner adds less than {MAX_COST_US} µs per call | {cost_us:.2f} µs"
        f" | {verdict(cost_us < MAX_COST_US)} |",
        f"| the spread of a ratio is smaller than that of p50 | median ±{ratio_spread:.1%} against"
        f" ±{p50_spread:.1%} | {verdict(ratio_spread < p50_spread)} |",
        f"| the {LEVEL:.0%} intervals contain the median of the runs | {covered} of {trials}"
        f" ({covered / trials:.0%}) | {verdict(covered >= needed)} |",
        "",
        "Spread: half of highest − lowest, relative to the median."
        f" At {LEVEL:.0%}, fewer than {needed} of {trials} would be unlikely. The quotient of two"
        " rows' p50, instead of models that take turns, has a spread of"
        f" ±{quotient_spread:.1%} (median).",
    ]


def verdict(is_met: bool) -> str:
    return "**met**" if is_met else "**MISSED**"


def ratio_lines(ratios: Mapping[str, Sequence[Ratio]]) -> list[str]:
    """Table of the ratios over all profiles."""
    lines = [
        "| figure | median | lowest | highest | spread | median interval"
        " | intervals that contain the median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in ratios.items():
        values = [ratio.value for ratio in figures]
        width = statistics.median((r.high - r.low) / 2 / r.value for r in figures)
        lines.append(
            f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} | {max(values):.3f}"
            f" | ±{spread(values):.1%} | ±{width:.1%} | {covering(figures)} of {len(figures)} |"
        )
    return lines


def row_lines(times: Mapping[RowKey, Sequence[float]]) -> list[str]:
    """Table of p50 over all profiles."""
    lines = [
        "| artefact | precision | threads | length | p50 ms | spread |",
        "|---|---|---|---|---|---|",
    ]
    for (name, precision, threads, length), values in times.items():
        lines.append(
            f"| {name} | {precision} | {threads} | {length}"
            f" | {statistics.median(values):.3f} | ±{spread(values):.1%} |"
        )
    return lines


if __name__ == "__main__":
    main()
