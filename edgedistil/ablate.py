"""`edgedistil ablate`: the cost of removing a part of a recipe (the paper's table 4).

This module is at the top level because it calls two stages, which do not import each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

from edgedistil.core import console
from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.errors import RecipeError
from edgedistil.core.evaluation_records import (
    AblationRecord,
    EvaluationRecord,
    TaskFacts,
    Variation,
)
from edgedistil.core.format import plural
from edgedistil.core.options import EvaluateOptions, TaskOptions
from edgedistil.core.paths import user_path
from edgedistil.core.places import runs_root
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.recipe_diff import differences
from edgedistil.core.records import Figure, NotMeasured, provenance, read_record, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.shipped import shipped_folder
from edgedistil.core.verdict import MIN_SEEDS

if TYPE_CHECKING:
    from edgedistil.evaluate.retention import Interval, Noise

FULL_RECIPE = "full"
MODEL = "student"
# Changed key → change of GLUE's macro-score, as a share (Sanh et al. 2019, table 4).
PAPER_CHANGES: Mapping[str, float] = {
    "loss.soft_target": -0.0296,
    "loss.cosine": -0.0146,
    "loss.mlm": -0.0031,
    "student.init": -0.0369,
}
# The paper removes a loss or starts from random weights; other values of these keys have no row.
_PAPER_VALUES = ("0.0", "random")
# A difference in text, budget or evaluation would change the score too, and hide the ablated part.
_MUST_BE_EQUAL = (
    "seed",
    "teacher",
    "corpus",
    "evaluate",
    "train.tokens",
    "train.epochs",
    "train.steps",
    "train.global_batch",
)
# Keys that name a recipe and do not affect its result.
_LABELS = ("name", "description")


def ablate(folder: Path, options: TaskOptions) -> tuple[RunDir, AblationRecord]:
    """Distils and evaluates every recipe of a folder and compares each with `full.toml`.

    Completed work is not repeated: each recipe has a run of its own, each evaluation its cells.

    Args:
        folder: Holds `full.toml` and variations, which differ from it only in what is ablated.
        options: Tasks, seeds and data, as for `edgedistil evaluate`.
    Returns:
        The full recipe's run, which stores the record, and the record.
    Raises:
        RecipeError: `full.toml` or every variation is missing, or a variation has another budget.
    """
    recipes = ablation_recipes(folder)
    runs = {name: _distil_and_evaluate(recipe, options) for name, recipe in recipes.items()}
    results = [
        _Result(name, recipe, runs[name], read_record(runs[name].evaluation, EvaluationRecord))
        for name, recipe in recipes.items()
    ]
    record = _compare(results)
    full_run = runs[FULL_RECIPE]
    write_record(full_run.ablation, record)
    return full_run, record


def ablation_recipes(folder: Path) -> dict[str, Recipe]:
    """Loads the recipes of a folder, the full one first; falls back to a shipped folder.

    Raises:
        RecipeError: The folder, `full.toml` or every variation is missing, or a variation is not
            comparable (the message names the keys that differ).
    """
    source = user_path(folder, error=RecipeError)
    if not source.is_dir():
        source = shipped_folder("recipes") / folder.name
    if not source.is_dir():
        raise RecipeError(
            f"folder '{folder}' does not exist", hint="the shipped study is recipes/ablation"
        )
    paths = {path.stem: path for path in sorted(source.glob("*.toml"))}
    if FULL_RECIPE not in paths or len(paths) < 2:
        names = ", ".join(paths) or "none"
        raise RecipeError(
            f"{folder}: expected {FULL_RECIPE}.toml and variations of it, got recipes: {names}"
        )
    variations = [name for name in paths if name != FULL_RECIPE]
    recipes = {name: load_recipe(paths[name]) for name in [FULL_RECIPE, *variations]}
    for name, recipe in recipes.items():
        _check_comparable(name, changed_keys(recipes[FULL_RECIPE], recipe))
    return recipes


def _check_comparable(name: str, changed: Mapping[str, str]) -> None:
    """Raises RecipeError if a variation has another text, budget or evaluation."""
    unfair = [key for key in changed if _must_be_equal(key)]
    if unfair:
        described = "; ".join(f"{key} is {changed[key]}" for key in unfair)
        raise RecipeError(
            f"ablation '{name}' is not comparable with the full recipe: {described}",
            hint="use the same text, number of tokens and evaluation in all recipes of the folder",
        )


def _must_be_equal(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _MUST_BE_EQUAL)


def changed_keys(full: Recipe, other: Recipe) -> dict[str, str]:
    """Returns dotted keys whose values differ, each with "other's value (full recipe's value)"."""
    changes = differences(full, other)
    return {
        key: f"{change.after} ({change.before})"
        for key, change in changes.items()
        if key not in _LABELS
    }


def _distil_and_evaluate(recipe: Recipe, options: TaskOptions) -> RunDir:
    import edgedistil

    console.say(f"ablation: {recipe.name}: {recipe.description}")
    resume = (runs_root() / recipe.name).is_dir()
    run, _ = edgedistil.distill(recipe, resume=resume)
    evaluation = EvaluateOptions(
        tasks=options.tasks,
        seeds=options.seeds,
        models=[MODEL],
        data=options.data,
        jobs=options.jobs,
    )
    edgedistil.evaluate(run, evaluation)
    return run


# --- comparing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Result:
    """One evaluated recipe of the study."""

    name: str
    recipe: Recipe
    run: RunDir
    evaluation: EvaluationRecord

    @property
    def score(self) -> float:
        """Weighted mean over the tasks of the means over the seeds."""
        means = {summary.task: summary.mean for summary in self.evaluation.summaries}
        tasks = self.evaluation.tasks
        weighted = zip(task_weights(tasks), tasks, strict=True)
        return sum(weight * means[task.name] for weight, task in weighted)


def _compare(results: Sequence[_Result]) -> AblationRecord:
    """Compares all results with the first, which is the full recipe's."""
    full = results[0]
    variations = [_unchanged(full), *(_variation(full, other) for other in results[1:])]
    return AblationRecord(
        tasks=[task.name for task in full.evaluation.tasks],
        seeds=sorted({cell.seed for cell in full.evaluation.cells}),
        interval=_describe_interval(full, comparisons=len(variations) - 1),
        variations=variations,
        agrees_with_paper=order_against_paper(variations),
        provenance=provenance(),
    )


def _unchanged(full: _Result) -> Variation:
    """Returns the full recipe's entry, which has no changes."""
    absent = NotMeasured(not_measured="this is the full recipe")
    return Variation(
        **_facts(full),
        changed={},
        change=absent,
        change_low=absent,
        change_high=absent,
        spread=absent,
        within_noise=True,
        paper_change=NotMeasured(not_measured="the paper has no such row"),
    )


def _variation(full: _Result, other: _Result) -> Variation:
    changed = changed_keys(full.recipe, other.recipe)
    _, interval, _ = _difference(full, other)
    low, high = interval.low, interval.high
    is_certain = isinstance(low, float) and isinstance(high, float) and not low <= 0 <= high
    return Variation(
        **_facts(other),
        changed=changed,
        change=other.score - full.score,
        change_low=low,
        change_high=high,
        spread=_spread(full.evaluation, other.evaluation),
        within_noise=not (is_certain and len(_seeds(other)) >= MIN_SEEDS),
        paper_change=_paper_change(changed),
    )


def _facts(result: _Result) -> dict[str, Any]:
    """Returns the fields of a variation that do not depend on the full recipe."""
    return {
        "name": result.name,
        "description": result.recipe.description,
        "run": result.run.name,
        "tokens_seen": _tokens_seen(result.run),
        "score": result.score,
        "per_task": {summary.task: summary.mean for summary in result.evaluation.summaries},
    }


def _tokens_seen(run: RunDir) -> int:
    return read_record(run.distill, DistillRecord).tokens_seen


def _difference(full: _Result, other: _Result) -> tuple[float, Interval, Noise]:
    """Returns the change of the mean score, its interval and its noise."""
    from edgedistil.evaluate.retention import estimate_difference, seed_scores
    from edgedistil.evaluate.stage import predictions_of_record

    before, after = (
        [seed_scores(p) for p in predictions_of_record(r.run, r.evaluation, MODEL)]
        for r in (full, other)
    )
    return estimate_difference(before, after, task_weights(full.evaluation.tasks))


def task_weights(tasks: Sequence[TaskFacts]) -> list[float]:
    """Returns the weight of each task in the mean; tasks on the same texts share one weight."""
    # The first task of each group of tasks on the same texts names the group.
    groups = [task.same_texts_as or task.name for task in tasks]
    return [1 / len(set(groups)) / groups.count(group) for group in groups]


def _describe_interval(full: _Result, *, comparisons: int) -> str:
    from edgedistil.evaluate.retention import describe_interval

    *_, noise = _difference(full, full)
    return (
        f"{describe_interval(noise)}; {plural(comparisons, 'comparison')}, of which one in 20 is"
        " outside by chance; one distillation per recipe: its own noise is not included"
    )


def _seeds(result: _Result) -> set[int]:
    return {cell.seed for cell in result.evaluation.cells}


def _spread(full: EvaluationRecord, other: EvaluationRecord) -> Figure:
    """Standard deviation over the seeds of the change of the mean over the tasks."""
    before, after = _score_by_seed(full), _score_by_seed(other)
    changes = [after[seed] - before[seed] for seed in sorted(set(before) & set(after))]
    if len(changes) < 2:
        return NotMeasured(not_measured="one seed has no spread: give --seeds 5")
    return stdev(changes)


def _score_by_seed(record: EvaluationRecord) -> dict[int, float]:
    scores: dict[int, list[float]] = {}
    for cell in record.cells:
        scores.setdefault(cell.seed, []).append(cell.scores[cell.metric])
    return {seed: _mean(values) for seed, values in scores.items()}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return float(sum(listed) / len(listed))


def _paper_change(changed: Mapping[str, str]) -> Figure:
    """Returns the paper's change of score for a recipe that changes one key as the paper does."""
    if len(changed) == 1:
        key, value = next(iter(changed.items()))
        if key in PAPER_CHANGES and value.split()[0] in _PAPER_VALUES:
            return PAPER_CHANGES[key]
    return NotMeasured(not_measured="the paper has no such row")


def _overlap(worse: Variation, better: Variation) -> bool:
    """Whether the intervals of two changes have a value in common, or one is missing."""
    high, low = worse.change_high, better.change_low
    return isinstance(high, NotMeasured) or isinstance(low, NotMeasured) or high >= low


def order_against_paper(variations: Sequence[Variation]) -> str:
    """Compares the order of the paper's rows with their order here, where it is certain."""
    rows = [
        (row.name, row.change, row.paper_change)
        for row in variations
        if isinstance(row.paper_change, float) and isinstance(row.change, float)
    ]
    if len(rows) < 2:
        return "inconclusive: fewer than two of the paper's rows were run"
    here = [name for name, _, _ in sorted(rows, key=lambda row: row[1])]
    paper = [name for name, _, _ in sorted(rows, key=lambda row: row[2])]
    # The order of changes that may be 0 is the order of the noise.
    by_name = {row.name: row for row in variations}
    within_noise = [name for name, _, _ in rows if by_name[name].within_noise]
    if within_noise:
        return f"inconclusive: within the noise: {', '.join(within_noise)}"
    # Two changes that differ from 0 need not differ from each other.
    for worse, better in pairwise(here):
        if _overlap(by_name[worse], by_name[better]):
            return f"inconclusive: the intervals of {worse} and {better} overlap"
    verdict = "the paper's order"
    if here != paper:
        verdict = f"not the paper's order ({' < '.join(paper)})"
    return f"worst first: {' < '.join(here)}: {verdict}"
