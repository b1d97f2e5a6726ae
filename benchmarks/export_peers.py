"""Our artefacts compared with those of other exporters: speed, load, memory, size and fidelity.

    python benchmarks/export_peers.py shapes [--rounds 20] [--no-alternatives]
    python benchmarks/export_peers.py student --student RUN/student --text HELDOUT.txt
    python benchmarks/export_peers.py … --prepare      only environments and artefacts: slow, once

Every peer exports in an environment of its own, which is created once in the cache. All ONNX
artefacts then run in this process with this onnxruntime, interleaved: a round calls every
artefact once, so that a slow moment of the machine affects all of them. Compared is the median
over the rounds of (best peer's time / our time) within a round. OpenVINO and PyTorch run in
processes of their own, in the same rounds. A trained student is also compared as a masked LM:
agreement with PyTorch and mean error of each artefact, by the product's own parity check.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    measure_predictions,
    operator_times,
)
from peers.rows import (
    OURS,
    Row,
    distilled_student,
    make_rows,
    needed_bytes,
    random_shapes,
    raw_rows,
    versions_of,
)

from edgedistil.core.export_records import ParityFigures
from edgedistil.core.format import ABSENT, gibibytes, plural
from edgedistil.core.places import cache_root
from edgedistil.core.records import this_host
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK

DOCS = Path(__file__).resolve().parent.parent / "docs"
TITLES = {
    "shapes": "DistilBERT's shapes, random weights",
    "student": "A distilled student of MiniLM",
}
# Aims: smallest speed ratio in int8 and fp32; largest share of optimum-onnx's load time and memory;
# largest ratio of file size to the bytes of the unique weights.
MIN_SPEED = {"int8": 1.05, "fp32": 1.0}
MAX_LOAD, MAX_PEAK, MAX_SIZE = 0.30, 0.6, 1.02
# Lengths at which the time is broken down by operator.
PROFILED_LENGTHS = (16, 128)
# Shorter lines of text are headings and list items.
MIN_CHARACTERS = 60

# Key of a row → figures of each draw of probes.
Predictions = Mapping[str, Sequence[ParityFigures]]
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
    alternatives = not arguments.no_alternatives
    rows = make_rows(source, text, task=ENCODER_TASK, alternatives=alternatives)
    mlm_rows: list[Row] = []
    if is_student:
        mlm_rows = make_rows(source, text, task=FILL_MASK_TASK, alternatives=False)
    if arguments.prepare:
        return

    # Fresh processes come first, before anything here occupies memory or a core.
    measure_cold(rows, rounds=arguments.cold_rounds)
    measure_hidden(rows, source, text)
    predictions: Predictions = {}
    if mlm_rows:
        predictions = measure_predictions(mlm_rows, source, text, draws=arguments.draws)
    for threads in arguments.threads:
        measure_latency(rows, threads=threads, rounds=arguments.rounds, openings=arguments.openings)

    lines = [
        *head_lines(arguments.which, load),
        *aim_lines(rows, predictions, source, arguments.threads),
    ]
    for threads in arguments.threads:
        lines += latency_lines(rows, threads)
    lines += [*cold_lines(rows, source), *prediction_lines(predictions), *operator_lines(rows)]
    stem = f"export_peers-{arguments.which}"
    print(write_page(arguments.out, stem, "\n".join(lines)))
    write_raw(arguments.out, stem, {"rows": raw_rows(rows), "predictions": dict(predictions)})


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("which", choices=list(TITLES), help="what is exported")
    parser.add_argument("--rounds", type=int, default=20, help="calls per row and length")
    parser.add_argument(
        "--openings", type=int, default=4, help="times the sessions are opened within the rounds"
    )
    parser.add_argument("--cold-rounds", type=int, default=5, help="fresh processes per row")
    parser.add_argument("--draws", type=int, default=4, help="draws of probes for masked tokens")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--student", type=Path, help="folder of a distilled student with its head")
    parser.add_argument(
        "--text",
        type=Path,
        help="held-out text, one document per line; default: this repository's documents",
    )
    parser.add_argument(
        "--no-alternatives", action="store_true", help="leave OpenVINO and PyTorch out"
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


def mean_figure(draws: Sequence[ParityFigures], figure: str) -> float:
    return statistics.mean(getattr(figures, figure) for figures in draws)


# --- head and aims -------------------------------------------------------------------------------


def head_lines(which: str, load: float) -> list[str]:
    # Paths by their names only: the page is published.
    command = [Path(argument).name for argument in sys.argv[1:]]
    optimum = versions_of("optimum-onnx", ["optimum-onnx", "transformers", "sentence-transformers"])
    openvino = versions_of("openvino", ["openvino", "nncf"])
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
        "OpenVINO and PyTorch are alternatives that a user has; they have no part in the aims.",
        "",
    ]


def aim_lines(
    rows: Sequence[Row], predictions: Predictions, source: Path, threads: Sequence[int]
) -> list[str]:
    """Section with every aim: met or missed, with its figure."""
    lines = ["## Aims", ""]
    for count in threads:
        lines += [_speed_aim(rows, precision, count) for precision in MIN_SPEED]
    for precision in ("fp32", "int8"):
        lines += _cold_aims(rows, precision, source)
    lines.append(_hidden_aim(rows))
    if predictions:
        lines += _prediction_aims(predictions)
    return [*lines, ""]


def _aim(is_met: bool, text: str) -> str:
    return f"- {'met' if is_met else '**missed**'}: {text}"


def _speed_aim(rows: Sequence[Row], precision: str, threads: int) -> str:
    own = own_row(rows, precision)
    ratios = []
    for length in LENGTHS:
        at = (threads, length)
        ratios.append(speed_ratio(best_peer(rows, precision, at), own, at))
    bound = MIN_SPEED[precision]
    return _aim(
        min(ratios) >= bound,
        f"{precision}, {plural(threads, 'thread')}: best peer / ours"
        f" {' / '.join(f'{ratio:.2f}' for ratio in ratios)} at {' / '.join(map(str, LENGTHS))}"
        f" tokens (at least {bound:.2f} at each)",
    )


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


def _prediction_aims(predictions: Predictions) -> Iterator[str]:
    own = predictions[f"{OURS} int8"]
    peers = {key: draws for key, draws in predictions.items() if not key.startswith(OURS)}
    agreements = {key: mean_figure(draws, "agreement") for key, draws in peers.items()}
    best = max(agreements, key=lambda key: agreements[key])
    agreement = mean_figure(own, "agreement")
    yield _aim(
        agreement >= agreements[best],
        f"int8, masked tokens: agreement {agreement:.4g}, the best peer's {agreements[best]:.4g}"
        f" ({best})",
    )
    errors = {key: mean_figure(draws, "mean_abs") for key, draws in peers.items()}
    best = min(errors, key=lambda key: errors[key])
    error = mean_figure(own, "mean_abs")
    yield _aim(
        error < errors[best],
        f"int8, masked tokens: mean error {error:.4g}, the best peer's {errors[best]:.4g} ({best})",
    )


# --- tables --------------------------------------------------------------------------------------


def latency_lines(rows: Sequence[Row], threads: int) -> list[str]:
    """Table of medians at one thread count, with the ratio to the best peer below."""
    clock = "wall clock"
    if threads == 1:
        clock = "CPU time; OpenVINO and PyTorch by wall clock"
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


def prediction_lines(predictions: Predictions) -> list[str]:
    """Table of predictions at masked tokens; empty without any."""
    if not predictions:
        return []
    some = next(iter(predictions.values()))
    decisions = sum(figures.decisions for figures in some)
    lines = [
        f"## As masked LM: {decisions} masked tokens of held-out text, {len(some)} draws of 67"
        " sequences",
        "",
        "| artefact | agreement with PyTorch | mean error | KL, nats | largest difference |",
        "|---|---|---|---|---|",
    ]
    for key, draws in predictions.items():
        agreed = sum(_agreed(figures) for figures in draws) / decisions
        error, kl = mean_figure(draws, "mean_abs"), mean_figure(draws, "kl_nats")
        largest = max(figures.max_abs for figures in draws)
        lines.append(f"| {key} | {agreed:.2%} | {error:.4g} | {kl:.3g} | {largest:.3g} |")
    return [*lines, ""]


def _agreed(figures: ParityFigures) -> float:
    """Number of predictions that agree."""
    assert isinstance(figures.agreement, float), "a masked LM decides"
    return figures.agreement * figures.decisions


def operator_lines(rows: Sequence[Row]) -> list[str]:
    """Where the time goes with one thread, for ours and the fastest peer."""
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
