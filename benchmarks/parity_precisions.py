"""Error of each precision on some models: the figures behind the tolerances of the parity check.

    python benchmarks/parity_precisions.py --text HELDOUT.txt NAME=MODEL_FOLDER …

Every model is exported in every precision, as masked LM (if its head was trained) and as encoder,
and compared with its own PyTorch float32 on several draws of probes from the even lines of the
text; the odd lines are for calibration and search.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from page import RESULTS, argument_parser, today, write_page, write_raw

from edgedistil.core.export_records import ParityFigures
from edgedistil.core.format import ABSENT
from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import PRECISIONS, Precision, graph_name
from edgedistil.core.records import NotMeasured, this_host
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK, Task
from edgedistil.core.text import read_lines
from edgedistil.export.artefacts import open_build
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.precisions import make_graph
from edgedistil.export.quantize import quantize_dynamic
from edgedistil.export.reference import make_probes
from edgedistil.export.source import read_source
from edgedistil.export.storage import save_graph
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.probes import Probes
from edgedistil.parity.tolerances import TOLERANCES

FAULT = "int8, one scale per tensor (a known fault)"
PROBE_SEED = 100
# Figure → function that returns its worst draw.
WORST = {"kl_nats": max, "cosine_min": min, "cosine_mean": min, "agreement": min}
COLUMNS = (
    "precision",
    "largest difference",
    "mean",
    "KL, nats",
    "smallest cosine",
    "mean cosine",
    "agreement",
)

# Precision, or FAULT → figures of each draw.
Figures = dict[str, list[ParityFigures]]


def main() -> None:
    arguments = parse_arguments()
    text = read_lines(arguments.text)
    lines = [
        f"# Precisions compared with PyTorch float32, {today()}",
        "",
        f"`python benchmarks/parity_precisions.py --draws {arguments.draws} …` · {this_host().cpu}"
        " · held-out English,",
        f"{len(text)} documents, {arguments.draws} draws of 67 sequences at 8 to 512 tokens. In"
        " brackets the worst draw.",
    ]
    raw = []
    for model in arguments.models:
        name, folder = model.split("=", 1)
        for task in (FILL_MASK_TASK, ENCODER_TASK):
            figures = measure(Path(folder), task, text, arguments.draws)
            raw.append({"model": name, "task": task, "figures": figures})
            section = section_lines(name, task, figures)
            print("\n".join(section), flush=True)
            lines += section
    lines += ["", "Bounds of the parity check:", "", *bound_lines(), ""]
    print(write_page(arguments.out, "parity_precisions", "\n".join(lines)))
    write_raw(arguments.out, "parity_precisions", {"sections": raw})


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("models", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    parser.add_argument("--draws", type=int, default=4, help="draws of probes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


# --- measuring -----------------------------------------------------------------------------------


def measure(folder: Path, task: Task, text: Sequence[str], draws: int) -> Figures:
    """Exports a model in every precision, and with the known fault, and compares all of them."""
    source = read_source(folder, name=folder.name, role="other", task=task)
    figures: Figures = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_build(source, Path(scratch), ExportOptions(), text=text[1::2]) as context,
    ):
        probes = [
            make_probes(context.model, context.tokenizer, task, text[::2], seed=PROBE_SEED + draw)
            for draw in range(draws)
        ]
        # fp32 comes first in the table; the other precisions are made from its file.
        for precision in PRECISIONS:
            file = context.float_file.with_name(graph_name(precision))
            graph, _ = make_graph(context, precision)
            save_graph(graph, file, external=True)
            figures[precision] = _compare(file, probes, precision)
        faulty = context.graph.clone()
        quantize_dynamic(faulty, Int8Plan(per_channel=False))
        file = Path(scratch) / "faulty.onnx"
        save_graph(faulty, file, external=True)
        figures[FAULT] = _compare(file, probes, "int8")
    return figures


def _compare(file: Path, probes: Sequence[Probes], precision: Precision) -> list[ParityFigures]:
    """Figures of one artefact on each draw."""
    figures = []
    for draw in probes:
        record = check_artefact(file, draw, precision=precision, model="model", task=draw.task)
        figures.append(record.overall)
    return figures


# --- page ----------------------------------------------------------------------------------------


def section_lines(
    name: str, task: Task, figures: Mapping[str, Sequence[ParityFigures]]
) -> list[str]:
    """Section of one model and task."""
    decisions = sum(draw.decisions for draw in figures["fp32"])
    title = f"## {name}, {task}"
    if decisions:
        title += f", {decisions} masked tokens"
    lines = ["", title, "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for precision, draws in figures.items():
        lines.append(f"| {precision} | {' | '.join(figure_cells(draws))} |")
    return lines


def figure_cells(draws: Sequence[ParityFigures]) -> list[str]:
    """Largest difference, mean difference, then mean and worst draw of the other figures."""
    cells = [
        f"{max(draw.max_abs for draw in draws):.3g}",
        f"{sum(draw.mean_abs for draw in draws) / len(draws):.3g}",
    ]
    for figure, worst in WORST.items():
        values = [getattr(draw, figure) for draw in draws]
        measured = [value for value in values if not isinstance(value, NotMeasured)]
        cell = ABSENT
        if measured:
            cell = f"{sum(measured) / len(measured):.6g} ({worst(measured):.6g})"
        cells.append(cell)
    return cells


def bound_lines() -> list[str]:
    """Tolerances of every precision, one line each."""
    lines = []
    for precision, bounds in TOLERANCES.items():
        texts = [f"{bound.figure} {bound.bound} {bound.value:g}" for bound in bounds]
        lines.append(f"- {precision}: {'; '.join(texts)}")
    return lines


if __name__ == "__main__":
    main()
