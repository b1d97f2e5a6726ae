"""8-bit artefacts against float32: predictions, errors, and change by neighbours; ours and peers'.

    python benchmarks/int8_fidelity.py student --student RUN/student --text HELDOUT.txt
    python benchmarks/int8_fidelity.py encoder --text HELDOUT.txt [--model FOLDER]

`student` compares a masked LM's predictions at masked tokens, `encoder` the hidden states of a
model without a trained head (all-MiniLM-L6-v2 by default). Every figure is against PyTorch in
float32 on the even lines of the text, in padded batches; the odd lines calibrate. Each artefact
also runs texts alone, padded, and with neighbours.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from page import RESULTS, argument_parser, host_line, today, write_page, write_raw
from peers.measure import open_session
from peers.rows import OURS, Row, make_rows

from edgedistil.core.export_records import InvarianceRecord, ParityRecord
from edgedistil.core.format import percent, significant
from edgedistil.core.places import cache_root
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.core.rundir import sha256_file
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK, Task
from edgedistil.core.text import read_lines
from edgedistil.export.reference import make_probes
from edgedistil.export.source import read_source
from edgedistil.models.teacher import load_teacher
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.probes import Probes

PROBE_SEED = 60
# Aims: agreement and KL of ours, and its mean error as a share of the best peer's.
MIN_AGREEMENT, MAX_KL, MAX_ERROR_SHARE = 0.95, 0.003, 0.5
EIGHT_BITS = ("int8", "int8-dynamic")

# Key of a row → its records, one for each draw of probes.
Records = dict[str, list[ParityRecord]]


def main() -> None:
    arguments = parse_arguments()
    text = read_lines(arguments.text)
    task: Task = FILL_MASK_TASK if arguments.which == "student" else ENCODER_TASK
    source = model_folder(arguments)
    rows = make_rows(source, text, task=task)
    records = measure(rows, source, text, task, draws=arguments.draws)
    stem = f"int8_fidelity-{arguments.which}"
    write_raw(arguments.out, stem, {"records": records})
    print(write_page(arguments.out, stem, page(records, arguments)))


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("which", choices=["student", "encoder"], help="what is compared")
    parser.add_argument("--student", type=Path, help="folder of a distilled student with its head")
    parser.add_argument("--model", type=Path, help="folder of an encoder")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, one text a line")
    parser.add_argument("--draws", type=int, default=4, help="draws of probes")
    parser.add_argument("--work", type=Path, default=cache_root() / "peers" / "fidelity")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.which == "student" and arguments.student is None:
        parser.error("student needs --student FOLDER")
    return arguments


def model_folder(arguments: argparse.Namespace) -> Path:
    """A link to the model, because peers' artefacts are written next to it."""
    folder: Path = arguments.student or arguments.model
    if folder is None:
        folder = load_teacher("asset:minilm", revision=None, cache=cache_root()).folder
    # Peers' artefacts are reused, and those of another model must not be.
    digest = sha256_file(folder / "model.safetensors")
    link: Path = arguments.work / f"{arguments.which}-{digest[:8]}"
    arguments.work.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(folder.resolve())
    return link


def measure(
    rows: Sequence[Row], source: Path, text: Sequence[str], task: Task, *, draws: int
) -> Records:
    """Checks every 8-bit artefact on each draw of probes from the even lines."""
    model_source = read_source(source.resolve(), name="model", role="other", task=task)
    model, tokenizer = model_source.load_model(), model_source.load_tokenizer()
    probes = [
        make_probes(model, tokenizer, task, text[::2], seed=PROBE_SEED + draw)
        for draw in range(draws)
    ]
    return {
        row.key: [_check(row, draw, first=index == 0) for index, draw in enumerate(probes)]
        for row in rows
        if row.precision in EIGHT_BITS and _reads(row, probes[0])
    }


def _reads(row: Row, probes: Probes) -> bool:
    """Whether an artefact takes every input of the probes; some exporters drop token types."""
    if row.graph is None:
        return False
    names = {node.name for node in open_session(row.graph, 1).get_inputs()}
    missing = probes.batches[0].feeds().keys() - names
    if missing:
        print(f"not compared, without {', '.join(missing)}: {row.key}", flush=True)
    return not missing


def _check(row: Row, probes: Probes, *, first: bool) -> ParityRecord:
    precision: Precision = "int8" if row.precision == "int8" else "int8-dynamic"
    # One draw shows the change by neighbours: ours has none, and a peer's is large in every one.
    return check_artefact(
        row.graph_file,
        probes,
        precision=precision,
        model=row.name,
        task=probes.task,
        with_neighbours=first,
    )


def page(records: Records, arguments: argparse.Namespace) -> str:
    some = next(iter(records.values()))
    decisions = sum(record.overall.decisions for record in some)
    lines = [
        f"# 8-bit artefacts against float32, {today()}: {arguments.which}",
        "",
        f"`python benchmarks/int8_fidelity.py {arguments.which} …` · {host_line()} ·"
        f" {some[0].runtime} · {len(some)} draws of {some[0].overall.sequences} sequences,"
        f" {decisions} masked tokens",
        "",
        *(f"- {aim}" for aim in aims(records)),
        "",
        "| artefact | agreement | KL, nats | mean error | largest | mean cosine"
        " | change: padded | neighbours | answers that change |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, draws in records.items():
        lines.append(f"| {key} | {' | '.join(cells(draws))} |")
    return "\n".join([*lines, ""])


def cells(draws: Sequence[ParityRecord]) -> list[str]:
    changes = draws[0].invariance
    assert isinstance(changes, InvarianceRecord), "the first draw runs with neighbours"
    return [
        percent(mean(draws, "agreement"), 2) if _decides(draws) else "–",
        significant(mean(draws, "kl_nats"), 3) if _decides(draws) else "–",
        significant(mean(draws, "mean_abs"), 3),
        significant(max(record.overall.max_abs for record in draws), 3),
        f"{mean(draws, 'cosine_mean'):.6f}",
        significant(changes.padded, 3),
        significant(changes.neighbours, 3),
        f"{changes.changed} of {changes.answers}",
    ]


def mean(draws: Sequence[ParityRecord], figure: str) -> float:
    return statistics.mean(getattr(record.overall, figure) for record in draws)


def _decides(draws: Sequence[ParityRecord]) -> bool:
    return draws[0].overall.decisions > 0


def aims(records: Mapping[str, Sequence[ParityRecord]]) -> list[str]:
    """Every aim: met or missed, with its figure."""
    own = records[f"{OURS} int8"]
    peers = {key: draws for key, draws in records.items() if not key.startswith(OURS)}
    best = min(peers, key=lambda key: mean(peers[key], "mean_abs"))
    share = mean(own, "mean_abs") / mean(peers[best], "mean_abs")
    lines = [
        f"{_met(share <= MAX_ERROR_SHARE)}: mean error {share:.2f} of the best peer's, {best}"
        f" (at most {MAX_ERROR_SHARE})"
    ]
    if _decides(own):
        agreement, nats = mean(own, "agreement"), mean(own, "kl_nats")
        lines += [
            f"{_met(agreement >= MIN_AGREEMENT)}: agreement {percent(agreement, 2)}"
            f" (at least {percent(MIN_AGREEMENT)})",
            f"{_met(nats <= MAX_KL)}: KL {nats:.4f} nats (at most {MAX_KL})",
        ]
    changes = own[0].invariance
    holds = isinstance(changes, InvarianceRecord) and changes.holds
    return [*lines, f"{_met(holds and PRECISIONS['int8'].invariant)}: no change by neighbours"]


def _met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


if __name__ == "__main__":
    main()
