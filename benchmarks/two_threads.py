"""8-bit artefacts with one and two threads at short lengths, each session alone in its process.

    python benchmarks/two_threads.py --prepare                exports only; slow, once
    python benchmarks/two_threads.py [--rounds 3]             2 minutes on an idle machine

DistilBERT's shapes, ours and optimum-onnx's. In a comparison by turns the threads of other sessions
may spin on a core that the compared session needs; here there is no other session. Each artefact
also runs with onnxruntime's options for its threads. The table has medians over all calls of the
fresh processes, wall-clock time; the list below it where the time goes, by operator.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime as ort
from page import (
    RESULTS,
    argument_parser,
    host_line,
    load_averages,
    today,
    write_page,
    write_raw,
)
from peers.measure import operator_times
from peers.rows import Row, optimum_rows, our_rows, random_shapes

from edgedistil.core.format import plural
from edgedistil.core.places import cache_root
from edgedistil.core.task import ENCODER_TASK

WORKER = Path(__file__).resolve().parent / "peers" / "steady_calls.py"
LENGTHS = (16, 32, 64, 128)
DEFAULTS = "defaults"
# Variant → config entries of the session.
VARIANTS: Mapping[str, Mapping[str, str]] = {
    DEFAULTS: {},
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "dynamic blocks": {"session.dynamic_block_base": "4"},
}
# Lengths at which the time is broken down by operator.
PROFILED_LENGTHS = (16,)


@dataclass
class Setting:
    """One artefact with a number of threads and onnxruntime's options.

    Attributes:
        row: The artefact.
        threads: Threads of the session.
        variant: Key of `VARIANTS`.
        seconds: Length → wall-clock seconds of every call.
        cpu_s: Length → processor time of a call in each process.
    """

    row: Row
    threads: int
    variant: str
    seconds: dict[int, list[float]] = field(default_factory=dict)
    cpu_s: dict[int, list[float]] = field(default_factory=dict)

    def run(self, *, calls: int) -> None:
        """Times calls in a fresh process and adds them."""
        lengths = ",".join(map(str, LENGTHS))
        command = [sys.executable, str(WORKER), str(self.row.graph_file)]
        command += [str(self.threads), str(calls), lengths, json.dumps(VARIANTS[self.variant])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for length, figures in json.loads(done.stdout).items():
            self.seconds.setdefault(int(length), []).extend(figures["seconds"])
            self.cpu_s.setdefault(int(length), []).append(figures["cpu_s"])

    def cell(self, length: int) -> str:
        wall, cpu = statistics.median(self.seconds[length]), statistics.median(self.cpu_s[length])
        return f"{1e3 * wall:.2f} ({1e3 * cpu:.2f})"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes of each setting")
    parser.add_argument("--calls", type=int, default=60, help="calls of a length in a process")
    parser.add_argument("--prepare", action="store_true", help="only export, measure nothing")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "work")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = int8_rows(arguments.work)
    if arguments.prepare:
        return
    settings = make_settings(rows)
    for number in range(arguments.rounds):
        # Another order in every round: no setting always runs after the same one.
        for setting in settings[number:] + settings[:number]:
            setting.run(calls=arguments.calls)
    raw = [raw_setting(setting) for setting in settings]
    write_raw(arguments.out, "two_threads", {"settings": raw})
    text = "\n".join([*head_lines(arguments.rounds), *table(settings), *operator_lines(rows), ""])
    print(write_page(arguments.out, "two_threads", text))


def int8_rows(work: Path) -> list[Row]:
    """Exports DistilBERT's shapes and returns the 8-bit artefacts."""
    work.mkdir(parents=True, exist_ok=True)
    source = random_shapes(work)
    folder = source.with_name(f"{source.name}.{ENCODER_TASK}.artefacts")
    folder.mkdir(exist_ok=True)
    # A folder of its own: random tokens calibrate here.
    rows = our_rows(source, folder / "ours-two-threads", ENCODER_TASK)
    rows += optimum_rows(source, folder / "optimum", ENCODER_TASK)
    return [row for row in rows if row.precision != "fp32"]


def make_settings(rows: Sequence[Row]) -> list[Setting]:
    """Every artefact with one thread, and with two under every option."""
    settings = []
    for row in rows:
        settings.append(Setting(row, 1, DEFAULTS))
        settings += [Setting(row, 2, variant) for variant in VARIANTS]
    return settings


def raw_setting(setting: Setting) -> dict[str, Any]:
    return {
        "artefact": setting.row.key,
        "threads": setting.threads,
        "options": setting.variant,
        "seconds": setting.seconds,
        "cpu_s": setting.cpu_s,
    }


def head_lines(rounds: int) -> list[str]:
    return [
        f"# 8-bit artefacts with two threads, {today()}",
        "",
        f"`python benchmarks/two_threads.py --rounds {rounds}` · {host_line()} · onnxruntime"
        f" {ort.__version__} · load average {load_averages()}",
        "",
        "DistilBERT's shapes, batch 1: median ms of a call, wall clock; in brackets the processor",
        "time of all threads. Every session was alone in its process.",
        "",
    ]


def table(settings: Sequence[Setting]) -> list[str]:
    lines = [
        "| artefact | threads | options | " + " | ".join(map(str, LENGTHS)) + " |",
        "|---|---|---|" + "---|" * len(LENGTHS),
    ]
    for setting in settings:
        cells = " | ".join(setting.cell(length) for length in LENGTHS)
        lines.append(f"| {setting.row.key} | {setting.threads} | {setting.variant} | {cells} |")
    return lines


def operator_lines(rows: Sequence[Row]) -> list[str]:
    """Where the time goes, one thread and two: a product that does not split shows here."""
    lines = ["", "µs by operator, sums over nodes of each node's fastest call:", ""]
    for length in PROFILED_LENGTHS:
        for row in rows:
            for threads in (1, 2):
                times = operator_times(row.graph_file, length, threads=threads)
                parts = ", ".join(f"{name} {us}" for name, us in times.most_common(8))
                label = f"{row.key}, {length} tokens, {plural(threads, 'thread')}"
                lines.append(f"- {label}: {sum(times.values())} = {parts}, …")
    return lines


if __name__ == "__main__":
    main()
