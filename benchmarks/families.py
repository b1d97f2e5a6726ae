"""Our graphs compared with other exporters', for one model of each encoder family.

    python benchmarks/families.py [--families bert roberta …] [--rounds 20]
    python benchmarks/families.py --layers 2 --rounds 2       a quick try; its figures mean little
    python benchmarks/families.py --prepare                   only environments and artefacts

Models have the shapes of the family's base model and random weights, on which the speed does not
depend. All artefacts of a family and a precision run in this process, call by call in turns, with
one thread and onnxruntime's default options. Compared is the median over the rounds of (best peer's
time / our time) within a round. A peer that cannot export a family has no row, and the page says
so. Every float32 graph is also compared with ours on one text, so that no row is fast because it
computes something else.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from peers.rows import (
    OURS,
    Row,
    optimum_rows,
    our_rows,
    raw_rows,
    transformers_rows,
    versions_of,
)
from transformers import AutoConfig, AutoModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.format import ABSENT
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


@dataclass(frozen=True)
class FamilyRows:
    """Rows of one family, and what could not be exported."""

    family: str
    rows: list[Row]
    missing: list[str]
    differences: Mapping[str, float]

    def best_peer(self, precision: str, length: int) -> Row:
        peers = [row for row in self.rows if row.name != OURS and row.precision == precision]
        return min(peers, key=lambda row: statistics.median(row.seconds[THREADS, length]))

    def own(self, precision: str) -> Row:
        return next(row for row in self.rows if row.name == OURS and row.precision == precision)

    def ratio(self, precision: str, length: int) -> float:
        """Median over the rounds of the best peer's time divided by ours."""
        at = (THREADS, length)
        peer, own = self.best_peer(precision, length), self.own(precision)
        pairs = zip(peer.seconds[at], own.seconds[at], strict=True)
        return statistics.median(peer_s / own_s for peer_s, own_s in pairs)


def main() -> None:
    arguments = parse_arguments()
    load = load_averages()
    arguments.work.mkdir(parents=True, exist_ok=True)
    # Export everything first: an export between two measurements would disturb them.
    measured = []
    for family in arguments.families:
        source = random_model(arguments.work, family, layers=arguments.layers)
        measured.append(export_family(family, source))
    if arguments.prepare:
        return
    for item in measured:
        for precision in ("fp32", "int8"):
            rows = [row for row in item.rows if row.precision == precision]
            print(f"{item.family} {precision}: {', '.join(row.name for row in rows)}", flush=True)
            measure_latency(
                rows,
                threads=THREADS,
                rounds=arguments.rounds,
                openings=arguments.openings,
                lengths=LENGTHS,
            )
    lines = [*head_lines(load), *aim_lines(measured)]
    for item in measured:
        lines += family_lines(item)
    print(write_page(arguments.out, "families", "\n".join(lines)))
    raw = {item.family: {"rows": raw_rows(item.rows), "missing": item.missing} for item in measured}
    write_raw(arguments.out, "families", raw)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    supported = [family for family in SHAPES if family in FAMILIES]
    standard = [family for family in STANDARD if family in FAMILIES]
    parser.add_argument("--families", nargs="+", choices=supported, default=standard)
    parser.add_argument("--rounds", type=int, default=20, help="calls per row and length")
    parser.add_argument("--openings", type=int, default=4, help="times the sessions are opened")
    parser.add_argument("--layers", type=int, help="layers of every model, for a quick try")
    parser.add_argument("--prepare", action="store_true", help="only export, measure nothing")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "families")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


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


def export_family(family: str, source: Path) -> FamilyRows:
    """Exports a model with every tool; peers' artefacts are reused from an earlier call."""
    folder = source.with_name(f"{source.name}.artefacts")
    folder.mkdir(exist_ok=True)
    rows = our_rows(source, folder / OURS, ENCODER_TASK)
    missing = []
    try:
        rows += optimum_rows(source, folder / "optimum", ENCODER_TASK)
    except subprocess.CalledProcessError:
        missing.append("optimum-onnx")
    exported = transformers_rows(source, folder / "transformers", ENCODER_TASK)
    if not exported:
        missing.append("transformers.exporters")
    rows += exported
    return FamilyRows(family, rows, missing, differences(rows))


def differences(rows: Sequence[Row]) -> dict[str, float]:
    """Largest difference of each peer's float32 hidden states from ours, on one text."""
    floats = [row for row in rows if row.precision == "fp32"]
    # No padding id is among them: RoBERTa's positions would skip it.
    ids = np.random.default_rng(3).integers(1000, 30000, (1, LENGTHS[0]))
    outputs = {}
    for row in floats:
        session = open_session(row.graph_file, THREADS)
        feeds = session_feeds(session, ids)
        # A graph without this input has the first segment for every token.
        if "token_type_ids" in feeds:
            feeds["token_type_ids"] = np.zeros_like(ids)
        outputs[row.name] = session.run(None, feeds)[0]
    own = outputs.pop(OURS)
    return {name: float(np.abs(output - own).max()) for name, output in outputs.items()}


# --- page ----------------------------------------------------------------------------------------


def head_lines(load: str) -> list[str]:
    # Paths by their names only: the page is published.
    command = [Path(argument).name for argument in sys.argv[1:]]
    optimum = versions_of("optimum-onnx", ["optimum-onnx", "transformers"])
    return [
        f"# Encoder families compared, {today()}",
        "",
        f"`python benchmarks/families.py {' '.join(command)}` · {host_line()},",
        f"{system_line()} · load average before {load}",
        "",
        f"onnxruntime {ort.__version__} for every row, torch {torch.__version__},"
        f" transformers {transformers.__version__} (transformers.exporters) · {optimum}",
        "",
        "Encoders (feature-extraction) with random weights, batch 1, one thread, CPU time. A ratio",
        "above 1 means that ours is faster than the fastest other graph of the same precision.",
        "",
    ]


def aim_lines(measured: Sequence[FamilyRows]) -> list[str]:
    """Section with every aim: met or missed, with its figure."""
    ratios = {
        (item.family, precision, length): item.ratio(precision, length)
        for item in measured
        for precision in ("fp32", "int8")
        for length in LENGTHS
        if has_peer(item, precision)
    }
    if not ratios:
        return ["No peer exported any of these models.", ""]
    slowest = min(ratios, key=lambda key: ratios[key])
    median = statistics.median(
        ratio for (_, precision, _), ratio in ratios.items() if precision == "int8"
    )
    return [
        "## Aims",
        "",
        f"- {_verdict(ratios[slowest] >= MIN_RATIO)}: at least level everywhere; smallest ratio"
        f" {ratios[slowest]:.2f} ({slowest[0]}, {slowest[1]}, {slowest[2]} tokens)",
        f"- {_verdict(median >= MIN_INT8_MEDIAN)}: int8 {MIN_INT8_MEDIAN:.2f} times as fast as the"
        f" best peer, as the median; {median:.2f}",
        "",
    ]


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def has_peer(item: FamilyRows, precision: str) -> bool:
    return any(row.name != OURS and row.precision == precision for row in item.rows)


def family_lines(item: FamilyRows) -> Iterator[str]:
    """Table of one family: medians, and the ratio to the best peer below."""
    yield f"## {item.family}"
    yield ""
    if item.missing:
        yield f"Not exported by: {', '.join(item.missing)}."
        yield ""
    yield "| | precision | ms at " + " | ".join(map(str, LENGTHS)) + " | largest difference |"
    yield "|---|---|" + "---|" * (len(LENGTHS) + 1)
    for row in item.rows:
        cells = [f"{1e3 * statistics.median(row.seconds[THREADS, at]):.2f}" for at in LENGTHS]
        difference = ABSENT
        if row.precision == "fp32" and row.name in item.differences:
            difference = f"{item.differences[row.name]:.2g}"
        yield f"| {row.name} | {row.precision} | {' | '.join(cells)} | {difference} |"
    for precision in ("fp32", "int8"):
        if has_peer(item, precision):
            cells = [f"**{item.ratio(precision, length):.2f}**" for length in LENGTHS]
            yield f"| **best peer / ours** | {precision} | {' | '.join(cells)} | {ABSENT} |"
    yield ""


if __name__ == "__main__":
    main()
