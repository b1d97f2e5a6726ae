"""Table 4 of the paper on a teacher of our own: recipes, records and page.

    python benchmarks/table4.py recipes table4-recipes    one recipe for each variation and seed
    python benchmarks/table4.py judge runs/table4-*       writes benchmarks/results/table4/*.json
    python benchmarks/table4.py report [--write benchmarks/results]

Protocol and rule: benchmarks/table4/README.md. Judging takes half a minute a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from page import (
    RESULTS,
    argument_parser,
    host_line,
    measured_on,
    today,
    version_list,
    write_page,
    write_raw,
)
from scipy import stats
from value_data import film_sentences, topics
from value_judge import Encoder, few_labels, task_vectors, unpack

from edgedistil.ablate import PAPER_CHANGES
from edgedistil.core import markdown
from edgedistil.core.distill_records import DistillRecord, HeldoutMlm
from edgedistil.core.format import hundredths, number, with_interval
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.records import installed_versions, read_record
from edgedistil.core.rundir import RunDir

FULL_RECIPE = Path(__file__).parent / "table4" / "full.toml"
FOLDER = RESULTS / "table4"
SEEDS = range(56, 61)
LEVEL = 0.95
FULL, UNDISTILLED = "full", "undistilled"
# Variation → changed keys. Those of the paper change one.
VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    "no-soft-target": {"loss.soft_target": 0.0},
    "no-cosine": {"loss.cosine": 0.0},
    "no-mlm": {"loss.mlm": 0.0},
    "random-init": {"student.init": "random"},
    "words-only": {"loss.soft_target": 0.0, "loss.cosine": 0.0},
}


@dataclass(frozen=True)
class Figure:
    """A figure of a student.

    Attributes:
        key: Name in a record.
        name: Name on the page.
        sign: 1 where more is better, −1 where less is.
    """

    key: str
    name: str
    sign: int = 1


FIGURES = (
    Figure("few_labels", "few labels, accuracy"),
    Figure("agreement", "agreement"),
    Figure("kl_nats", "KL, nats", sign=-1),
    Figure("top1_hidden", "top-1 at [MASK]"),
)

Record = Mapping[str, Any]
# Variation → seed → record.
Records = Mapping[str, Mapping[int, Record]]
Floats = NDArray[np.float64]


def main() -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recipes = commands.add_parser("recipes", help="write a recipe for each variation and seed")
    recipes.add_argument("folder", type=Path)
    judged = commands.add_parser("judge", help="write the record of each run")
    judged.add_argument("run", type=Path, nargs="+")
    report = commands.add_parser("report", help="compare the variations")
    report.add_argument("--write", type=Path, metavar="FOLDER", help="for the dated result page")
    arguments = parser.parse_args()
    if arguments.command == "recipes":
        write_recipes(arguments.folder)
    elif arguments.command == "judge":
        write_records(arguments.run)
    else:
        write_report(arguments.write)


# --- recipes -------------------------------------------------------------------------------------


def write_recipes(folder: Path) -> None:
    """Writes the recipe of each variation and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, changes in VARIATIONS.items():
        for seed in SEEDS:
            recipe = variation(name, changes, seed)
            write_recipe(folder / f"{recipe.name}.toml", recipe)


def variation(name: str, changes: Mapping[str, Any], seed: int) -> Recipe:
    """The full recipe with other values of some keys."""
    recipe = load_recipe(FULL_RECIPE)
    by_section: dict[str, Any] = {"name": f"table4-{name}-{seed}", "seed": seed}
    for path, value in changes.items():
        section, key = path.split(".")
        so_far = by_section.get(section, getattr(recipe, section))
        by_section[section] = so_far.model_copy(update={key: value})
    return recipe.model_copy(update=by_section)


# --- records -------------------------------------------------------------------------------------


def write_records(folders: Sequence[Path]) -> None:
    """Writes the record of each run; the undistilled student's comes from the full runs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        run = RunDir(folder)
        recipe = load_recipe(run.recipe)
        name = recipe.name.removeprefix("table4-").removesuffix(f"-{recipe.seed}")
        models = {name: "student"}
        if name == FULL:
            models[UNDISTILLED] = "student-step0"
        for variation_name, model in models.items():
            record = judge(run, model) | {"variation": variation_name, "seed": recipe.seed}
            path = FOLDER / f"{variation_name}-{recipe.seed}.json"
            path.write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
            print(path)


def judge(run: RunDir, model: str) -> dict[str, Any]:
    """Held-out figures by tokens seen, and few-label accuracy."""
    distilled = read_record(run.distill, DistillRecord)
    last = [figure for figure in distilled.heldout if figure.model == model][-1]
    assert isinstance(last, HeldoutMlm)
    encoder = Encoder.load(run.student if model == "student" else run.student_step0)
    accuracies = []
    for task in (film_sentences(), topics()):
        packed = few_labels(task, task_vectors(encoder, task))
        accuracies.append(float(unpack(packed).mean()))
    return {
        "measured": measured_on(),
        "tokens": distilled.tokens_seen if model == "student" else 0,
        "few_labels": float(np.mean(accuracies)),
        "sentiment": accuracies[0],
        "topics": accuracies[1],
        "agreement": last.agreement,
        "kl_nats": last.kl_nats,
        "top1_hidden": last.top1_hidden,
        "by_step": list(evaluations(run)) if model == "student" else [],
    }


def evaluations(run: RunDir) -> Iterator[dict[str, float]]:
    """Yields the student's held-out figures during training."""
    for line in run.metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "heldout" and entry["model"] == "student":
            yield {key: entry[key] for key in ("step", "agreement", "kl_nats", "top1_hidden")}


# --- comparison ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One variation minus another in one figure, paired by seed."""

    value: float
    low: float
    high: float

    def outcome(self, sign: float) -> str:
        """Returns on which side of 0 the interval is, relative to the paper's sign."""
        low, high = sorted((sign * self.low, sign * self.high))
        if low > 0:
            return "reproduced"
        return "contradicted" if high < 0 else "inconclusive"


def difference(records: Records, name: str, other: str, figure: Figure) -> Difference:
    """Compares two variations by a figure, over the seeds that both have."""
    seeds = sorted(set(records[name]) & set(records[other]))
    if len(seeds) < 2:
        raise SystemExit(f"{name} and {other} share {len(seeds)} seeds; expected 2 or more")
    values: Floats = np.array(
        [records[name][s][figure.key] - records[other][s][figure.key] for s in seeds]
    )
    half = stats.t.ppf((1 + LEVEL) / 2, len(seeds) - 1) * stats.sem(values)
    mean = float(values.mean())
    return Difference(mean, mean - half, mean + half)


def paper_change(name: str) -> float | None:
    """The paper's change of GLUE's score; None if it has no such row."""
    changes = VARIATIONS.get(name, {})
    return PAPER_CHANGES.get(next(iter(changes))) if len(changes) == 1 else None


# --- page ----------------------------------------------------------------------------------------


def write_report(folder: Path | None) -> None:
    """Prints the page, and writes it with its figures."""
    records = read_records()
    page = render(records)
    print(page)
    if folder is not None:
        write_page(folder, "table4", page)
        write_raw(folder, "table4", {"records": records})


def read_records() -> dict[str, dict[int, Record]]:
    """Reads all records, by variation and seed."""
    records: dict[str, dict[int, Record]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        records.setdefault(record["variation"], {})[record["seed"]] = record
    if FULL not in records:
        raise SystemExit(f"{FOLDER} has no record of {FULL}; write it with `table4.py judge`")
    return records


def render(records: Records) -> str:
    """Renders the result page."""
    headings = [figure.name for figure in FIGURES]
    varied = [name for name in (*VARIATIONS, UNDISTILLED) if name in records and name != FULL]
    tokens = next(iter(records[FULL].values()))["tokens"]
    parts = [
        f"# Table 4 on a teacher of our own, {today()}",
        f"{host_line()} · {version_list(installed_versions())}",
        "Protocol and rule: `benchmarks/table4/README.md`, written before the runs. "
        f"{tokens / 1e6:.1f}M tokens a student, seeds {', '.join(map(str, records[FULL]))}.",
        "## Means over the seeds",
        markdown.table(("variation", *headings), list(mean_rows(records))),
        f"## Differences from `{FULL}`, paired by seed, {LEVEL:.0%} t intervals",
        markdown.table(("variation", "paper", *headings), list(change_rows(records, varied))),
        "## The paper's order of few-label accuracy",
        markdown.table(("worse", "better", "difference", ""), list(order_rows(records))),
    ]
    return "\n\n".join(parts) + "\n"


def mean_rows(records: Records) -> Iterator[tuple[str, ...]]:
    """Yields the mean figures of each variation."""
    for name, by_seed in records.items():
        means = [np.mean([record[f.key] for record in by_seed.values()]) for f in FIGURES]
        cells = [_format(f, mean) for f, mean in zip(FIGURES, means, strict=True)]
        yield name, *cells


def change_rows(records: Records, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields each variation's changes and how they compare with the paper's sign."""
    for name in names:
        paper = paper_change(name)
        cells = []
        for figure in FIGURES:
            change = difference(records, name, FULL, figure)
            text = with_interval(
                change.value, change.low, change.high, lambda v, f=figure: _format(f, v, sign=True)
            )
            if paper is not None:
                text += f": {change.outcome(np.sign(paper) * figure.sign)}"
            cells.append(text)
        yield name, "" if paper is None else hundredths(paper, sign=True), *cells


def order_rows(records: Records) -> Iterator[tuple[str, str, str, str]]:
    """Yields each pair of the paper's variations, the worse one first."""
    names = [name for name in VARIATIONS if paper_change(name) is not None and name in records]
    ordered = sorted(names, key=lambda name: paper_change(name) or 0.0)
    for worse, better in combinations(ordered, 2):
        gap = difference(records, worse, better, FIGURES[0])
        text = with_interval(gap.value, gap.low, gap.high, lambda v: hundredths(v, sign=True))
        yield worse, better, text, gap.outcome(-1)


def _format(figure: Figure, value: float, *, sign: bool = False) -> str:
    if figure.key == "kl_nats":
        return f"{value:+.3f}" if sign else number(value)
    return hundredths(value, sign=sign)


if __name__ == "__main__":
    main()
