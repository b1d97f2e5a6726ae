"""Table 4 of the paper on a teacher of our own: recipes, records and page.

    python benchmarks/table4.py recipes table4-recipes    one recipe for each variation and seed
    python benchmarks/table4.py judge runs/table4-*       writes benchmarks/results/table4/*.json
    python benchmarks/table4.py report [--write benchmarks/results]    half a minute

Protocol and rule: benchmarks/table4/README.md. Judging takes two minutes of a core for a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from table4_scores import (
    FEW_LABEL_ACCURACY,
    FIGURES,
    FULL,
    HELDOUT,
    SEEDS,
    UNDISTILLED,
    VARIATIONS,
    Comparison,
    Difference,
    Figure,
    Records,
    paper_change,
)
from value_data import film_sentences, judged_groups, topics
from value_judge import (
    MODELS,
    Encoder,
    few_labels,
    heldout_figures,
    record_before,
    save,
    task_vectors,
    weights_sha256,
)
from value_scores import Record

from edgedistil.core import markdown
from edgedistil.core.distill_records import DistillRecord, HeldoutMlm
from edgedistil.core.format import ABSENT, hundredths, millions, number, with_interval
from edgedistil.core.recipe import Recipe, load_recipe, write_recipe
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.trace import heldout_of, read_trace
from edgedistil.evaluate.retention import LEVEL

FULL_RECIPE = Path(__file__).parent / "table4" / "full.toml"
FOLDER = RESULTS / "table4"


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
    """Writes the records that are missing; the undistilled student's come from the full runs."""
    for folder in folders:
        run = RunDir(folder)
        recipe = load_recipe(run.recipe)
        name = recipe.name.removeprefix("table4-").removesuffix(f"-{recipe.seed}")
        if name not in VARIATIONS or recipe.seed not in SEEDS:
            raise SystemExit(
                f"{folder} is of recipe {recipe.name}, which the protocol does not have"
            )
        models = {name: "student"}
        if name == FULL:
            models[UNDISTILLED] = "student-step0"
        for variation_name, model in models.items():
            path = FOLDER / f"{variation_name}-{recipe.seed}.json"
            if not record_before(path, weights_sha256(MODELS[model](run))):
                record = judge(run, model) | {"variation": variation_name, "seed": recipe.seed}
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
    sha256 = weights_sha256(folder)
    return {
        "measured": measured_on(),
        "weights_sha256": sha256,
        "teacher_sha256": weights_sha256(run.teacher),
        "recipe_sha256": distilled.recipe_sha256,
        "tokens": distilled.tokens_seen if model == "student" else 0,
        "correct": judged_before(sha256) or with_few_labels(folder),
        **_figures(last),
        "by_tokens": list(evaluations(run)) if model == "student" else [],
    }


def judged_before(sha256: str) -> dict[str, Any]:
    """Outcomes of an earlier record of these weights: the undistilled student has no seed."""
    for path in FOLDER.glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["weights_sha256"] == sha256:
            correct: dict[str, Any] = record["correct"]
            return correct
    return {}


def with_few_labels(folder: Path) -> dict[str, Any]:
    """Returns which judged texts of each task a model has right with few labels."""
    encoder = Encoder.load(folder)
    return {
        task.name: few_labels(task, task_vectors(encoder, task))
        for task in (film_sentences(), topics())
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


def _figures(heldout: HeldoutMlm) -> dict[str, float]:
    """The held-out figures by name; raises SystemExit for one that was not measured."""
    figures = {}
    for figure in HELDOUT:
        assert figure.key is not None
        value = getattr(heldout, figure.key)
        if not isinstance(value, float):
            raise SystemExit(f"{figure.name} at step {heldout.step}: {value.not_measured}")
        figures[figure.key] = value
    return figures


# --- page ----------------------------------------------------------------------------------------


def write_report(folder: Path | None) -> None:
    """Prints the page, and writes it with its figures."""
    comparison = Comparison(read_records(), judged_groups())
    page = render(comparison)
    print(page)
    if folder is not None:
        write_page(folder, "table4", page)
        rows = {"means": raw_means(comparison), "differences": raw_differences(comparison)}
        write_raw(folder, "table4", rows)


def read_records() -> dict[str, dict[int, Record]]:
    """Reads all records, by variation and seed.

    Raises:
        SystemExit: The full recipe has no record, or records do not belong together.
    """
    records: dict[str, dict[int, Record]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        records.setdefault(record["variation"], {})[record["seed"]] = record
    if FULL not in records:
        raise SystemExit(f"{FOLDER} has no record of {FULL}; write it with `table4.py judge`")
    check_records(records)
    return records


def check_records(records: Records) -> None:
    """Raises SystemExit unless all students are of the protocol, of one teacher and one budget."""
    trained = [
        record
        for name, seeds in records.items()
        if name != UNDISTILLED
        for record in seeds.values()
    ]
    for key, what in (("teacher_sha256", "teachers"), ("tokens", "numbers of tokens")):
        if len({record[key] for record in trained}) > 1:
            raise SystemExit(f"the records in {FOLDER} are of different {what}")
    if len({record["weights_sha256"] for record in trained}) < len(trained):
        raise SystemExit(f"two records in {FOLDER} are of the same weights")


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
        gap = comparison.difference(worse, better, FEW_LABEL_ACCURACY)
        text = _with_interval(FEW_LABEL_ACCURACY, gap)
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
