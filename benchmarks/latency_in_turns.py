"""Times of a run's encoders in turns, the source of the times that README shows.

    python benchmarks/latency_in_turns.py [--run NAME] [--length 128] [--processes 8]

Writes benchmarks/results/latency_in_turns-DATE.md, and .json with every block. Rows of `profile`
come from one process each, at another moment each: their quotients are not ratios to show.
Here teacher, student and quantized student take turns, so the times agree with the ratios. Only
undisturbed processes count.
"""

from __future__ import annotations

import os
import statistics
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from page import RESULTS, argument_parser, host_line, today, write_page, write_raw

from edgedistil.core.records import NotMeasured, provenance
from edgedistil.core.rundir import open_run
from edgedistil.core.task import ENCODER_TASK
from edgedistil.core.text import read_lines
from edgedistil.profiling.artefacts import Artefact, run_artefacts
from edgedistil.profiling.claims import Pairing, pairings
from edgedistil.profiling.limits import require_success
from edgedistil.profiling.turns import Comparison, compare_in_turns
from edgedistil.profiling.workload import Workloads, build_workloads
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Alternation, Case, Job, Reply

# An even number, so that both models are first equally often.
BLOCKS = 4
CALLS_PER_BLOCK = 8


def main() -> None:
    arguments = parse_arguments()
    run, load = open_run(arguments.run), os.getloadavg()[0]
    artefacts = [a for a in run_artefacts(run) if a.task == ENCODER_TASK]
    pairs = pairings(artefacts)
    lines = read_lines(run.heldout_text)
    # A student with a trimmed vocabulary gets the same texts in its own tokens.
    tokenizers = {artefact.tokenizer for artefact in artefacts}
    workloads = build_workloads(
        tokenizers, lines, source=run.name, lengths=[arguments.length], pairs=1
    )
    comparisons = compare(pairs, workloads, arguments)
    text = render(pairs, comparisons, arguments, load=load)
    print(text)
    # Blocks of another size are the check of the ratio, and never the times that README shows.
    stem = "latency_in_turns"
    if arguments.calls_per_block != CALLS_PER_BLOCK:
        stem = f"latency_in_blocks_of_{arguments.calls_per_block}"
    write_page(RESULTS, stem, text)
    write_raw(RESULTS, stem, raw_blocks(pairs, comparisons, arguments))


def parse_arguments() -> Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--run", default="latest", help="name of the run")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--threads", type=int, default=1)
    # The ratio must not depend on it: a block begins with an untimed call.
    parser.add_argument(
        "--calls-per-block", type=int, default=CALLS_PER_BLOCK, help="compare with 20"
    )
    parser.add_argument("--processes", type=int, default=8, help="undisturbed ones of each pair")
    return parser.parse_args()


# --- measuring -----------------------------------------------------------------------------------


def compare(
    pairs: Sequence[Pairing], workloads: Workloads, arguments: Namespace
) -> dict[str, Comparison]:
    """Blocks of every pair at one length, by process."""
    by_name = {pairing.name: pairing for pairing in pairs}
    return compare_in_turns(
        lambda _, names: run_process([by_name[name] for name in names], workloads, arguments),
        by_name,
        processes=arguments.processes,
        threads=arguments.threads,
    )


def run_process(pairs: Collection[Pairing], workloads: Workloads, arguments: Namespace) -> Reply:
    """Runs one process in which the artefacts of each pair take turns."""
    artefacts: dict[str, Artefact] = {}
    for pairing in pairs:
        artefacts |= {a.label: a for a in (pairing.first, pairing.second)}
    keys = workloads.first.lengths[arguments.length]
    job = Job(
        models=workloads.job_models(artefacts.values()),
        cases=[Case(name="first", keys=keys)],
        phases=[],
        threads=arguments.threads,
        alternate=[
            Alternation(
                name=pairing.name,
                first=pairing.first.label,
                second=pairing.second.label,
                keys=keys,
                blocks=BLOCKS,
                calls_per_block=arguments.calls_per_block,
            )
            for pairing in pairs
        ],
    )
    target = LocalTarget()
    reply = run_job(
        target, artefacts.values(), job, workloads.joint(artefacts.values()), check=False
    )
    require_success(target, reply, list(artefacts.values()))
    return reply


# --- page ----------------------------------------------------------------------------------------


def render(
    pairs: Sequence[Pairing],
    comparisons: Mapping[str, Comparison],
    arguments: Namespace,
    *,
    load: float,
) -> str:
    versions = provenance("python benchmarks/latency_in_turns.py").versions
    lines = [
        f"# Latency in turns, {today()}",
        "",
        f"Run `{arguments.run}`, {arguments.length} tokens, {arguments.threads} thread(s),"
        f" {arguments.processes} undisturbed processes of each pair,"
        f" {arguments.calls_per_block} calls a block; edgedistil"
        f" {versions['edgedistil']}, onnxruntime {versions['onnxruntime']}, {host_line()}, load"
        f" before {load:.2f}. p50: median over the processes of each one's median.",
        "",
        "| pair | first, p50 ms | second, p50 ms | speed ratio (95%) | disturbed processes |",
        "|---|---|---|---|---|",
    ]
    for pairing in pairs:
        comparison = comparisons[pairing.name]
        ratio = comparison.ratio(arguments.processes)
        cells = ["–", "–", "inconclusive"]
        if not isinstance(ratio, NotMeasured):
            cells = [f"{milliseconds:.2f}" for milliseconds in medians_ms(comparison)]
            cells.append(f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})")
        names = f"{pairing.first.label} / {pairing.second.label}"
        lines.append(f"| {names} | {' | '.join(cells)} | {len(comparison.disturbed)} |")
    return "\n".join([*lines, ""])


def medians_ms(comparison: Comparison) -> tuple[float, float]:
    """Median over the processes of each model's median call, in milliseconds."""
    first, second = [], []
    for blocks in comparison.processes:
        first.append(statistics.median(ns for block in blocks for ns in block.first_ns) / 1e6)
        second.append(statistics.median(ns for block in blocks for ns in block.second_ns) / 1e6)
    return statistics.median(first), statistics.median(second)


def raw_blocks(
    pairs: Sequence[Pairing], comparisons: Mapping[str, Comparison], arguments: Namespace
) -> dict[str, Any]:
    """Nanoseconds of every call, by pair, process and block, and what disturbed the others."""
    raw = {}
    for pairing in pairs:
        comparison = comparisons[pairing.name]
        raw[pairing.name] = {
            "first": pairing.first.label,
            "second": pairing.second.label,
            "processes": comparison.processes,
            "disturbed": comparison.disturbed,
        }
    names = ("length", "threads", "processes", "calls_per_block")
    settings = {name: getattr(arguments, name) for name in names}
    return {"settings": settings, "pairs": raw}


if __name__ == "__main__":
    main()
