"""Figures of benchmarks that README and docs quote, computed again from raw records."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from edgedistil.profiling.latency import speed_ratio
from tests.fixtures.page_figures import DEFINITIONS, PUBLISHED, Definition, Published

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"

EMBEDDING = "embedding-2026-11-30.json"
VALUE = "value-2026-12-01.json"
TURNS = "latency_in_turns-2026-11-30.json"
HOST = "cost_model_host.x86-amx.json"
HELDOUT = "serious-2026-11-22.heldout.csv"


DECIDING = (
    "rank correlation",
    "nDCG@10, mean of the three",
    "1,000 labels, frozen, mean of the two",
)


@dataclass(frozen=True)
class Quote:
    """A quoted figure.

    Attributes:
        page: The page.
        text: The figure with enough of its line to be unique.
        record: File in benchmarks/results.
        figures: Computes the figures in `text`, formatted as they are quoted, from the record.
    """

    page: str
    text: str
    record: str
    figures: Callable[[Any], list[str]]


def shares_of(model: str) -> Callable[[Any], list[str]]:
    """Shares of the teacher's nDCG@10 on each collection, from the rankings of all queries."""

    def figures(raw: Any) -> list[str]:
        shares = []
        for collection in raw["collections"].values():
            means = [
                np.mean(collection["models"][name][0]["ndcg@10"]) for name in (model, "teacher")
            ]
            shares.append(f"{100 * means[0] / means[1]:.1f}%")
        return shares

    return figures


def in_turns(kind: str) -> Callable[[Any], list[str]]:
    """Median calls of the two encoders of a pair, and their ratio with its interval."""

    def figures(record: Any) -> list[str]:
        processes = record["pairs"][f"{kind} encoders"]["processes"]
        times = []
        for side in ("first_ns", "second_ns"):
            calls = [[ns for block in blocks for ns in block[side]] for blocks in processes]
            times.append(f"{median(map(median, calls)) / 1e6:.1f} ms")
        sums = [[(sum(b["first_ns"]), sum(b["second_ns"])) for b in blocks] for blocks in processes]
        ratio = speed_ratio(sums)
        return [*times, f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"]

    return figures


def worth(measure: str) -> Callable[[Any], list[str]]:
    """Control, student, their difference with its interval, and teacher, in hundredths."""

    def figures(raw: Any) -> list[str]:
        control, student, teacher = (
            f"| {100 * mean_of(raw, arm, measure):.1f} |" for arm in ("A0", "A1", "teacher")
        )
        return [control, student, "{:+.1f} ({:+.1f}–{:+.1f})".format(*gap(raw, measure)), teacher]

    return figures


def with_relations(raw: Any) -> list[str]:
    """What decides, of arm A2: means, and their differences from the control with intervals."""
    gaps = ["{:+.1f} ({:+.1f}–{:+.1f})".format(*gap(raw, m, arm="A2")) for m in DECIDING]
    return [*deciding_means("A2")(raw), *gaps]


def deciding_means(arm: str) -> Callable[[Any], list[str]]:
    """An arm's means of what decides, in hundredths."""

    def figures(raw: Any) -> list[str]:
        return [f"{100 * mean_of(raw, arm, measure):.1f}" for measure in DECIDING]

    return figures


def behind(measure: str) -> Callable[[Any], list[str]]:
    """A difference with its interval, as a sentence has it."""

    def figures(raw: Any) -> list[str]:
        text = "{:+.1f} ({:+.1f} to {:+.1f})".format(*gap(raw, measure))
        return [text.replace("-", "−")]

    return figures


def mean_of(raw: Any, arm: str, measure: str) -> float:
    [row] = [row for row in raw["means"] if (row["arm"], row["measure"]) == (arm, measure)]
    return float(row["is"])


def gap(raw: Any, measure: str, arm: str = "A1") -> list[float]:
    """Difference of an arm from the control, and its interval, in hundredths."""
    rows = raw["differences"]
    [row] = [row for row in rows if (row["arm"], row["measure"]) == (arm, measure)]
    return [100 * row[key] for key in ("is", "low", "high")]


def heldout(run: str, *, last: bool) -> Callable[[Any], list[str]]:
    """Figures of the first or last held-out evaluation of a run."""

    def figures(rows: Any) -> list[str]:
        of_run = [row for row in rows if (row["run"], row["model"]) == (run, "student")]
        row = max(of_run, key=step) if last else min(of_run, key=step)
        shares = [f"{100 * float(row[name]):.1f}%" for name in ("top1", "agreement")]
        return [f"{float(row['mlm_loss_nats']):.2f}", *shares]

    return figures


def step(row: dict[str, str]) -> int:
    return int(row["step"])


def ratios_within_a_tenth(_record: Any) -> list[str]:
    """Judged ratios that counting and the cost model predict within 10%."""
    import cost_model

    judged = cost_model.judge_ratios()
    counted = sum(abs(j.counted / j.measured["ratio"] - 1) <= 0.1 for j in judged)
    modelled = sum(abs(j.predicted / j.measured["ratio"] - 1) <= 0.1 for j in judged)
    return [f"{counted} of {len(judged)}", str(modelled)]


QUOTES = (
    Quote(
        "README.md",
        "keeps 100.1%, 99.5% and 100.0% of the teacher's nDCG@10",
        EMBEDDING,
        shares_of("student"),
    ),
    Quote(
        "README.md",
        "cut 100.7%, 40.1% and 62.3%",
        EMBEDDING,
        shares_of("student-step0"),
    ),
    Quote(
        "README.md",
        "the teacher's | 66.4 | 84.9 | +18.5 (+17.5–+19.5) | 100.0 |",
        VALUE,
        worth("rank correlation"),
    ),
    Quote(
        "README.md",
        "three collections | 50.1 | 60.4 | +10.3 (+8.8–+11.9) | 67.4 |",
        VALUE,
        worth("nDCG@10, mean of the three"),
    ),
    Quote(
        "README.md",
        "1,000 labels | 65.2 | 67.0 | +1.8 (+1.3–+2.3) | 69.3 |",
        VALUE,
        worth("1,000 labels, frozen, mean of the two"),
    ),
    Quote(
        "README.md",
        "85.7, 61.0 and 67.1, so +19.3 (+18.2–+20.3), +10.9 (+9.3–+12.5) and +1.9 (+1.4–+2.3)",
        VALUE,
        with_relations,
    ),
    Quote("README.md", "has 44.6, 51.0 and 65.1 there", VALUE, deciding_means("A3")),
    Quote(
        "README.md",
        "the search among Bible verses, −0.7 (−1.3 to −0.1)",
        VALUE,
        behind("nDCG@10, verses"),
    ),
    Quote(
        "README.md",
        "film sentiment, −0.5 (−1.1 to +0.1)",
        VALUE,
        behind("sentiment, 1,000 labels, frozen"),
    ),
    Quote(
        "README.md",
        "| before distillation | 5.95 | 19.7% | 28.2% |",
        HELDOUT,
        heldout("distilled", last=False),
    ),
    Quote(
        "README.md",
        "| distilled with three losses | 3.80 | 38.9% | 66.5% |",
        HELDOUT,
        heldout("distilled", last=True),
    ),
    Quote(
        "README.md",
        "| the same layers, masked LM alone | 3.66 | 40.1% | 55.7% |",
        HELDOUT,
        heldout("MLM only", last=True),
    ),
    Quote(
        "docs/measuring.md",
        "ratios 24 of 30 are within 10% by counting and 28 by the model",
        HOST,
        ratios_within_a_tenth,
    ),
)
# Numbers with a unit in which benchmarks report, and all numbers with decimals.
FIGURE = re.compile(
    r"(?<![\w.#/-])(?:\d[\d,]*\.\d+(?![\w.]*\d)(?:\s?(?:%|ms\b|s\b|times\b))?|"
    r"\d[\d,]*(?:\.\d+)?(?:–\d[\d,.]*)?\s?"
    r"(?:%|µs\b|ms\b|s\b|seconds\b|[KMG]iB\b|[kMG]B\b|times\b|nats\b|tokens/s|points\b))"
)
# Pages for users. The log and the decisions are notes of their day, which they say at their top;
# docs/cli.md and docs/recipe.md are generated from the code.
PAGES = (
    "README.md",
    "CHANGELOG.md",
    *(
        f"docs/{path.name}"
        for path in sorted((ROOT / "docs").glob("*.md"))
        if path.stem not in {"log", "decisions", "cli", "recipe"}
    ),
)
# Written and compared with their records by other tests.
GENERATED = re.compile(r"<!-- (planted faults|results) -->.*?<!-- end of \1 -->", re.DOTALL)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def read(record: str) -> Any:
    path = RESULTS / record
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return json.loads(path.read_text(encoding="utf-8"))


def missing(quote: Quote, page: str) -> list[str]:
    """Figures of a record that a quotation lacks, and the quotation if the page lacks it."""
    absent = [figure for figure in quote.figures(read(quote.record)) if figure not in quote.text]
    return absent if quote.text in page else [*absent, quote.text]


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote.text[:40])
def test_quoted_figures_follow_from_their_records(quote: Quote) -> None:
    assert missing(quote, (ROOT / quote.page).read_text(encoding="utf-8")) == []


def test_another_figure_is_noticed() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    text = "| teacher fp32, student fp32 | 31.9 ms | 11.3 ms | 2.01 (2.00–2.02) |"
    wrong = Quote("README.md", text, TURNS, in_turns("speed"))
    assert missing(wrong, page) == ["15.9 ms", "7.9 ms", wrong.text]


def unquoted(page: str, text: str) -> list[str]:
    """Figures outside of quotations, bounds, published figures and generated tables."""
    text = CODE.sub("", GENERATED.sub("", text))
    for entry in (*QUOTES, *DEFINITIONS, *PUBLISHED):
        if entry.page == page:
            text = text.replace(entry.text, "")
    return [figure.strip() for figure in FIGURE.findall(text)]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_has_a_record_a_bound_or_a_source(page: str) -> None:
    assert unquoted(page, (ROOT / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", ["docs/log.md", "docs/decisions.md"])
def test_notes_say_that_their_figures_have_no_records(page: str) -> None:
    head = (ROOT / page).read_text(encoding="utf-8")[:800]
    assert "quote only what `tests/test_quotes.py` computes from a record" in " ".join(head.split())


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda entry: entry.text[:40])
def test_bounds_are_those_of_the_code(definition: Definition) -> None:
    page = (ROOT / definition.page).read_text(encoding="utf-8")
    assert definition.text in page
    absent = [figure for figure in definition.figures() if figure not in definition.text]
    assert absent == []


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.text[:40])
def test_published_figures_are_still_on_their_page(entry: Published) -> None:
    assert entry.text in (ROOT / entry.page).read_text(encoding="utf-8")
    assert not entry.source.startswith("tests/") or (ROOT / entry.source).is_file()


def test_a_figure_without_a_record_is_noticed() -> None:
    sentence = (
        "| encoder on disk | 86 MiB | and 2.21 times (2.09–2.54), 27.6%, 5,691 tokens/s, 3.4 points"
    )
    figures = unquoted("README.md", sentence)
    assert figures == ["86 MiB", "2.21 times", "2.09", "2.54", "27.6%", "5,691 tokens/s", "3.4"]


# --- planted faults ------------------------------------------------------------------------------


def planted_rows() -> list[Any]:
    """Rows of the newest record of planted faults."""
    from benchmarks.planted.suite import Planted

    path = sorted(RESULTS.glob("planted_faults-*.json"))[-1]
    rows = []
    for fault, kind, subject, precision, share, outcome, by in read(path.name)["rows"]:
        moved = math.inf if share is None else share
        rows.append(Planted(fault, kind, subject, precision, moved, outcome, tuple(by)))
    return rows


def test_the_table_of_planted_faults_is_counted_from_its_record() -> None:
    from benchmarks.planted_faults import MARKS, table

    rows = planted_rows()
    page = (ROOT / "docs/measuring.md").read_text(encoding="utf-8")
    block = page.split(MARKS[0])[1].split(MARKS[1])[0]
    assert block.strip() == table(rows)
    assert [row for row in rows if row.outcome == "missed"] == []
    # A share decides what is harmless: of the others, none moves the outputs by less.
    for row in rows:
        if row.kind != "package":
            assert (row.outcome == "harmless") == (row.share <= 0.2)


def test_refused_harmless_faults_are_counted_from_the_record() -> None:
    harmless = [row for row in planted_rows() if row.outcome == "harmless"]
    in_int4 = [row for row in harmless if row.precision == "int4"]
    refused = sum(bool(row.by) for row in harmless)
    page = " ".join((ROOT / "docs/measuring.md").read_text(encoding="utf-8").split())
    assert f"Of the {len(harmless)} harmless faults, {len(in_int4)} in int4" in page
    assert f"the check refuses {refused}, too" in page
