"""Table 4 of the paper on a teacher of our own: recipes, records and page.

    python benchmarks/table4.py recipes table4-recipes    one recipe for each variation and seed
    python benchmarks/table4.py judge runs/table4-*       writes benchmarks/results/table4/*.json
    python benchmarks/table4.py report [--write benchmarks/results]    half a minute

Protocol and rule: benchmarks/table4/README.md. Judging takes half a minute a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from page import (
    RESULTS,
    argument_parser,
    measured_lines,
    measured_on,
    today,
    write_page,
    write_raw,
)
from value_data import film_sentences, topics
from value_judge import (
    MODELS,
    Encoder,
    few_labels,
    heldout_figures,
    save,
    task_vectors,
    weights_sha256,
)
from value_scores import DRAWN_TASKS, Record, few_label_scores, mean_of, of_seeds_alone

from edgedistil.ablate import PAPER_CHANGES
from edgedistil.core import markdown
from edgedistil.core.distill_records import DistillRecord, HeldoutMlm
from edgedistil.core.format import ABSENT, hundredths, millions, number, with_interval
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.trace import heldout_of, read_trace
from edgedistil.evaluate.retention import LEVEL, Interval, SeedScores, contrast_noise, t_interval

FULL_RECIPE = Path(__file__).parent / "table4" / "full.toml"
FOLDER = RESULTS / "table4"
SEEDS = range(56, 61)
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
        name: Name on the page.
        scores: Returns the scores of a variation's records, in their order.
        sign: 1 where more is better, −1 where less is.
        key: Name among the held-out figures; None for few-label accuracy.
    """

    name: str
    scores: Callable[[Sequence[Record]], SeedScores]
    sign: int = 1
    key: str | None = None


def _few_labels(records: Sequence[Record]) -> SeedScores:
    return mean_of([few_label_scores(records, task) for task in DRAWN_TASKS])


def _heldout(key: str, name: str, *, sign: int = 1) -> Figure:
    """A held-out figure: a mean over the same masked tokens for every student."""

    def scores(records: Sequence[Record]) -> SeedScores:
        return of_seeds_alone(np.array([record[key] for record in records]))

    return Figure(name, scores, sign, key)


FEW_LABELS = Figure("few labels, accuracy", _few_labels)
HELDOUT = (
    _heldout("agreement", "agreement"),
    _heldout("kl_nats", "KL, nats", sign=-1),
    _heldout("top1_hidden", "top-1 at [MASK]"),
)
FIGURES = (FEW_LABELS, *HELDOUT)

# Variation → seed → record.
Records = Mapping[str, Mapping[int, Record]]


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
            save(path, record)
            print(path)


def judge(run: RunDir, model: str) -> dict[str, Any]:
    """Returns what the report computes the figures of a student from.

    Args:
        run: Run of a variation.
        model: student, or student-step0.
    """
    distilled = read_record(run.distill, DistillRecord)
    last = heldout_figures(distilled, model)
    if not isinstance(last, HeldoutMlm):
        raise SystemExit(f"{run.path} is not a masked-LM run; expected one of `table4.py recipes`")
    folder = MODELS[model](run)
    encoder = Encoder.load(folder)
    return {
        "measured": measured_on(),
        "weights_sha256": weights_sha256(folder),
        "tokens": distilled.tokens_seen if model == "student" else 0,
        "correct": {
            task.name: few_labels(task, task_vectors(encoder, task))
            for task in (film_sentences(), topics())
        },
        **_figures(last),
        "by_tokens": list(evaluations(run)) if model == "student" else [],
    }


def evaluations(run: RunDir) -> Iterator[dict[str, Any]]:
    """Yields the student's held-out figures during training, by tokens seen."""
    tokens = 0
    for entry, _ in read_trace(run.metrics):
        if entry["kind"] == "train":
            tokens = entry["tokens"]
        elif entry["model"] == "student":
            figures = heldout_of(entry)
            assert isinstance(figures, HeldoutMlm)
            # An evaluation is written after the step that it is of.
            yield {"step": figures.step, "tokens": tokens, **_figures(figures)}


def _figures(heldout: HeldoutMlm) -> dict[str, Any]:
    return heldout.model_dump(mode="json", include={figure.key for figure in HELDOUT})


# --- comparison ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One variation minus another in one figure.

    Attributes:
        value: The difference.
        interval: Its interval, which one seed does not give.
        seeds: Number of seeds that both variations have.
    """

    value: float
    interval: Interval
    seeds: int

    @property
    def raw(self) -> dict[str, Any]:
        """Seeds, value and bounds before any rounding."""
        bounds = {"low": self.interval.low, "high": self.interval.high}
        return {"seeds": self.seeds, "is": self.value, **bounds}

    def outcome(self, sign: float) -> str:
        """Returns on which side of 0 the interval is, relative to the paper's sign."""
        if self.seeds < len(SEEDS):
            return "no verdict"
        bounds = (self.interval.low, self.interval.high)
        low, high = sorted(sign * bound for bound in bounds if isinstance(bound, float))
        if low > 0:
            return "reproduced"
        return "contradicted" if high < 0 else "inconclusive"


@dataclass
class Comparison:
    """Variations by their records.

    Attributes:
        records: The records.
    """

    records: Records
    _scores: dict[tuple[str, str], SeedScores] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Variations that have records, in the order of the page."""
        return [name for name in (*VARIATIONS, UNDISTILLED) if name in self.records]

    def seeds(self, name: str) -> list[int]:
        """Seeds of a variation, in the order of its scores."""
        return sorted(self.records[name])

    def scores(self, name: str, figure: Figure) -> SeedScores:
        """Scores of a variation, one for each seed."""
        key = (name, figure.name)
        # Resampling takes seconds, and a variation is in several differences.
        if key not in self._scores:
            by_seed = self.records[name]
            self._scores[key] = figure.scores([by_seed[seed] for seed in self.seeds(name)])
        return self._scores[key]

    def difference(self, name: str, other: str, figure: Figure) -> Difference:
        """Compares two variations by a figure, paired over the seeds that both have."""
        shared = sorted(set(self.seeds(name)) & set(self.seeds(other)))
        if not shared:
            raise SystemExit(f"{name} and {other} have no seed in common")
        ours, theirs = (
            _of_seeds(self.scores(one, figure), [self.seeds(one).index(seed) for seed in shared])
            for one in (name, other)
        )
        # Paired by seed, and on the same texts and draws.
        paired = SeedScores(
            ours.complete_S - theirs.complete_S, ours.resampled_SR - theirs.resampled_SR
        )
        interval = t_interval(paired.mean, contrast_noise([(1.0, paired)]), level=LEVEL)
        return Difference(paired.mean, interval, len(shared))


def _of_seeds(scores: SeedScores, places: Sequence[int]) -> SeedScores:
    return SeedScores(scores.complete_S[places], scores.resampled_SR[places])


def paper_change(name: str) -> float | None:
    """The paper's change of GLUE's score; None if it has no such row."""
    changes = VARIATIONS.get(name, {})
    return PAPER_CHANGES.get(next(iter(changes))) if len(changes) == 1 else None


# --- page ----------------------------------------------------------------------------------------


def write_report(folder: Path | None) -> None:
    """Prints the page, and writes it with its figures."""
    comparison = Comparison(read_records())
    page = render(comparison)
    print(page)
    if folder is not None:
        write_page(folder, "table4", page)
        rows = {"means": raw_means(comparison), "differences": raw_differences(comparison)}
        write_raw(folder, "table4", rows)


def read_records() -> dict[str, dict[int, Record]]:
    """Reads all records, by variation and seed."""
    records: dict[str, dict[int, Record]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        records.setdefault(record["variation"], {})[record["seed"]] = record
    if FULL not in records:
        raise SystemExit(f"{FOLDER} has no record of {FULL}; write it with `table4.py judge`")
    return records


def raw_means(comparison: Comparison) -> list[dict[str, Any]]:
    """The means before any rounding."""
    return [
        {"variation": name, "figure": figure.name, "is": comparison.scores(name, figure).mean}
        for name in comparison.names
        for figure in FIGURES
    ]


def raw_differences(comparison: Comparison) -> list[dict[str, Any]]:
    """The differences from the full recipe before any rounding."""
    return [
        {"variation": name, "figure": figure.name} | comparison.difference(name, FULL, figure).raw
        for name in comparison.names
        for figure in FIGURES
        if name != FULL
    ]


def render(comparison: Comparison) -> str:
    """Renders the result page."""
    records, names = comparison.records, comparison.names
    varied = [name for name in names if name != FULL]
    headings = [figure.name for figure in FIGURES]
    tokens = next(iter(records[FULL].values()))["tokens"]
    parts = [
        f"# Table 4 on a teacher of our own, {today()}",
        measured_lines(record for by_seed in records.values() for record in by_seed.values()),
        "Protocol and rule: `benchmarks/table4/README.md`, written before the runs. "
        f"{tokens / 1e6:.1f}M tokens a student. Records: `benchmarks/results/table4`.",
        "## Means over the seeds",
        markdown.table(("variation", "seeds", *headings), list(mean_rows(comparison, names))),
        f"## Differences from `{FULL}`, paired by seed, {LEVEL:.0%} t intervals",
        markdown.table(
            ("variation", "n", "paper", *headings), list(change_rows(comparison, varied))
        ),
        f"n: seeds of both variations. Fewer than {len(SEEDS)} give no verdict.",
        "## The paper's order of few-label accuracy",
        markdown.table(("worse", "better", "n", "difference", ""), list(order_rows(comparison))),
        "## Held-out figures by tokens seen, means over the seeds",
        *by_tokens(records, names),
    ]
    return "\n\n".join(parts) + "\n"


def mean_rows(comparison: Comparison, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the mean figures of each variation, with the seeds that they are of."""
    for name in names:
        cells = [_format(f, comparison.scores(name, f).mean) for f in FIGURES]
        yield name, " ".join(map(str, comparison.seeds(name))), *cells


def change_rows(comparison: Comparison, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields each variation's changes and how they compare with the paper's sign."""
    for name in names:
        paper = paper_change(name)
        changes = [comparison.difference(name, FULL, figure) for figure in FIGURES]
        cells = []
        for figure, change in zip(FIGURES, changes, strict=True):
            text = _with_interval(figure, change)
            if paper is not None:
                text += f": {change.outcome(np.sign(paper) * figure.sign)}"
            cells.append(text)
        of_paper = "" if paper is None else hundredths(paper, sign=True)
        yield name, str(changes[0].seeds), of_paper, *cells


def order_rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yields each pair of the paper's variations, the worse one first."""
    records = comparison.records
    names = [name for name in VARIATIONS if paper_change(name) is not None and name in records]
    ordered = sorted(names, key=lambda name: paper_change(name) or 0.0)
    for worse, better in combinations(ordered, 2):
        gap = comparison.difference(worse, better, FEW_LABELS)
        text = _with_interval(FEW_LABELS, gap)
        yield worse, better, str(gap.seeds), text, gap.outcome(-1)


def by_tokens(records: Records, names: Sequence[str]) -> Iterator[str]:
    """Yields a table of each held-out figure: variations by tokens seen."""
    trained = [name for name in names if name != UNDISTILLED]
    traces = {name: mean_trace(records[name].values()) for name in trained}
    steps = sorted({step for trace in traces.values() for step in trace})
    tokens = {step: row["tokens"] for trace in traces.values() for step, row in trace.items()}
    for figure in HELDOUT:
        rows = []
        for name, trace in traces.items():
            values = [trace.get(step, {}).get(figure.key) for step in steps]
            cells = [ABSENT if value is None else _format(figure, value) for value in values]
            rows.append((name, *cells))
        heads = [millions(tokens[step]) for step in steps]
        yield markdown.table((figure.name, *heads), rows)


def mean_trace(records: Iterable[Record]) -> dict[int, dict[str, float]]:
    """Step → means over the seeds of tokens and held-out figures."""
    by_step: dict[int, list[Mapping[str, float]]] = {}
    for record in records:
        for row in record["by_tokens"]:
            by_step.setdefault(row["step"], []).append(row)
    keys = ("tokens", *(figure.key for figure in HELDOUT if figure.key is not None))
    return {
        step: {key: float(np.mean([row[key] for row in rows])) for key in keys}
        for step, rows in by_step.items()
    }


def _with_interval(figure: Figure, change: Difference) -> str:
    low, high = change.interval.low, change.interval.high
    return with_interval(change.value, low, high, lambda v: _format(figure, v, sign=True))


def _format(figure: Figure, value: float, *, sign: bool = False) -> str:
    if figure.key == "kl_nats":
        return f"{value:+.3f}" if sign else number(value)
    return hundredths(value, sign=sign)


if __name__ == "__main__":
    main()
