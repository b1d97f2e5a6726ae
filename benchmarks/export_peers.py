"""Our artefacts compared with those of other exporters: speed, load, memory, size and fidelity.

    python benchmarks/export_peers.py shapes [--rounds 20] [--alternatives openvino]
    python benchmarks/export_peers.py student --student RUN/student --text HELDOUT.txt
    python benchmarks/export_peers.py … --prepare      only environments and artefacts: slow, once

Every peer exports in an environment of its own, which is created once in the cache. All ONNX
artefacts then run in this process with this onnxruntime, interleaved: a round calls every
artefact once, so that a slow moment of the machine affects all of them. Compared is the median
over the rounds of (best peer's time / our time) within a round. OpenVINO and PyTorch run in
processes of their own, in the same rounds. Predictions and errors: benchmarks/int8_fidelity.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnxruntime as ort
import torch
import transformers
from page import RESULTS, argument_parser, host_line, system_line, today, write_page, write_raw
from peers.measure import (
    LENGTHS,
    measure_cold,
    measure_hidden,
    measure_latency,
    operator_times,
)
from peers.rows import (
    ALTERNATIVES,
    NNCF,
    OURS,
    Row,
    distilled_student,
    make_rows,
    needed_bytes,
    random_shapes,
    raw_rows,
    versions_of,
)

from edgedistil.core.format import ABSENT, gibibytes, plural
from edgedistil.core.places import cache_root
from edgedistil.core.records import this_host
from edgedistil.core.task import ENCODER_TASK

DOCS = Path(__file__).resolve().parent.parent / "docs"
TITLES = {
    "shapes": "DistilBERT's shapes, random weights",
    "student": "A distilled student of MiniLM",
}
# Aims: smallest speed ratio in int8 and fp32, and its median over the lengths; smallest ratio of
# the time of NNCF's int8 to ours with two threads; largest share of the load time and memory of
# optimum-onnx; largest ratio of file size to the bytes of the unique weights.
MIN_SPEED = {"int8": 1.05, "fp32": 1.0}
MIN_MEDIAN_SPEED = {"int8": 1.15, "fp32": 1.0}
MIN_NNCF_SPEED = 0.95
MAX_LOAD, MAX_PEAK, MAX_SIZE = 0.30, 0.6, 1.02
# Lengths at which the time is broken down by operator.
PROFILED_LENGTHS = (16, 128)
# Shorter lines of text are headings and list items.
MIN_CHARACTERS = 60

# (threads, length).
Condition = tuple[int, int]


def main() -> None:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    arguments.work.mkdir(parents=True, exist_ok=True)
    is_student = arguments.which == "student"
    if is_student:
        source = distilled_student(arguments.work, arguments.student)
    else:
        source = random_shapes(arguments.work)
    text = read_text(arguments.text)

    # Export everything first: an export between two measurements would disturb them.
    rows = make_rows(source, text, task=ENCODER_TASK, alternatives=arguments.alternatives)
    if arguments.prepare:
        return

    # Fresh processes come first, before anything here occupies memory or a core.
    measure_cold(rows, rounds=arguments.cold_rounds)
    measure_hidden(rows, source, text)
    for threads in arguments.threads:
        measure_latency(rows, threads=threads, rounds=arguments.rounds, openings=arguments.openings)

    lines = [
        *head_lines(arguments.which, load),
        *aim_lines(rows, source, arguments.threads),
    ]
    for threads in arguments.threads:
        lines += latency_lines(rows, threads)
    lines += [*cold_lines(rows, source), *operator_lines(rows)]
    stem = f"export_peers-{arguments.which}"
    print(write_page(arguments.out, stem, "\n".join(lines)))
    write_raw(arguments.out, stem, {"rows": raw_rows(rows)})


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("which", choices=list(TITLES), help="what is exported")
    parser.add_argument("--rounds", type=int, default=20, help="calls per row and length")
    parser.add_argument(
        "--openings", type=int, default=4, help="times the sessions are opened within the rounds"
    )
    parser.add_argument("--cold-rounds", type=int, default=5, help="fresh processes per row")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--student", type=Path, help="folder of a distilled student with its head")
    parser.add_argument(
        "--text",
        type=Path,
        help="held-out text, one document per line; default: this repository's documents",
    )
    parser.add_argument(
        "--alternatives",
        nargs="*",
        choices=ALTERNATIVES,
        default=ALTERNATIVES,
        help="other runtimes that take turns; without a name none",
    )
    parser.add_argument("--prepare", action="store_true", help="only export, measure nothing")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "work")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.which == "student" and arguments.student is None:
        parser.error("student needs --student FOLDER")
    return arguments


def read_text(path: Path | None) -> list[str]:
    files = sorted(DOCS.glob("*.md"))
    if path is not None:
        files = [path]
    lines = []
    for file in files:
        lines += file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if len(line) > MIN_CHARACTERS]


# --- figures -------------------------------------------------------------------------------------


def own_row(rows: Sequence[Row], precision: str) -> Row:
    return next(row for row in rows if row.name == OURS and row.precision == precision)


def onnx_peers(rows: Sequence[Row], precision: str) -> list[Row]:
    """Other exporters' artefacts of a precision; they have a part in the aims."""
    artefacts = [row for row in rows if row.graph is not None and row.name != OURS]
    return [row for row in artefacts if row.precision == precision]


def best_peer(rows: Sequence[Row], precision: str, at: Condition) -> Row:
    peers = onnx_peers(rows, precision)
    return min(peers, key=lambda row: statistics.median(row.seconds[at]))


def speed_ratio(peer: Row, own: Row, at: Condition) -> float:
    """Median over the rounds of the peer's time divided by ours."""
    pairs = zip(peer.seconds[at], own.seconds[at], strict=True)
    return statistics.median(peer_s / own_s for peer_s, own_s in pairs)


def cold_figure(row: Row, figure: str) -> float:
    """Median over the fresh processes."""
    return statistics.median(process[figure] for process in row.cold)


# --- head and aims -------------------------------------------------------------------------------


def head_lines(which: str, load: float) -> list[str]:
    # Paths by their names only: the page is published.
    command = [Path(argument).name for argument in sys.argv[1:]]
    optimum = versions_of("optimum-onnx", ["optimum-onnx", "transformers", "sentence-transformers"])
    openvino = versions_of(None, ["openvino", "nncf"])
    return [
        f"# Exporters compared, {today()}: {TITLES[which]}",
        "",
        f"`python benchmarks/export_peers.py {' '.join(command)}` · {host_line()},",
        f"{gibibytes(this_host().memory_bytes)} GiB, {system_line()} · load average before"
        f" {load:.1f}",
        "",
        f"onnxruntime {ort.__version__} for every ONNX row, torch {torch.__version__},"
        f" transformers {transformers.__version__} (transformers.exporters) · {optimum}"
        f" · {openvino}",
        "",
        "Encoders (feature-extraction), batch 1. ONNX rows are interleaved call by call in one",
        "process; ratios are medians within a round. A ratio above 1 means that ours is faster.",
        "OpenVINO and PyTorch are other runtimes that a user has; only NNCF's int8 is in an aim.",
        "",
    ]


def aim_lines(rows: Sequence[Row], source: Path, threads: Sequence[int]) -> list[str]:
    """Section with every aim: met or missed, with its figure."""
    lines = ["## Aims", ""]
    for count in threads:
        lines += [_speed_aim(rows, precision, count) for precision in MIN_SPEED]
        lines += _nncf_aims(rows, count)
    for precision in ("fp32", "int8"):
        lines += _cold_aims(rows, precision, source)
    lines.append(_hidden_aim(rows))
    return [*lines, ""]


def _aim(is_met: bool, text: str) -> str:
    return f"- {'met' if is_met else '**missed**'}: {text}"


def _speed_aim(rows: Sequence[Row], precision: str, threads: int) -> str:
    own = own_row(rows, precision)
    ratios = []
    for length in LENGTHS:
        at = (threads, length)
        ratios.append(speed_ratio(best_peer(rows, precision, at), own, at))
    bound, median_bound = MIN_SPEED[precision], MIN_MEDIAN_SPEED[precision]
    median = statistics.median(ratios)
    return _aim(
        min(ratios) >= bound and median >= median_bound,
        f"{precision}, {plural(threads, 'thread')}: best peer / ours {_by_length(ratios)}"
        f" (at least {bound:.2f} at each), median {median:.2f} (at least {median_bound:.2f})",
    )


def _nncf_aims(rows: Sequence[Row], threads: int) -> Iterator[str]:
    """NNCF's int8 in OpenVINO against ours: nothing without it, an aim with several threads."""
    nncf = next((row for row in rows if row.name == NNCF), None)
    if nncf is None:
        return
    own = own_row(rows, "int8")
    ratios = [speed_ratio(nncf, own, (threads, length)) for length in LENGTHS]
    text = f"int8, {plural(threads, 'thread')}: {NNCF} / ours {_by_length(ratios)}"
    if threads == 1:
        yield f"- no aim: {text}"
    else:
        bound = MIN_NNCF_SPEED
        yield _aim(min(ratios) >= bound, f"{text} (at least {bound:.2f} at each)")


def _by_length(ratios: Sequence[float]) -> str:
    values = " / ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"{values} at {' / '.join(map(str, LENGTHS))} tokens"


def _cold_aims(rows: Sequence[Row], precision: str, source: Path) -> Iterator[str]:
    own = own_row(rows, precision)
    peer = next(row for row in onnx_peers(rows, precision) if row.name == "optimum-onnx")
    load = cold_figure(own, "load_cpu_s") / cold_figure(peer, "load_cpu_s")
    peak = cold_figure(own, "peak_bytes") / cold_figure(peer, "peak_bytes")
    size = own.bytes / needed_bytes(source, precision)
    yield _aim(
        load <= MAX_LOAD,
        f"{precision}: loads in {load:.2f} of optimum-onnx's time (at most {MAX_LOAD})",
    )
    yield _aim(
        peak <= MAX_PEAK,
        f"{precision}: peaks at {peak:.2f} of optimum-onnx's memory (at most {MAX_PEAK})",
    )
    yield _aim(
        size <= MAX_SIZE,
        f"{precision}: {size:.4f} of the bytes of its unique weights (at most {MAX_SIZE})",
    )


def _hidden_aim(rows: Sequence[Row]) -> str:
    own_error = _mean_error(own_row(rows, "int8"))
    best = min(onnx_peers(rows, "int8"), key=_mean_error)
    return _aim(
        own_error < _mean_error(best),
        f"int8, hidden states: mean error {own_error:.4g}, the best peer's"
        f" {_mean_error(best):.4g} ({best.name}) (smaller)",
    )


def _mean_error(row: Row) -> float:
    assert row.mean_error is not None, "measure_hidden compares every artefact"
    return row.mean_error


# --- tables --------------------------------------------------------------------------------------


def latency_lines(rows: Sequence[Row], threads: int) -> list[str]:
    """Table of medians at one thread count, with the ratio to the best peer below."""
    clock = "wall clock"
    if threads == 1:
        clock = "CPU time; PyTorch by wall clock"
    lines = [
        f"## {plural(threads, 'thread')}: median ms ({clock})",
        "",
        "| | precision | " + " | ".join(map(str, LENGTHS)) + " |",
        "|---|---|" + "---|" * len(LENGTHS),
    ]
    for row in rows:
        cells = [_median_ms(row, (threads, length)) for length in LENGTHS]
        lines.append(f"| {row.name} | {row.precision} | {' | '.join(cells)} |")
    for precision in MIN_SPEED:
        cells = []
        for length in LENGTHS:
            best = best_peer(rows, precision, (threads, length))
            ratio = speed_ratio(best, own_row(rows, precision), (threads, length))
            cells.append(f"**{ratio:.2f}** ({best.name})")
        lines.append(f"| **best ONNX peer / ours** | {precision} | {' | '.join(cells)} |")
    return [*lines, ""]


def _median_ms(row: Row, at: Condition) -> str:
    if at not in row.seconds:
        return ABSENT
    return f"{1e3 * statistics.median(row.seconds[at]):.2f}"


def cold_lines(rows: Sequence[Row], source: Path) -> list[str]:
    """Table of load time, memory, size, and errors of hidden states."""
    lines = [
        "## Load, memory, size, hidden states",
        "",
        "| | precision | load ms (CPU) | peak MiB over import | bytes | / need"
        " | mean error | max | cosine |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        files = f"{ABSENT} | {ABSENT} | {ABSENT} | {ABSENT}"
        if row.graph is not None:
            load_ms = 1e3 * cold_figure(row, "load_cpu_s")
            peak_mib = cold_figure(row, "peak_bytes") / 2**20
            need = row.bytes / needed_bytes(source, row.precision)
            files = f"{load_ms:.0f} | {peak_mib:.0f} | {row.bytes:,} | {need:.3f}"
        errors = f"{ABSENT} | {ABSENT} | {ABSENT}"
        if row.mean_error is not None:
            errors = f"{row.mean_error:.3g} | {row.max_error:.3g} | {row.cosine:.6f}"
        lines.append(f"| {row.name} | {row.precision} | {files} | {errors} |")
    return [
        *lines,
        "",
        "Need: 4 bytes for every unique weight; in int8 1 for those in matrices and embeddings, 4",
        "for biases and norms, none for scales. Errors: compared with PyTorch's float32 on real",
        "text, in batches of three.",
        "",
    ]


def operator_lines(rows: Sequence[Row]) -> list[str]:
    """Where the time goes with one thread, for ours and the fastest peer there."""
    if all(threads != 1 for threads, _ in rows[0].seconds):
        return []
    lines = [
        "## Where the time goes, one thread, µs by operator (sums over nodes; the profiler adds"
        " some)",
        "",
    ]
    for precision in MIN_SPEED:
        for length in PROFILED_LENGTHS:
            peer = best_peer(rows, precision, (1, length))
            for row in (own_row(rows, precision), peer):
                times = operator_times(row.graph_file, length)
                longest = [f"{operator} {us}" for operator, us in times.most_common(9)]
                lines.append(
                    f"- {precision}, {length} tokens, {row.name}: {sum(times.values())}"
                    f" = {', '.join(longest)}, …"
                )
    return [*lines, ""]


if __name__ == "__main__":
    main()
