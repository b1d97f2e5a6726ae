"""Plants faults in exported artefacts and counts what the parity check sees.

    python -m benchmarks.planted_faults [--subjects encoder] [--precisions int8] [--faults PATTERN]

Writes the table to benchmarks/results/planted_faults-DATE.md, and with --docs between the marks of
docs/measuring.md.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from benchmarks.page import RESULTS, write_page, write_raw
from benchmarks.planted.faults import FAULTS
from benchmarks.planted.package_faults import PACKAGE_FAULTS
from benchmarks.planted.suite import (
    POSITIONS,
    PRECISIONS,
    SUBJECTS,
    Planted,
    export_subject,
    plant_all,
    plant_in_package,
)
from benchmarks.word_pieces import BERT_SPECIAL, word_piece_tokenizer

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("fault", "kind", "subject", "precision", "share", "outcome", "by")
KINDS = ("weights", "wiring", "constants", "lengths and batches", "package")
MARKS = ("<!-- planted faults -->", "<!-- end of planted faults -->")


def main() -> None:
    """Runs the suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="*", default=[subject.name for subject in SUBJECTS])
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS))
    parser.add_argument("--faults", default="", help="regular expression of names")
    parser.add_argument("--docs", action="store_true", help="also write docs/measuring.md")
    arguments = parser.parse_args()
    started = time.process_time()
    rows = run(arguments.subjects, arguments.precisions, arguments.faults)
    page = render(rows, seconds=time.process_time() - started)
    write_page(RESULTS, "planted_faults", page)
    write_raw(RESULTS, "planted_faults", {"columns": COLUMNS, "rows": raw_rows(rows)})
    if arguments.docs:
        write_docs(rows)
    print(page)
    sys.exit(any(row.outcome == "missed" for row in rows))


def run(subjects: Sequence[str], precisions: Sequence[str], pattern: str) -> list[Planted]:
    """Plants all faults whose name matches, in the artefacts of some subjects."""
    faults = [fault for fault in FAULTS if re.search(pattern, fault.name)]
    package_faults = [fault for fault in PACKAGE_FAULTS if re.search(pattern, fault.name)]
    text = documents()
    rows: list[Planted] = []
    with TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(text, Path(folder) / "tokenizer")
        for subject in SUBJECTS:
            if subject.name not in subjects:
                continue
            root = Path(folder) / subject.name.replace(" ", "-")
            exported = export_subject(subject, tokenizer, text, root)
            for precision in PRECISIONS:
                if precision in precisions:
                    rows += plant_all(exported, precision, faults, root)
                    print(summary(rows, subject.name, precision), flush=True)
            rows += [plant_in_package(exported, fault, root) for fault in package_faults]
    return rows


def summary(rows: Sequence[Planted], subject: str, precision: str) -> str:
    """One line with the outcomes of one artefact."""
    counts = Counter(
        row.outcome for row in rows if (row.subject, row.precision) == (subject, precision)
    )
    return f"{subject} {precision}: {dict(counts)}"


def documents() -> list[str]:
    """Returns the tests' text, which changes with no page of the documentation."""
    path = ROOT / "tests" / "fixtures" / "field_text.txt"
    return path.read_text(encoding="utf-8").splitlines()


def train_tokenizer(text: Sequence[str], folder: Path) -> Path:
    """Trains a WordPiece tokenizer of 1,500 tokens; returns its folder."""
    tokenizer = word_piece_tokenizer(text, 1500)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in BERT_SPECIAL}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **names
    ).save_pretrained(folder)
    return folder


# --- pages ----------------------------------------------------------------------------------------


def table(rows: Sequence[Planted]) -> str:
    """Caught / missed / harmless by kind, model and precision, as Markdown."""
    columns = [*PRECISIONS, "all"]
    lines = ["| kind | model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for kind in KINDS:
        for subject in SUBJECTS:
            cells = [_cell(rows, kind, subject.name, precision) for precision in columns]
            if any(cells):
                lines.append(f"| {kind} | {subject.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: Sequence[Planted], kind: str, subject: str, precision: str) -> str:
    counts = Counter(
        row.outcome
        for row in rows
        if (row.kind, row.subject, row.precision) == (kind, subject, precision)
    )
    if not counts.total() - counts["absent"]:
        return ""
    return f"{counts['caught']} / {counts['missed']} / {counts['harmless']}"


def render(rows: Sequence[Planted], *, seconds: float) -> str:
    """The page of results: the table, every missed fault, and what caught the others."""
    lines = ["# Planted faults", "", "Caught / missed / harmless.", "", table(rows), ""]
    missed = [row for row in rows if row.outcome == "missed"]
    lines += ["## Missed", ""]
    for row in missed:
        lines.append(f"- {row.subject} {row.precision}: {row.fault} (share {row.share:.2f})")
    if not missed:
        lines.append("None.")
    lines += ["", "## What caught them", "", by_check(rows), ""]
    harmless = [row for row in rows if row.outcome == "harmless"]
    refused = sum(bool(row.by) for row in harmless)
    lines += [f"Of {len(harmless)} harmless faults, {refused} are refused, too.", ""]
    lines += ["Without the certificate:", "", without_certificate(rows), ""]
    lines += [f"{seconds:.0f} s of processor time.", ""]
    return "\n".join(lines)


def by_check(rows: Sequence[Planted]) -> str:
    """How many harmful faults each check sees, and how many it alone."""
    caught = [row for row in rows if row.outcome == "caught"]
    seen = Counter(check for row in caught for check in row.by)
    alone = Counter(row.by[0] for row in caught if len(row.by) == 1)
    lines = ["| check | sees | alone |", "|---|---|---|"]
    lines += [f"| {check} | {count} | {alone[check]} |" for check, count in seen.most_common()]
    return "\n".join(lines)


def without_certificate(rows: Sequence[Planted]) -> str:
    """Harmful faults of each kind that the outputs alone give away.

    A node that is planted with a constant of its own would be noticed by the constant.
    """
    lines = ["| kind | harmful | caught by outputs |", "|---|---|---|"]
    for kind in KINDS[:-1]:
        harmful = [row for row in rows if row.kind == kind and row.outcome in {"caught", "missed"}]
        caught = [row for row in harmful if set(row.by) - {"certificate"}]
        lines.append(f"| {kind} | {len(harmful)} | {len(caught)} |")
    return "\n".join(lines)


def raw_rows(rows: Sequence[Planted]) -> list[list[object]]:
    """Every planted fault with its share and outcome, without those that a graph lacks."""
    raw: list[list[object]] = []
    for row in rows:
        if row.outcome != "absent":
            # A graph that does not run moves its outputs without a bound.
            share = round(row.share, 6) if math.isfinite(row.share) else None
            where = [row.fault, row.kind, row.subject, row.precision]
            raw.append([*where, share, row.outcome, list(row.by)])
    return raw


def write_docs(rows: Sequence[Planted]) -> None:
    """Replaces the table between the marks of docs/measuring.md."""
    path = ROOT / "docs" / "measuring.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
