"""What each precision costs on given models: the figures behind the gate's tolerances.

    python benchmarks/parity_precisions.py --text HELDOUT.txt NAME=MODEL_FOLDER …

Every model is made in every precision, as masked LM (where its head was trained) and as encoder, and compared with its
own PyTorch float32 on several draws of probes from the text's even lines; what is fitted to text sees the odd lines.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from edgedistil.core.options import ExportOptions
from edgedistil.core.precision import PRECISIONS, graph_name
from edgedistil.core.records import NotMeasured, ParityFigures, this_host
from edgedistil.export.artefacts import open_build
from edgedistil.export.precisions import make_graph
from edgedistil.export.quantize import Int8Plan, quantize_dynamic
from edgedistil.export.reference import make_probes
from edgedistil.export.source import read_source
from edgedistil.export.storage import save_graph
from edgedistil.parity.gate import check_artefact
from edgedistil.parity.tolerances import TOLERANCES

HERE = Path(__file__).resolve().parent
FAULT = "int8, one scale a tensor (a known fault)"


def measure(
    folder: Path, task: str, lines: list[str], *, draws: int
) -> dict[str, list[ParityFigures]]:
    """By precision, the figures of each draw of probes."""
    source = read_source(folder, name=folder.name, role="other", task=task)
    found: dict[str, list[ParityFigures]] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_build(source, Path(scratch), ExportOptions(), text=lines[1::2]) as context,
    ):
        probes = [
            make_probes(context.model, context.tokenizer, task, lines[::2], seed=100 + draw)
            for draw in range(draws)
        ]
        for precision in PRECISIONS:
            file = context.float_file.with_name(graph_name(precision))
            graph, _ = make_graph(context, precision)
            save_graph(graph, file, external=True)
            found[precision] = [
                check_artefact(
                    file, each, precision=precision, model=folder.name, task=task
                ).overall
                for each in probes
            ]
        faulty = context.graph.clone()
        quantize_dynamic(faulty, Int8Plan(per_channel=False))
        file = Path(scratch) / "faulty.onnx"
        save_graph(faulty, file, external=True)
        found[FAULT] = [
            check_artefact(file, each, precision="int8", model=folder.name, task=task).overall
            for each in probes
        ]
    return found


def row(precision: str, draws: list[ParityFigures]) -> str:
    cells = [
        f"{max(each.max_abs for each in draws):.3g}",
        f"{sum(each.mean_abs for each in draws) / len(draws):.3g}",
    ]
    for name, worst in (
        ("kl_nats", max),
        ("cosine_min", min),
        ("cosine_mean", min),
        ("agreement", min),
    ):
        values = [getattr(each, name) for each in draws]
        there = [value for value in values if not isinstance(value, NotMeasured)]
        shown = f"{sum(there) / len(there):.6g} ({worst(there):.6g})" if there else "–"
        cells.append(shown)
    return f"| {precision} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    chosen = parser.parse_args()
    lines = [line for line in chosen.text.read_text(encoding="utf-8").splitlines() if line.strip()]
    host, now = this_host(), datetime.now(UTC)
    told = [
        f"# Precisions compared with PyTorch float32, {now:%Y-%m-%d}",
        "",
        f"`python benchmarks/parity_precisions.py --draws {chosen.draws} …` · {host.cpu} · held-out English,",
        f"{len(lines)} documents, {chosen.draws} draws of 67 sequences at 8 to 512 tokens. In brackets the worst draw.",
    ]
    for name, folder in (each.split("=", 1) for each in chosen.models):
        for task in ("fill-mask", "feature-extraction"):
            found = measure(Path(folder), task, lines, draws=chosen.draws)
            decisions = sum(each.decisions for each in found["fp32"])
            told += [
                "",
                f"## {name}, {task}" + (f", {decisions} masked words" if decisions else ""),
                "",
            ]
            told += [
                "| precision | largest difference | mean | KL, nats | smallest cosine | mean cosine | agreement |"
            ]
            told += [
                "|---|---|---|---|---|---|---|",
                *(row(precision, draws) for precision, draws in found.items()),
            ]
            print("\n".join(told[-len(found) - 4 :]), flush=True)
    told += ["", "Bounds of the gate:", ""]
    for precision, bounds in TOLERANCES.items():
        told.append(
            f"- {precision}: "
            + "; ".join(f"{each.figure} {each.bound} {each.value:g}" for each in bounds)
        )
    target = chosen.out / f"parity_precisions-{now:%Y-%m-%d}.md"
    target.write_text("\n".join([*told, ""]), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
