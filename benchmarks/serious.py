"""The long run beside the same student without distillation: held-out figures, curves, and a table.

    edgedistil distill benchmarks/serious.toml
    edgedistil distill benchmarks/serious.toml --run serious-mlm --set loss.soft_target=0 --set loss.cosine=0
    python benchmarks/serious.py runs/serious runs/serious-mlm --write benchmarks/results

Both runs see the same tokens in the same order under the same masks; the second has the MLM loss alone. Written:
a page, the held-out figures as csv (all of them) and the training losses as csv (means over 50 steps), and the curves.
"""

from __future__ import annotations

import argparse
import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from edgedistil.core.records import DistillRecord, read_record, this_host
from edgedistil.core.rundir import RunDir

WINDOW = 50
LABELS = {0: "distilled", 1: "MLM only"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("distilled", type=Path, help="run directory of serious.toml")
    parser.add_argument(
        "alone", type=Path, help="run directory of the same without soft targets and cosine"
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    runs = [RunDir(asked.distilled), RunDir(asked.alone)]
    traces = [[json.loads(line) for line in run.metrics.read_text().splitlines()] for run in runs]
    records = [read_record(run.distill, DistillRecord) for run in runs]
    page = told(traces, records)
    print(page)
    if asked.write is not None:
        stem = asked.write / f"serious-{datetime.now(UTC):%Y-%m-%d}"
        stem.with_suffix(".md").write_text(page + f"\nCurves: `{stem.name}.svg`, from `{stem.name}.heldout.csv` and "
                                           f"`{stem.name}.train.csv`.\n")  # fmt: skip
        write_csv(stem.with_name(f"{stem.name}.heldout.csv"), heldout_rows(traces))
        write_csv(stem.with_name(f"{stem.name}.train.csv"), train_rows(traces))
        draw(traces, stem.with_suffix(".svg"))


def of_kind(trace: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Entries of a kind, the last one of each model and step: a resumed run says a step twice."""
    last = {(entry.get("model"), entry["step"]): entry for entry in trace if entry["kind"] == kind}
    return [last[key] for key in sorted(last, key=lambda key: (str(key[0]), key[1]))]


def heldout_rows(traces: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"run": LABELS[index], **{k: v for k, v in entry.items() if k != "kind"}}
        for index, trace in enumerate(traces)
        for entry in of_kind(trace, "heldout")
    ]


def train_rows(traces: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for index, trace in enumerate(traces):
        entries = of_kind(trace, "train")
        for start in range(0, len(entries), WINDOW):
            part = entries[start : start + WINDOW]
            losses = ("loss", "soft_target", "mlm", "cosine", "gradient_norm")
            known = {name: [e[name] for e in part if isinstance(e[name], float)] for name in losses}
            means = {
                name: round(mean(values), 5) if values else "" for name, values in known.items()
            }
            speed = round(median(e["tokens_per_s"] for e in part))
            rows.append({"run": LABELS[index], "step": part[-1]["step"], "tokens": part[-1]["tokens"], **means,
                         "tokens_per_s": speed})  # fmt: skip
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def told(traces: list[list[dict[str, Any]]], records: list[DistillRecord]) -> str:
    host, first = this_host(), records[0]
    teacher = next(e for e in of_kind(traces[0], "heldout") if e["model"] == "teacher")
    students = [
        [e for e in of_kind(trace, "heldout") if e["model"] == "student"] for trace in traces
    ]
    shown = [("teacher", teacher), ("student, step 0", students[0][0])]
    shown += [(f"student, {LABELS[index]}", each[-1]) for index, each in enumerate(students)]
    speeds = [median(e["tokens_per_s"] for e in of_kind(trace, "train")) for trace in traces]
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(first.provenance.versions.items())
    )
    lines = [
        f"# {first.tokens_seen / 1e6:.0f} million tokens, {datetime.now(UTC):%Y-%m-%d}",
        "",
        f"{host.cpu}, {host.cores} cores · {versions}",
        "Commands: at the top of `benchmarks/serious.py`; recipe `benchmarks/serious.toml`.",
        "",
        f"Teacher {first.teacher.name}: {first.teacher.layers} layers, "
        f"{first.teacher.parameters / 1e6:.1f}M parameters. "
        f"Student: its layers {first.layer_map}, {first.student.parameters / 1e6:.1f}M.",
        f"{first.steps:,} steps; both runs: the same text, order, masks, budget and schedule.",
        f"Held-out: {teacher['masked_tokens']:,} masked words of documents that no run trained on.",
        "",
        "| | MLM loss, nats | top-1 | agreement with the teacher | KL from the teacher, nats |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {e['mlm_loss_nats']:.3f} | {e['top1']:.1%} | "
            + (" — | — |" if name == "teacher" else f"{e['agreement']:.1%} | {e['kl_nats']:.3f} |")
            for name, e in shown
        ),
        "",
        *(
            f"- {LABELS[index]}: {record.tokens_seen:,} tokens in {record.seconds / 60:.0f} min, median "
            f"{speeds[index]:,.0f} tokens/s of a step"
            for index, record in enumerate(records)
        ),
    ]
    return "\n".join(lines) + "\n"


def draw(traces: list[list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    wanted = [("mlm_loss_nats", "held-out MLM loss, nats"), ("top1", "held-out top-1"),
              ("agreement", "agreement with the teacher"), ("kl_nats", "KL from the teacher, nats")]  # fmt: skip
    for each, (key, title) in zip(axes, wanted, strict=True):
        for index, trace in enumerate(traces):
            tokens = {e["step"]: e["tokens"] for e in of_kind(trace, "train")}
            points = [e for e in of_kind(trace, "heldout") if e["model"] == "student"]
            each.plot(
                [tokens.get(e["step"], 0) / 1e6 for e in points],
                [e[key] for e in points],
                "o-",
                label=LABELS[index],
            )
        if key in ("mlm_loss_nats", "top1"):
            teacher = next(e for e in of_kind(traces[0], "heldout") if e["model"] == "teacher")
            each.axhline(teacher[key], color="black", linestyle=":", label="teacher")
        each.set_title(title)
        each.set_xlabel("million tokens")
        each.grid(visible=True, alpha=0.3)
        each.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
