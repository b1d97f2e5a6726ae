"""Our artefacts against what other exporters make of the same model: speed, load, memory, size and fidelity.

    python benchmarks/export_peers.py shapes [--rounds 20] [--no-alternatives]
    python benchmarks/export_peers.py student --student RUN/student --text HELDOUT.txt
    python benchmarks/export_peers.py … --prepare        (environments and peers' artefacts only: slow, once)

Every peer exports in an environment of its own (made once, under the cache). Then all ONNX artefacts run in this one
process with this onnxruntime, interleaved: a round calls every artefact once, so that a slow moment of the machine hits
all of them. What is compared is the median over rounds of (best peer's time / our time) within a round.
OpenVINO and PyTorch answer from processes of their own, in the same rounds. A trained student is compared as masked LM,
too: agreement with PyTorch and mean error, artefact by artefact, by the product's own gate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime as ort
import torch
import transformers
from peers.measure import (
    LENGTHS,
    measure_cold,
    measure_hidden,
    measure_latency,
    measure_words,
    profile,
)
from peers.rows import Row, distilled_student, make_rows, needed_bytes, random_shapes, versions_of

from edgedistil.core.assets import cache_root
from edgedistil.core.records import ParityFigures, this_host

HERE = Path(__file__).resolve().parent
FASTER, LOAD, PEAK, SIZE = 1.10, 0.35, 0.6, 1.02
PROFILED = (16, 128)
TITLES = {
    "shapes": "DistilBERT's shapes, random weights",
    "student": "A distilled student of MiniLM",
}

Words = dict[str, list[ParityFigures]]


# --- figures ------------------------------------------------------------------------------------------


def mine(rows: list[Row], precision: str) -> Row:
    return next(row for row in rows if row.name == "ours" and row.precision == precision)


def peers_of(rows: list[Row], precision: str) -> list[Row]:
    return [row for row in rows if row.graph and row.name != "ours" and row.precision == precision]


def best_peer(rows: list[Row], precision: str, at: tuple[int, int]) -> Row:
    return min(peers_of(rows, precision), key=lambda row: statistics.median(row.seconds[at]))


def ratio(peer: Row, own: Row, at: tuple[int, int]) -> float:
    """Median over rounds of the peer's time over ours."""
    return statistics.median(p / m for p, m in zip(peer.seconds[at], own.seconds[at], strict=True))


def cold(row: Row, what: str) -> float:
    return statistics.median(each[what] for each in row.cold)


def mean(figures: list[ParityFigures], name: str) -> float:
    return statistics.mean(getattr(each, name) for each in figures)


# --- telling ------------------------------------------------------------------------------------------


def latency_table(rows: list[Row], threads: int) -> list[str]:
    clock = "processor time; OpenVINO and PyTorch by wall clock" if threads == 1 else "wall clock"
    lines = [f"## {threads} thread{'s' * (threads > 1)}: median ms ({clock})", ""]
    lines += [
        "| | precision | " + " | ".join(map(str, LENGTHS)) + " |",
        "|---|---|" + "---|" * len(LENGTHS),
    ]
    for row in rows:
        found = [row.seconds.get((threads, length)) for length in LENGTHS]
        shown = [f"{1e3 * statistics.median(each):.2f}" if each else "–" for each in found]
        lines.append(f"| {row.name} | {row.precision} | " + " | ".join(shown) + " |")
    for precision in ("int8", "fp32"):
        cells = []
        for length in LENGTHS:
            best = best_peer(rows, precision, (threads, length))
            cells.append(
                f"**{ratio(best, mine(rows, precision), (threads, length)):.2f}** ({best.name})"
            )
        lines.append(f"| **best ONNX peer / ours** | {precision} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def cold_table(rows: list[Row], source: Path) -> list[str]:
    need = {precision: needed_bytes(source, precision) for precision in ("fp32", "int8")}
    lines = ["## Load, memory, size, hidden states", ""]
    lines += [
        "| | precision | load ms (processor) | peak MiB over import | bytes | / need | mean error | max | cosine |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        errors = "– | – | –"
        if row.mean_error is not None:
            errors = f"{row.mean_error:.3g} | {row.max_error:.3g} | {row.cosine:.6f}"
        files = "– | – | – | –"
        if row.graph:
            load, peak = 1e3 * cold(row, "load_cpu_s"), cold(row, "peak_bytes") / 2**20
            files = (
                f"{load:.0f} | {peak:.0f} | {row.bytes:,} | {row.bytes / need[row.precision]:.3f}"
            )
        lines.append(f"| {row.name} | {row.precision} | {files} | {errors} |")
    lines += [
        "",
        "Need: 4 bytes for every unique weight; in int8 one for those in matrices and tables, 4 for biases and",
    ]
    return [
        *lines,
        "norms, none for scales. Errors are against PyTorch's float32 on real text, batches of three.",
        "",
    ]


def words_table(words: Words) -> list[str]:
    if not words:
        return []
    some = next(iter(words.values()))
    decisions, draws = sum(each.decisions for each in some), len(some)
    lines = [
        f"## As masked LM: {decisions} masked words of held-out text, {draws} draws of 67 sequences",
        "",
    ]
    lines += [
        "| artefact | agreement with PyTorch | mean error | KL, nats | largest difference |",
        "|---|---|---|---|---|",
    ]
    for key, figures in words.items():
        agreed = sum(each.agreement * each.decisions for each in figures) / decisions
        largest = max(each.max_abs for each in figures)
        error, kl = mean(figures, "mean_abs"), mean(figures, "kl_nats")
        lines.append(f"| {key} | {agreed:.2%} | {error:.4g} | {kl:.3g} | {largest:.3g} |")
    return [*lines, ""]


def aims(rows: list[Row], words: Words, source: Path, threads: list[int]) -> list[str]:
    """Every aim with its figure: met or missed."""

    def line(met: bool, text: str) -> str:
        return f"- {'met' if met else '**missed**'}: {text}"

    lines = ["## Aims", ""]
    for count in threads:
        for precision, bound in (("int8", FASTER), ("fp32", 1.0)):
            found = [
                ratio(
                    best_peer(rows, precision, (count, length)),
                    mine(rows, precision),
                    (count, length),
                )
                for length in LENGTHS
            ]
            shown = " / ".join(f"{each:.2f}" for each in found)
            which = f"{precision}, {count} thread{'s' * (count > 1)}"
            told = f"{which}: best peer / ours {shown} at {' / '.join(map(str, LENGTHS))} tokens"
            lines.append(line(min(found) >= bound, f"{told} (at least {bound:.2f} at each)"))
    for precision in ("fp32", "int8"):
        own, peer = (
            mine(rows, precision),
            next(row for row in peers_of(rows, precision) if "optimum" in row.name),
        )
        load, peak = (cold(own, what) / cold(peer, what) for what in ("load_cpu_s", "peak_bytes"))
        size = own.bytes / needed_bytes(source, precision)
        lines.append(
            line(
                load <= LOAD,
                f"{precision}: loads in {load:.2f} of optimum-onnx's time (at most {LOAD})",
            )
        )
        lines.append(
            line(
                peak <= PEAK,
                f"{precision}: peaks at {peak:.2f} of optimum-onnx's memory (at most {PEAK})",
            )
        )
        lines.append(
            line(
                size <= SIZE,
                f"{precision}: {size:.4f} of what the unique weights need (at most {SIZE})",
            )
        )
    own, errors = mine(rows, "int8"), {row.name: row.mean_error for row in peers_of(rows, "int8")}
    least = min(errors, key=lambda name: errors[name])
    told = f"int8, hidden states: mean error {own.mean_error:.4g}, the best peer's {errors[least]:.4g} ({least})"
    lines.append(line(own.mean_error < errors[least], f"{told} (smaller)"))
    for name, better, word in (
        (("agreement", max, "agreement"), ("mean_abs", min, "mean error")) if words else ()
    ):
        others = {k: mean(v, name) for k, v in words.items() if not k.startswith("ours")}
        got, best = mean(words["ours int8"], name), better(others, key=lambda key: others[key])
        met = got >= others[best] if better is max else got < others[best]
        lines.append(
            line(
                met,
                f"int8, masked words: {word} {got:.4g}, the best peer's {others[best]:.4g} ({best})",
            )
        )
    return [*lines, ""]


def profiles(rows: list[Row]) -> list[str]:
    """Where the time goes: ours and the fastest peer at one thread."""
    lines = [
        "## Where the time goes, one thread, µs by operator (sums over nodes; the profiler itself costs some)",
        "",
    ]
    for precision in ("int8", "fp32"):
        for length in PROFILED:
            peer = best_peer(rows, precision, (1, length))
            for row in (mine(rows, precision), peer):
                found = profile(row.graph, length)
                most = ", ".join(f"{operator} {spent}" for operator, spent in found.most_common(9))
                lines.append(
                    f"- {precision}, {length} tokens, {row.name}: {sum(found.values())} = {most}, …"
                )
    return [*lines, ""]


def head(which: str, load: float) -> list[str]:
    host = this_host()
    return [
        f"# Exporters compared, {datetime.now(UTC):%Y-%m-%d}: {TITLES[which]}",
        "",
        f"`python benchmarks/export_peers.py {' '.join(_told(each) for each in sys.argv[1:])}` · {host.cpu},",
        f"{host.cores} cores, {host.memory_bytes / 2**30:.0f} GiB, {host.system} · load average before {load:.1f}",
        "",
        f"onnxruntime {ort.__version__} for every ONNX row, torch {torch.__version__}, transformers"
        f" {transformers.__version__} (transformers.exporters) · "
        + versions_of("optimum-onnx", ["optimum-onnx", "transformers", "sentence-transformers"])
        + " · "
        + versions_of("openvino", ["openvino", "nncf"]),
        "",
        "Encoders (feature-extraction), batch 1. ONNX rows are interleaved call by call in one process; ratios are",
        "medians within a round. A ratio above 1 means that ours is faster. OpenVINO and PyTorch are what a user might",
        "pick instead; they have no part in the aims.",
        "",
    ]


def _told(argument: str) -> str:
    """A path by its name: where this machine keeps things is nobody's business."""
    return Path(argument).name if "/" in argument else argument


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=list(TITLES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--openings",
        type=int,
        default=4,
        help="times the sessions are opened anew within the rounds",
    )
    parser.add_argument("--cold-rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=4, help="of probes for masked words")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--student", type=Path, help="folder of a distilled student with its head")
    parser.add_argument(
        "--text",
        type=Path,
        help="held-out text, a document a line; else this repository's documents",
    )
    parser.add_argument(
        "--no-alternatives", action="store_true", help="leave OpenVINO and PyTorch out"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="make what is compared, and measure nothing"
    )
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "work")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if chosen.which == "student" and chosen.student is None:
        parser.error("student needs --student FOLDER")
    source = (
        random_shapes(chosen.work)
        if chosen.which == "shapes"
        else distilled_student(chosen.work, chosen.student)
    )
    files = [chosen.text] if chosen.text else sorted(HERE.parent.glob("docs/*.md"))
    text = [
        line
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if len(line) > 60
    ]
    rows = make_rows(
        source, text, task="feature-extraction", alternatives=not chosen.no_alternatives
    )
    as_words = (
        make_rows(source, text, task="fill-mask", alternatives=False)
        if chosen.which == "student"
        else []
    )
    if chosen.prepare:
        return
    measure_cold(rows, rounds=chosen.cold_rounds)  # before anything else holds memory or a core
    measure_hidden(rows, source, text)
    words = measure_words(as_words, source, text, draws=chosen.draws) if as_words else {}
    for threads in chosen.threads:
        measure_latency(rows, threads=threads, rounds=chosen.rounds, openings=chosen.openings)
    lines = [*head(chosen.which, load), *aims(rows, words, source, chosen.threads)]
    for threads in chosen.threads:
        lines += latency_table(rows, threads)
    lines += [*cold_table(rows, source), *words_table(words), *profiles(rows)]
    target = chosen.out / f"export_peers-{chosen.which}-{datetime.now(UTC):%Y-%m-%d}.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
