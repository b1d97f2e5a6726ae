"""Three parts of our own against the libraries that could replace them.

    python benchmarks/library_alternatives.py corpus [--megabytes M]
    python benchmarks/library_alternatives.py wikitext      # needs: pip install mwparserfromhell
    python benchmarks/library_alternatives.py calibration

- corpus: `data/token_store` and its layouts against `datasets.map` with the same tokenizer, from a
  text file to rows on disk, and reading batches of random rows back.
- wikitext: `data/wikitext` against mwparserfromhell, on the dump of the asset wikipedia-sample.
- calibration: `export/calibrate` against onnxruntime's histogram calibrator, on the inputs of all
  linear layers of MiniLM.

The contenders of a part take turns; figures are medians of the rounds. The results are in
benchmarks/results/library_alternatives-DATE.md and in docs/decisions.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from page import write_raw

from edgedistil.core.assets import fetch_asset, read_member
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import Corpus, SourceSpec
from edgedistil.core.records import this_host
from edgedistil.data.corpus import prepare_corpus
from edgedistil.data.heldout_split import HeldoutSplit
from edgedistil.data.sources import read_documents
from edgedistil.data.token_store import TokenStore
from edgedistil.data.tokenization import load_tokenizer, read_framing
from edgedistil.export.probe_inputs import pad_sequences
from edgedistil.models.teacher import load_teacher

ASSETS = ("wikipedia-sample", "world-english-bible", "reviews", "newsgroups")
BLOCK = 128
CORES = 2
READ_BATCHES, BATCH_ROWS = 300, 32
# The first layers' linears: onnxruntime's search for an entropy threshold takes seconds a tensor.
CALIBRATION_CALLS, CALIBRATION_TENSORS = 16, 12

Seconds = tuple[float, float]  # wall clock, and processor time with child processes


@dataclass(frozen=True)
class Section:
    """One part of the page, and what its figures are computed from."""

    lines: list[str]
    raw: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["corpus", "wikitext", "calibration"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=3.0, help="text for corpus")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))
    os.environ["RAYON_NUM_THREADS"] = str(CORES)  # before the tokenizer library makes its pool
    with tempfile.TemporaryDirectory() as scratch:
        parts: dict[str, Callable[[], Section]] = {
            "corpus": lambda: compare_corpus(Path(scratch), arguments.megabytes, arguments.rounds),
            "wikitext": lambda: compare_wikitext(arguments.rounds),
            "calibration": lambda: compare_calibration(arguments.rounds),
        }
        write_results(arguments.part, parts[arguments.part](), arguments.rounds)


# --- corpus --------------------------------------------------------------------------------------


def compare_corpus(scratch: Path, megabytes: float, rounds: int) -> Section:
    """Text file to packed rows on disk, then reading random rows."""
    import datasets

    datasets.disable_progress_bars()
    tokenizer = load_teacher("asset:minilm", revision=None, cache=cache_root()).folder
    text = scratch / "text.txt"
    documents = asset_documents(megabytes)
    text.write_text("\n".join(documents), encoding="utf-8")
    stores: dict[str, Any] = {}

    def ours() -> None:
        # An empty cache each round; it stays, because its rows are memory-mapped.
        cache = Path(tempfile.mkdtemp(dir=scratch))
        settings = Corpus(
            sources=[SourceSpec(files=str(text))],
            block_length=BLOCK,
            heldout_share=0.01,
            heldout_max_documents=2000,
        )
        corpus = prepare_corpus(settings, tokenizer, cache=cache, workers=CORES)
        stores["ours"] = corpus.train

    def library(processes: int | None) -> Callable[[], None]:
        def run() -> None:
            cache = Path(tempfile.mkdtemp(dir=scratch))
            loaded = datasets.load_dataset(
                "text", data_files=str(text), split="train", cache_dir=str(cache)
            )
            stores["datasets"] = pack_dataset(loaded, tokenizer, cache, processes)

        return run

    def library_behind_our_readers() -> None:
        cache = Path(tempfile.mkdtemp(dir=scratch))
        loaded = datasets.Dataset.from_generator(
            training_rows, gen_kwargs={"text": str(text)}, cache_dir=str(cache)
        )
        pack_dataset(loaded, tokenizer, cache, None)

    contenders = {
        "ours: token_store, 2 threads": ours,
        "datasets.map behind our readers and held-out split": library_behind_our_readers,
        "datasets.map, the tokenizer library's own threads": library(None),
        "datasets.map, num_proc = 2": library(2),
    }
    seconds = take_turns(contenders, rounds)
    tokens = stores["ours"].tokens
    lines = [
        f"Text: {text.stat().st_size / 1e6:.1f} MB, {len(documents)} documents of the assets "
        f"{', '.join(ASSETS)}; rows of {BLOCK} tokens, {tokens:,} tokens of training rows.",
        "Ours also splits off the held-out documents, hashes the sources and counts the tokens; "
        "`datasets` drops the tokens at the end of each batch of 1,000 documents that fill no row.",
        "",
        *time_table(seconds, unit=f"k tokens/s of {tokens:,}", amount=tokens / 1e3),
        "",
    ]
    reading = compare_reading(stores, rounds)
    raw = {"megabytes": megabytes, "tokens": tokens, "seconds": seconds, **reading.raw}
    return Section(lines + reading.lines, raw)


def training_rows(text: str) -> Iterator[dict[str, str]]:
    """The documents of the training part, as `datasets` takes them from a generator."""
    split = HeldoutSplit(0.01, 2000)
    for document in read_documents(SourceSpec(files=text), on_bad_utf8="refuse"):
        for training in split.add(document):
            yield {"text": training}


def pack_dataset(loaded: Any, tokenizer: Path, cache: Path, processes: int | None) -> Any:
    """Tokenize and pack with one batched map, which is the fastest way of `datasets`."""
    import datasets

    os.environ["TOKENIZERS_PARALLELISM"] = "false" if processes else "true"
    fast = load_tokenizer(tokenizer)
    framing = read_framing(tokenizer)
    inside = BLOCK - 2

    def pack(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids: list[int] = []
        for encoding in fast.encode_batch_fast(batch["text"], add_special_tokens=False):
            ids += encoding.ids
            ids.append(framing.separator)
        rows = len(ids) // inside
        blocks = np.full((rows, BLOCK), framing.separator, np.uint16)
        blocks[:, :1] = framing.before
        blocks[:, 1:-1] = np.array(ids[: rows * inside], np.uint16).reshape(rows, inside)
        return {"input_ids": blocks}

    features = datasets.Features({"input_ids": datasets.List(datasets.Value("uint16"))})
    return loaded.map(
        pack,
        batched=True,
        remove_columns=["text"],
        features=features,
        num_proc=processes,
        cache_file_name=str(cache / "packed.arrow"),
    )


def compare_reading(stores: dict[str, Any], rounds: int) -> Section:
    """Batches of random rows out of both memory maps; the files were opened before."""
    ours: TokenStore = stores["ours"]
    library = stores["datasets"].with_format("numpy")
    rng = np.random.default_rng(1)
    rows = rng.integers(0, min(len(ours), len(library)), (READ_BATCHES, BATCH_ROWS))

    def read_ours() -> None:
        for batch in rows:
            np.stack([ours[row] for row in batch.tolist()]).astype(np.int64)

    def read_library() -> None:
        for batch in rows:
            np.asarray(library[batch]["input_ids"]).astype(np.int64)

    seconds = take_turns({"ours": read_ours, "datasets": read_library}, rounds)
    lines = [
        f"Reading {READ_BATCHES} batches of {BATCH_ROWS} random rows:",
        "",
        *time_table(seconds, unit="batches/s", amount=READ_BATCHES),
    ]
    return Section(lines, {"reading_seconds": seconds})


def asset_documents(megabytes: float) -> list[str]:
    """Every n-th document of the demo's text, so that a part is like all of it."""
    documents = []
    for name in ASSETS:
        texts = read_documents(SourceSpec(asset=name), on_bad_utf8="refuse")
        documents += [" ".join(text.split()) for text in texts]
    size = sum(len(document.encode()) for document in documents) / 1e6
    return documents[:: max(1, round(size / megabytes))]


# --- wikitext ------------------------------------------------------------------------------------


def compare_wikitext(rounds: int) -> Section:
    """Paragraphs of the dump; markup that is left in them is counted."""
    from edgedistil.data.asset_text import _WIKIPEDIA
    from edgedistil.data.wikitext import dump_paragraphs

    dump = read_member(fetch_asset("wikipedia-sample"), _WIKIPEDIA)
    results: dict[str, list[str]] = {}

    def ours() -> None:
        results["ours: regular expressions"] = list(dump_paragraphs(dump))

    def library() -> None:
        results["mwparserfromhell"] = parsed_paragraphs(dump)

    contenders = {"ours: regular expressions": ours, "mwparserfromhell": library}
    seconds = take_turns(contenders, rounds)
    lines = [*time_table(seconds, unit="MB of dump/s", amount=len(dump) / 1e6), ""]
    lines += ["| contender | paragraphs | MB of text | with markup left |", "|---|---|---|---|"]
    marks = ("{{", "}}", "[[", "]]", "'''", "<ref", "http://", "|thumb", "thumb|")
    counts = {}
    for name, paragraphs in results.items():
        size = sum(len(paragraph.encode()) for paragraph in paragraphs) / 1e6
        marked = [text for text in paragraphs if any(mark in text for mark in marks)]
        lines.append(f"| {name} | {len(paragraphs)} | {size:.2f} | {len(marked)} |")
        counts[name] = [len(paragraphs), size, len(marked)]
    first, second = (set(paragraphs) for paragraphs in results.values())
    share = len(first & second) / len(first)
    lines += ["", f"{share:.1%} of our paragraphs are also paragraphs of mwparserfromhell."]
    return Section(lines, {"seconds": seconds, "paragraphs": counts, "share": share})


def parsed_paragraphs(dump: bytes) -> list[str]:
    """`dump_paragraphs` with the parser in place of the regular expressions."""
    import mwparserfromhell

    from edgedistil.data import wikitext

    paragraphs = []
    for _event, element in wikitext.ElementTree.iterparse(io.BytesIO(dump)):
        if wikitext._local_name(element.tag) != "page":
            continue
        fields = {wikitext._local_name(child.tag): child.text or "" for child in element.iter()}
        if fields.get("ns") == "0" and "redirect" not in fields:
            plain = mwparserfromhell.parse(fields.get("text", "")).strip_code()
            for line in plain.split("\n"):
                paragraph = " ".join(line.split())
                is_prose = not wikitext._is_markup(paragraph) and len(paragraph.split()) >= 8
                if is_prose:
                    paragraphs.append(paragraph)
        element.clear()
    return paragraphs


# --- calibration ---------------------------------------------------------------------------------


def compare_calibration(rounds: int) -> Section:
    """Histograms and ranges of the same activations; running the graph is not timed."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    from edgedistil.export.calibrate import Histogram, entropy_range, percentile_range

    calls = linear_inputs(CALIBRATION_CALLS)
    names = list(calls[0])[:CALIBRATION_TENSORS]
    calls = [{name: call[name] for name in names} for call in calls]
    functions = {"percentile": percentile_range, "entropy": entropy_range}
    bounds: dict[str, dict[str, float]] = {}

    def ours(method: str) -> Callable[[], None]:
        def run() -> None:
            histograms = {name: Histogram() for name in names}
            for call in calls:
                for name, values in call.items():
                    histograms[name].add(values)
            ranges = {name: functions[method](histograms[name]) for name in names}
            bounds[f"ours {method}"] = {name: ranges[name][1] for name in names}

        return run

    def library(method: str) -> Callable[[], None]:
        def run() -> None:
            # As its calibrator does: every call's tensors are in memory, then collected at once.
            collector = HistogramCollector(method, False, 2048, 256, 99.99, "same")
            with contextlib.redirect_stdout(io.StringIO()):
                collector.collect({name: [call[name] for call in calls] for name in names})
                ranges = collector.compute_collection_result()
            bounds[f"onnxruntime {method}"] = {name: float(ranges[name][1]) for name in names}

        return run

    contenders = {}
    for method in functions:
        contenders[f"ours {method}"] = ours(method)
        contenders[f"onnxruntime {method}"] = library(method)
    seconds = take_turns(contenders, rounds)
    megabytes = sum(values.nbytes for call in calls for values in call.values()) / 1e6
    lines = [
        f"{len(names)} tensors, {len(calls)} calls of 8 × 64 tokens, {megabytes:.0f} MB of "
        "float32. onnxruntime's calibrator holds all of it in memory, ours one call.",
        "",
        *time_table(seconds, unit="tensors/s", amount=len(names)),
        "",
    ]
    for method in functions:
        own, other = bounds[f"ours {method}"], bounds[f"onnxruntime {method}"]
        ratios = [own[name] / other[name] for name in names]
        lines.append(
            f"{method}: our upper bound over onnxruntime's: median "
            f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}."
        )
    return Section(lines, {"megabytes": megabytes, "seconds": seconds, "bounds": bounds})


def linear_inputs(calls: int) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Inputs of every linear layer of MiniLM's encoder, on the demo's text."""
    import torch
    from torch import nn

    teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
    documents = asset_documents(1.0)
    recorded: list[dict[str, np.ndarray[Any, Any]]] = []

    def record(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            recorded[-1][name] = inputs[0].numpy().copy()

        return hook

    for name, module in teacher.model.bert.encoder.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(record(name))
    for call in range(calls):
        recorded.append({})
        texts = documents[call * 8 : call * 8 + 8]
        sequences = teacher.tokenizer.encode_framed(texts, 64)
        batch = pad_sequences(sequences, 64, pad_id=teacher.tokenizer.pad_id)
        with torch.no_grad():
            ids_BL, mask_BL = (batch[name] for name in ("input_ids", "attention_mask"))
            teacher.model.bert(torch.from_numpy(ids_BL), torch.from_numpy(mask_BL))
    return recorded


# --- timing and output ---------------------------------------------------------------------------


def take_turns(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[Seconds]]:
    """Run every contender once a round."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in contenders}
    for _round in range(rounds):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            run()
            seconds[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
            print(f"{name}: {seconds[name][-1][0]:.2f} s", flush=True)
    return seconds


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def time_table(seconds: dict[str, list[Seconds]], *, unit: str, amount: float) -> list[str]:
    lines = [
        f"| contender | wall s | {unit} | CPU s | rate by CPU | all rounds, wall s |",
        "|---|---|---|---|---|---|",
    ]
    reference = None
    for name, values in seconds.items():
        wall = statistics.median(value[0] for value in values)
        cpu = statistics.median(value[1] for value in values)
        reference = cpu if reference is None else reference
        rounds = " ".join(f"{value[0]:.2f}" for value in values)
        lines.append(
            f"| {name} | {wall:.2f} | {amount / wall:.1f} | {cpu:.2f} | {reference / cpu:.2f}x "
            f"| {rounds} |"
        )
    return lines


def write_results(part: str, section: Section, rounds: int) -> None:
    """Append one part to today's file, and write its raw record."""
    host = this_host()
    packages = ["edgedistil", "tokenizers", "datasets", "pyarrow", "numpy", "onnxruntime"]
    if part == "wikitext":
        packages.append("mwparserfromhell")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    path = Path(__file__).parent / "results" / f"library_alternatives-{today}.md"
    if not path.is_file():
        path.write_text(f"# Our own parts against libraries, {today}\n", encoding="utf-8")
    text = [
        f"\n## {part}",
        "",
        f"Host: {host.cpu}, {CORES} of {host.cores} cores, {host.system}, Python {host.python}; "
        f"load average at the end {os.getloadavg()[0]:.1f}.",
        f"Versions: {versions}. Command: `python benchmarks/library_alternatives.py {part}`, "
        f"{rounds} rounds, medians.",
        "",
        *section.lines,
    ]
    write_raw(path.parent, f"library_alternatives-{part}", section.raw)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
