"""The long run, compared with the same student trained on the MLM loss alone.

    edgedistil distill benchmarks/serious.toml
    edgedistil distill benchmarks/serious.toml --run serious-mlm \\
        --set loss.soft_target=0 --set loss.cosine=0
    python benchmarks/serious.py runs/serious runs/serious-mlm --write benchmarks/results

Both runs see the same tokens in the same order under the same masks. Writes a page, all held-out
figures as csv, the training losses as csv (means over 50 steps), and the curves as SVG.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from page import argument_parser, host_line, today, version_list

from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Steps that one row of the csv of training losses averages over.
WINDOW = 50
LABELS = ("distilled", "MLM only")
TRAIN_FIGURES = ("loss", "soft_target", "mlm", "cosine", "gradient_norm")
PLOTTED = {
    "mlm_loss_nats": "held-out MLM loss, nats",
    "top1": "held-out top-1",
    "agreement": "agreement with the teacher",
    "kl_nats": "KL from the teacher, nats",
}

Entry = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A run: its label, its record, and the entries of metrics.jsonl by kind."""

    label: str
    record: DistillRecord
    train: list[Entry]
    heldout: list[Entry]

    @property
    def teacher(self) -> Entry:
        return next(entry for entry in self.heldout if entry["model"] == "teacher")

    @property
    def student(self) -> list[Entry]:
        """Evaluations of the student, by step."""
        return [entry for entry in self.heldout if entry["model"] == "student"]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("distilled", type=Path, help="run directory of serious.toml")
    parser.add_argument(
        "mlm_only", type=Path, help="run directory of the same without soft targets and cosine"
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result files")
    arguments = parser.parse_args()
    folders = (arguments.distilled, arguments.mlm_only)
    runs = [load(label, folder) for label, folder in zip(LABELS, folders, strict=True)]
    page = render(runs)
    print(page)
    if arguments.write is not None:
        write_files(arguments.write / f"serious-{today()}", page, runs)


def load(label: str, folder: Path) -> Trained:
    run = RunDir(folder)
    entries = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    record = read_record(run.distill, DistillRecord)
    return Trained(label, record, of_kind(entries, "train"), of_kind(entries, "heldout"))


def of_kind(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """Entries of a kind, sorted by model and step."""
    # A resumed run logs some steps twice; the later entry belongs to the weights that remained.
    last = {}
    for entry in entries:
        if entry["kind"] == kind:
            last[str(entry.get("model")), entry["step"]] = entry
    return [last[key] for key in sorted(last)]


# --- files ---------------------------------------------------------------------------------------


def write_files(stem: Path, page: str, runs: Sequence[Trained]) -> None:
    """Writes the page, both csv files and the curves next to each other."""
    files = f"`{stem.name}.svg`, from `{stem.name}.heldout.csv` and `{stem.name}.train.csv`"
    stem.with_suffix(".md").write_text(f"{page}\nCurves: {files}.\n", encoding="utf-8")
    write_csv(stem.with_name(f"{stem.name}.heldout.csv"), heldout_rows(runs))
    write_csv(stem.with_name(f"{stem.name}.train.csv"), train_rows(runs))
    draw(runs, stem.with_suffix(".svg"))


def heldout_rows(runs: Sequence[Trained]) -> list[Entry]:
    rows = []
    for run in runs:
        for entry in run.heldout:
            figures = {key: value for key, value in entry.items() if key != "kind"}
            rows.append({"run": run.label, **figures})
    return rows


def train_rows(runs: Sequence[Trained]) -> list[Entry]:
    rows = []
    for run in runs:
        starts = range(0, len(run.train), WINDOW)
        windows = [run.train[start : start + WINDOW] for start in starts]
        rows += [{"run": run.label, **_window_row(window)} for window in windows]
    return rows


def _window_row(entries: Sequence[Entry]) -> Entry:
    """Means of the losses over some steps; empty where a loss was not trained."""
    row: Entry = {"step": entries[-1]["step"], "tokens": entries[-1]["tokens"]}
    for name in TRAIN_FIGURES:
        values = [entry[name] for entry in entries if isinstance(entry[name], float)]
        row[name] = round(mean(values), 5) if values else ""
    row["tokens_per_s"] = round(median(entry["tokens_per_s"] for entry in entries))
    return row


def write_csv(path: Path, rows: Sequence[Entry]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- page ----------------------------------------------------------------------------------------


def render(runs: Sequence[Trained]) -> str:
    """Renders the result page; both runs share teacher, student and budget."""
    distilled = runs[0]
    record = distilled.record
    lines = [
        f"# {record.tokens_seen / 1e6:.0f} million tokens, {today()}",
        "",
        f"{host_line()} · {version_list(record.provenance.versions)}",
        "Commands: at the top of `benchmarks/serious.py`; recipe `benchmarks/serious.toml`.",
        "",
        f"Teacher {record.teacher.name}: {record.teacher.layers} layers,"
        f" {record.teacher.parameters / 1e6:.1f}M parameters."
        f" Student: its layers {record.layer_map}, {record.student.parameters / 1e6:.1f}M.",
        f"{record.steps:,} steps; both runs: the same text, order, masks, budget and schedule.",
        f"Held-out: {distilled.teacher['masked_tokens']:,} masked tokens of documents that no run"
        " trained on.",
        "",
        "| | MLM loss, nats | top-1 | agreement with the teacher | KL from the teacher, nats |",
        "|---|---|---|---|---|",
        heldout_line("teacher", distilled.teacher),
        heldout_line("student, step 0", distilled.student[0]),
        *(heldout_line(f"student, {run.label}", run.student[-1]) for run in runs),
        "",
        *(speed_line(run) for run in runs),
    ]
    return "\n".join(lines) + "\n"


def heldout_line(name: str, entry: Entry) -> str:
    # The teacher is not compared with itself.
    comparison = "– | –"
    if entry["model"] != "teacher":
        comparison = f"{entry['agreement']:.1%} | {entry['kl_nats']:.3f}"
    return f"| {name} | {entry['mlm_loss_nats']:.3f} | {entry['top1']:.1%} | {comparison} |"


def speed_line(run: Trained) -> str:
    rate = median(entry["tokens_per_s"] for entry in run.train)
    return (
        f"- {run.label}: {run.record.tokens_seen:,} tokens in {run.record.seconds / 60:.0f} min,"
        f" median of a step {rate:,.0f} tokens/s"
    )


# --- curves --------------------------------------------------------------------------------------


def draw(runs: Sequence[Trained], path: Path) -> None:
    """Draws four held-out figures of both runs over the tokens seen."""
    # Not pyplot: it needs a display and has global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(2, 2).ravel(), PLOTTED.items(), strict=True):
        _draw_figure(axes, runs, key)
        axes.set_title(title)
        axes.set_xlabel("million tokens")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    # Without a date, equal data gives an equal file.
    figure.savefig(path, metadata={"Date": None})


def _draw_figure(axes: Axes, runs: Sequence[Trained], key: str) -> None:
    for run in runs:
        tokens_at = {entry["step"]: entry["tokens"] for entry in run.train}
        tokens = [tokens_at.get(entry["step"], 0) / 1e6 for entry in run.student]
        axes.plot(tokens, [entry[key] for entry in run.student], "o-", label=run.label)
    # The other figures compare with the teacher, so it has none of them.
    if key in ("mlm_loss_nats", "top1"):
        axes.axhline(runs[0].teacher[key], color="black", linestyle=":", label="teacher")


if __name__ == "__main__":
    main()
