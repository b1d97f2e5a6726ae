"""Our graphs compared with other exporters', for one model of each encoder family.

    python benchmarks/families.py --prepare           only environments and artefacts, minutes
    python benchmarks/families.py                     about 12 minutes on 2 idle cores
    python benchmarks/families.py --families bert roberta      a part; the page has all parts
    python benchmarks/families.py --layers 2 --rounds 2 --out /tmp/try     a quick try

Models have the shapes of the family's base model and random weights, on which the speed does not
depend. All artefacts of a family and a precision run in this process, call by call in turns, with
one thread and onnxruntime's default options. Compared is the median over the rounds of (best peer's
time / our time) within a round. A peer that cannot export a family has no row, and the page says
so. Every graph is also compared with our float32 graph on padded texts, so that no row is fast
because it computes something else. The raw record has the seconds of every call; a run for some
families keeps the others of the same day and settings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import transformers
from page import (
    RESULTS,
    argument_parser,
    host_line,
    load_averages,
    system_line,
    today,
    write_page,
    write_raw,
)
from peers.measure import measure_latency, open_session, session_feeds
from peers.rows import OURS, Row, optimum_rows, our_rows, transformers_rows, versions_of
from transformers import AutoConfig, AutoModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.places import cache_root
from edgedistil.core.task import ENCODER_TASK

LENGTHS = (32, 128)
THREADS = 1
# Base models' values that are not transformers' defaults.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": {
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "electra": {
        "embedding_size": 768,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "mpnet": {"max_position_embeddings": 514, "layer_norm_eps": 1e-5},
    "albert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "mobilebert": {},
    "modernbert": {},
    "deberta-v2": {
        "vocab_size": 128100,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
}
# The families of the aims, where they are supported.
STANDARD = ("bert", "roberta", "electra", "mpnet", "albert", "modernbert", "deberta-v2")
# Aims: level with the best peer everywhere, and faster in int8 as the median over all.
MIN_RATIO, MIN_INT8_MEDIAN = 1.0, 1.10
PRECISIONS = ("fp32", "int8")
# Largest difference of a float32 graph from ours: more is another computation.
MAX_FLOAT_DIFFERENCE = 1e-3
STEM = "families"


@dataclass(frozen=True)
class MeasuredRow:
    """One artefact: seconds of its calls by length, and its distance from our float32 graph."""

    name: str
    precision: str
    seconds: Mapping[str, Sequence[float]]
    largest_difference: float
    mean_difference: float


@dataclass(frozen=True)
class Ratio:
    """Best peer's time divided by ours: the median over rounds, and its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        ordered, count = sorted(ratios), len(ratios)
        # The k-th smallest and largest: with binomial probability at least 95% around the median.
        rank = max(0, round(count / 2 - 0.98 * count**0.5) - 1)
        return cls(statistics.median(ordered), ordered[rank], ordered[count - 1 - rank])


@dataclass(frozen=True)
class FamilyRows:
    """Rows of one family, and the peers that could not export it."""

    family: str
    rows: Sequence[MeasuredRow]
    missing: Sequence[str]

    def peers(self, precision: str) -> list[MeasuredRow]:
        return [row for row in self.rows if row.name != OURS and row.precision == precision]

    def own(self, precision: str) -> MeasuredRow:
        return next(row for row in self.rows if row.name == OURS and row.precision == precision)

    def ratio(self, precision: str, length: int) -> Ratio:
        """Ratio to the peer with the smallest median."""
        at, own = str(length), self.own(precision)
        best = min(self.peers(precision), key=lambda row: statistics.median(row.seconds[at]))
        pairs = zip(best.seconds[at], own.seconds[at], strict=True)
        return Ratio.of([peer_s / own_s for peer_s, own_s in pairs])


@dataclass(frozen=True)
class Exported:
    """Artefacts of one family that are to be measured."""

    family: str
    rows: list[Row]
    missing: list[str]


def main() -> None:
    arguments = parse_arguments()
    load = load_averages()
    arguments.work.mkdir(parents=True, exist_ok=True)
    # Export everything first: an export between two measurements would disturb them.
    exported = []
    for family in arguments.families:
        source = random_model(arguments.work, family, layers=arguments.layers)
        exported.append(export_family(family, source))
    if arguments.prepare:
        return
    measured = {item.family: asdict(measure_family(item, arguments)) for item in exported}
    content = {
        "settings": settings_of(arguments),
        "load": load,
        "peers": versions(),
        "families": earlier_parts(arguments) | measured,
    }
    print(write_raw(arguments.out, STEM, content))
    print(write_page(arguments.out, STEM, "\n".join(page_lines(content))))


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    supported = [family for family in SHAPES if family in FAMILIES]
    standard = [family for family in STANDARD if family in FAMILIES]
    parser.add_argument("--families", nargs="+", choices=supported, default=standard)
    parser.add_argument("--rounds", type=int, default=16, help="calls per row and length")
    parser.add_argument("--openings", type=int, default=4, help="times the sessions are opened")
    parser.add_argument("--layers", type=int, help="layers of every model, for a quick try")
    parser.add_argument("--prepare", action="store_true", help="only export, measure nothing")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "families")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What parts must have in common to be on one page."""
    return {name: getattr(arguments, name) for name in ("rounds", "openings", "layers")}


def earlier_parts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Families of today's record with the same settings."""
    path = arguments.out / f"{STEM}-{today()}.json"
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["settings"] != settings_of(arguments):
        return {}
    families: dict[str, Any] = content["families"]
    return families


def versions() -> str:
    optimum = versions_of("optimum-onnx", ["optimum-onnx", "transformers"])
    return (
        f"onnxruntime {ort.__version__} for every row, torch {torch.__version__},"
        f" transformers {transformers.__version__} (transformers.exporters) · {optimum}"
    )


# --- models and artefacts ------------------------------------------------------------------------


def random_model(work: Path, family: str, *, layers: int | None) -> Path:
    """Writes a model with a family's base shapes and random weights, once."""
    shape = dict(SHAPES[family])
    if layers is not None:
        shape[FAMILIES[family].keys.layers] = layers
    folder = work / (family if layers is None else f"{family}-{layers}-layers")
    if not folder.exists():
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(family, **shape)).save_pretrained(folder)
    return folder


def export_family(family: str, source: Path) -> Exported:
    """Exports a model with every tool; peers' artefacts are reused from an earlier call."""
    folder = source.with_name(f"{source.name}.artefacts")
    folder.mkdir(exist_ok=True)
    ours = our_rows(source, folder / OURS, ENCODER_TASK)
    rows = [row for row in ours if row.precision in PRECISIONS]
    missing = []
    try:
        rows += optimum_rows(source, folder / "optimum", ENCODER_TASK)
    except subprocess.CalledProcessError:
        missing.append("optimum-onnx")
    exported = transformers_rows(source, folder / "transformers", ENCODER_TASK)
    if not exported:
        missing.append("transformers.exporters")
    return Exported(family, rows + exported, missing)


# --- measuring -----------------------------------------------------------------------------------


def measure_family(exported: Exported, arguments: argparse.Namespace) -> FamilyRows:
    """Compares the outputs of a family's artefacts, then their times, a precision at a time."""
    distances = differences(exported.rows)
    for precision in PRECISIONS:
        rows = [row for row in exported.rows if row.precision == precision]
        print(f"{exported.family} {precision}: {', '.join(row.name for row in rows)}", flush=True)
        measure_latency(
            rows,
            threads=THREADS,
            rounds=arguments.rounds,
            openings=arguments.openings,
            lengths=LENGTHS,
        )
    measured = []
    for row in exported.rows:
        seconds = {str(at): row.seconds[THREADS, at] for at in LENGTHS}
        measured.append(MeasuredRow(row.name, row.precision, seconds, *distances[row.key]))
    return FamilyRows(exported.family, measured, exported.missing)


def differences(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Largest and mean difference of each artefact's hidden states from our float32 graph's.

    Of three texts of one batch, one of them padded; key of the row → differences at its tokens.
    """
    # No padding id is among them: RoBERTa's positions would skip it.
    ids = np.random.default_rng(3).integers(1000, 30000, (3, LENGTHS[0]))
    mask = np.ones_like(ids)
    mask[1, LENGTHS[0] // 3 :] = 0
    outputs = {}
    for row in rows:
        session = open_session(row.graph_file, THREADS)
        feeds = session_feeds(session, ids)
        feeds["attention_mask"] = mask
        # A graph without this input has the first segment for every token.
        if "token_type_ids" in feeds:
            feeds["token_type_ids"] = np.zeros_like(ids)
        outputs[row.key] = session.run(None, feeds)[0][mask == 1]
    own = outputs[f"{OURS} fp32"]
    distances = {}
    for row in rows:
        difference = np.abs(outputs[row.key] - own)
        distances[row.key] = float(difference.max()), float(difference.mean())
        if row.precision == "fp32" and difference.max() > MAX_FLOAT_DIFFERENCE:
            raise SystemExit(f"{row.key} computes something else than ours: {difference.max():.2g}")
    return distances


# --- page ----------------------------------------------------------------------------------------


def page_lines(content: Mapping[str, Any]) -> list[str]:
    """Returns the page of a raw record."""
    families = []
    for item in content["families"].values():
        rows = [MeasuredRow(**row) for row in item["rows"]]
        families.append(FamilyRows(item["family"], rows, item["missing"]))
    # Paths by their names only: the page is published.
    command = [Path(argument).name for argument in sys.argv[1:]]
    lines = [
        f"# Encoder families compared, {today()}",
        "",
        f"`python benchmarks/families.py {' '.join(command)}` · {host_line()},",
        f"{system_line()} · load average before {content['load']} · raw: {STEM}-{today()}.json",
        "",
        content["peers"],
        "",
        "Encoders (feature-extraction) with random weights, batch 1, one thread, CPU time. A ratio",
        "above 1 means that ours is faster than the fastest other graph of the same precision; in",
        "brackets the 95% interval of the median. Differences are from our float32 graph, at the",
        "tokens of three texts.",
        "",
        *aim_lines(families),
    ]
    for family in families:
        lines += family_lines(family)
    return lines


def aim_lines(measured: Sequence[FamilyRows]) -> list[str]:
    """Section with every aim: met or missed, with its figure."""
    ratios = {
        (item.family, precision, length): item.ratio(precision, length)
        for item in measured
        for precision in PRECISIONS
        for length in LENGTHS
        if item.peers(precision)
    }
    if not ratios:
        return ["No peer exported any of these models.", ""]
    slowest = min(ratios, key=lambda key: ratios[key].value)
    below = {key: ratio for key, ratio in ratios.items() if ratio.value < MIN_RATIO}
    certain = [key for key, ratio in below.items() if ratio.high < MIN_RATIO]
    level = "level within the interval" if below else "met"
    if certain:
        level = "**missed**"
    int8 = [ratio.value for (_, precision, _), ratio in ratios.items() if precision == "int8"]
    median = statistics.median(int8)
    faster = "met" if median >= MIN_INT8_MEDIAN else "**missed**"
    return [
        "## Aims",
        "",
        f"- {level}: at least level everywhere; {len(ratios) - len(below)} of {len(ratios)} ratios"
        f" are 1 or more, {len(certain)} are below with their interval; the smallest is"
        f" {_shown(ratios[slowest])} ({slowest[0]}, {slowest[1]}, {slowest[2]} tokens)",
        f"- {faster}: int8 {MIN_INT8_MEDIAN:.2f} times as fast as the best peer, as the median;"
        f" {median:.3f} (from {min(int8):.2f} to {max(int8):.2f})",
        "",
    ]


def _shown(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def family_lines(item: FamilyRows) -> Iterator[str]:
    """Table of one family: medians, and the ratio to the best peer below."""
    yield f"## {item.family}"
    yield ""
    if item.missing:
        yield f"Not exported by: {', '.join(item.missing)}."
        yield ""
    lengths = " | ".join(map(str, LENGTHS))
    yield f"| | precision | ms at {lengths} | difference, mean (largest) |"
    yield "|---|---|" + "---|" * (len(LENGTHS) + 1)
    for row in item.rows:
        cells = [f"{1e3 * statistics.median(row.seconds[str(at)]):.2f}" for at in LENGTHS]
        difference = f"{row.mean_difference:.2g} ({row.largest_difference:.2g})"
        yield f"| {row.name} | {row.precision} | {' | '.join(cells)} | {difference} |"
    for precision in PRECISIONS:
        if item.peers(precision):
            cells = [f"**{_shown(item.ratio(precision, length))}**" for length in LENGTHS]
            yield f"| **best peer / ours** | {precision} | {' | '.join(cells)} | |"
    yield ""


if __name__ == "__main__":
    main()
