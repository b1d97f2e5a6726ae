"""`edgedistil ablate`: what removing a part of a recipe costs (the paper's table 4), with the noise beside it.

It stands beside the pipeline because it calls two stages, which do not know each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from edgedistil.core import console
from edgedistil.core.errors import RecipeError
from edgedistil.core.recipe import Recipe, load_recipe
from edgedistil.core.records import (
    AblationRecord,
    DistillRecord,
    EvaluationRecord,
    Figure,
    NotMeasured,
    Variation,
    provenance,
    read_record,
    write_record,
)
from edgedistil.core.rundir import RunDir, runs_root
from edgedistil.core.shipped import shipped_folder

BASELINE = "full"
MODEL = "student"
# Changed key → change of GLUE's macro-score, as a share (Sanh et al. 2019, table 4).
PAPER = {
    "loss.soft_target": -0.0296,
    "loss.cosine": -0.0146,
    "loss.mlm": -0.0031,
    "student.init": -0.0369,
}
# What must be equal for a change of the score to be the change's: the text, the budget, the evaluation.
_EQUAL = (
    "seed",
    "teacher",
    "corpus",
    "evaluate",
    "train.tokens",
    "train.epochs",
    "train.steps",
    "train.global_batch",
)


def ablate(
    folder: Path,
    *,
    tasks: list[str] | None = None,
    seeds: int | None = None,
    data: Path | None = None,
    jobs: int = 1,
) -> tuple[RunDir, AblationRecord]:
    """Distils and evaluates every recipe of a folder and compares each with `full.toml`.

    What is done already is not done again: each recipe has its own run, and each evaluation its cells.

    Args:
        folder: Holds `full.toml` and its variations, which differ from it in what is ablated and nothing else.
        tasks, seeds, data, jobs: As `edgedistil evaluate` takes them.
    Returns:
        The full recipe's run, which holds the record, and the record.
    Raises:
        RecipeError: No `full.toml`, no variation, or another budget than the full recipe's.
    """
    recipes = ablation_recipes(folder)
    runs = {
        name: _make(recipe, tasks=tasks, seeds=seeds, data=data, jobs=jobs)
        for name, recipe in recipes.items()
    }
    record = _compare(recipes, runs)
    home = runs[BASELINE]
    write_record(home.ablation, record)
    return home, record


def ablation_recipes(folder: Path) -> dict[str, Recipe]:
    """The recipes of a folder, the full one first; a shipped folder when there is none of that name here.

    Raises:
        RecipeError: No `full.toml`, no variation, or one that is no fair comparison (says which keys differ).
    """
    found = folder if folder.is_dir() else shipped_folder("recipes") / Path(folder.name)
    paths = {path.stem: path for path in sorted(found.glob("*.toml"))}
    if BASELINE not in paths or len(paths) < 2:
        there = ", ".join(paths) or "none"
        raise RecipeError(
            f"{folder}: expected {BASELINE}.toml and variations of it; recipes there: {there}"
        )
    recipes = {
        name: load_recipe(paths[name]) for name in [BASELINE, *(n for n in paths if n != BASELINE)]
    }
    for name, recipe in recipes.items():
        _refuse_unfair(name, changed_keys(recipes[BASELINE], recipe))
    return recipes


def _refuse_unfair(name: str, changed: dict[str, str]) -> None:
    unfair = [
        key for key in changed if any(key == each or key.startswith(f"{each}.") for each in _EQUAL)
    ]
    if unfair:
        told = "; ".join(f"{key} is {changed[key]}" for key in unfair)
        raise RecipeError(
            f"ablation '{name}' is no fair comparison: {told}",
            hint="variations are distilled from the same text with the same tokens and evaluated alike",
        )


def changed_keys(full: Recipe, other: Recipe) -> dict[str, str]:
    """Dotted keys whose values differ → "here (full recipe's)"; names and descriptions aside."""
    before, after = (_flat(recipe.model_dump(mode="json")) for recipe in (full, other))
    keys = [key for key in before | after if key not in ("name", "description")]
    return {
        key: f"{after.get(key, 'not set')} ({before.get(key, 'not set')})"
        for key in keys
        if before.get(key) != after.get(key)
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v
        for key, each in value.items()
        for k, v in _flat(each, f"{prefix}.{key}" if prefix else key).items()
    }


def _make(
    recipe: Recipe, *, tasks: list[str] | None, seeds: int | None, data: Path | None, jobs: int
) -> RunDir:
    from edgedistil.distill import stage as distilling
    from edgedistil.evaluate import stage as evaluating

    console.say(f"ablation: {recipe.name}: {recipe.description}")
    exists = (runs_root() / recipe.name).is_dir()
    run, _ = distilling.distill(recipe, run_name=None, resume=exists)
    evaluating.evaluate(run, tasks=tasks, seeds=seeds, models=[MODEL], data=data, jobs=jobs)
    return run


def _compare(recipes: dict[str, Recipe], runs: dict[str, RunDir]) -> AblationRecord:
    records = {name: read_record(run.evaluation, EvaluationRecord) for name, run in runs.items()}
    tasks = [task.name for task in records[BASELINE].tasks]
    variations = []
    described = ""
    for name, recipe in recipes.items():
        variation, described = _variation(name, recipe, recipes, runs, records)
        variations.append(variation)
    seeds = sorted({cell.seed for cell in records[BASELINE].cells})
    return AblationRecord(
        tasks=tasks,
        seeds=seeds,
        interval=f"{described}; one distillation each: the noise of the distillation itself is not in it",
        variations=variations,
        agrees_with_paper=order_against_paper(variations),
        provenance=provenance(),
    )


def _variation(
    name: str,
    recipe: Recipe,
    recipes: dict[str, Recipe],
    runs: dict[str, RunDir],
    records: dict[str, EvaluationRecord],
) -> tuple[Variation, str]:
    from edgedistil.evaluate.retention import confidence_interval, score_differences
    from edgedistil.evaluate.stage import predictions_of_record

    full, own = records[BASELINE], records[name]
    changed = changed_keys(recipes[BASELINE], recipe)
    per_task = {each.task: each.median for each in own.summaries}
    score, full_score = (_mean(each.median for each in record.summaries) for record in (own, full))
    values, described = score_differences(
        predictions_of_record(runs[BASELINE], full, MODEL),
        predictions_of_record(runs[name], own, MODEL),
    )
    low, high = confidence_interval(values)
    absent = NotMeasured(not_measured="this is the full recipe")
    is_full = name == BASELINE
    return Variation(
        name=name,
        description=recipe.description,
        run=runs[name].name,
        changed=changed,
        tokens_seen=_tokens_seen(runs[name]),
        score=score,
        per_task=per_task,
        change=absent if is_full else score - full_score,
        change_low=absent if is_full else low,
        change_high=absent if is_full else high,
        spread=absent if is_full else _spread(full, own),
        within_noise=is_full or low <= 0 <= high,
        paper_change=_paper_change(changed),
    ), described


def _tokens_seen(run: RunDir) -> int:
    return read_record(run.distill, DistillRecord).tokens_seen


def _spread(full: EvaluationRecord, own: EvaluationRecord) -> Figure:
    """Standard deviation over the seeds of the change of the mean over the tasks."""
    before, after = (_by_seed(record) for record in (full, own))
    changes = [after[seed] - before[seed] for seed in sorted(set(before) & set(after))]
    if len(changes) < 2:
        return NotMeasured(not_measured="one seed has no spread: give --seeds 5")
    return stdev(changes)


def _by_seed(record: EvaluationRecord) -> dict[int, float]:
    seeds = {cell.seed for cell in record.cells}
    return {
        seed: _mean(c.scores[c.metric] for c in record.cells if c.seed == seed) for seed in seeds
    }


def _mean(values: Any) -> float:
    listed = list(values)
    return float(sum(listed) / len(listed))


def _paper_change(changed: dict[str, str]) -> Figure:
    if len(changed) == 1:
        key, value = next(iter(changed.items()))
        if key in PAPER and value.split()[0] in ("0.0", "random"):
            return PAPER[key]
    return NotMeasured(not_measured="the paper has no such row")


def order_against_paper(variations: Sequence[Variation]) -> str:
    """Whether the paper's rows come in the paper's order here, and which of them are within the noise."""
    rows = [
        each
        for each in variations
        if isinstance(each.paper_change, float) and isinstance(each.change, float)
    ]
    if len(rows) < 2:
        return "inconclusive: fewer than two of the paper's rows were run"
    here = [each.name for each in sorted(rows, key=lambda row: _figure(row.change))]
    paper = [each.name for each in sorted(rows, key=lambda row: _figure(row.paper_change))]
    noisy = [each.name for each in rows if each.within_noise]
    verdict = (
        "the paper's order" if here == paper else f"not the paper's order ({' < '.join(paper)})"
    )
    noise = f"; within the noise: {', '.join(noisy)}" if noisy else ""
    return f"worst first: {' < '.join(here)}: {verdict}{noise}"


def _figure(value: Figure) -> float:
    assert isinstance(value, float)
    return value
