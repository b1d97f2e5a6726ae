"""Runs of one recipe with other seeds: what another distillation gives."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.errors import InputError
from edgedistil.core.recipe import load_recipe
from edgedistil.core.recipe_diff import differences, is_resumable
from edgedistil.core.rundir import RunDir, open_run


def open_seed_runs(run: RunDir, names: Sequence[str]) -> list[RunDir]:
    """Opens the runs whose students count as other distillations of a run's recipe.

    Raises:
        InputError: A run has another recipe, or the seed of one that is there already.
        RunError: A run does not exist, or has no student.
    """
    runs = [run]
    seeds = [_seed(run)] if names else []
    for name in names:
        other = open_run(name)
        other.require(other.student, "edgedistil distill RECIPE")
        changed = _changed(run, other)
        if changed:
            raise InputError(
                f"run '{name}' has another recipe than '{run.name}': {', '.join(changed[:8])}",
                hint="distil the same recipe with --set seed=N",
            )
        seed = _seed(other)
        if seed in seeds:
            raise InputError(
                f"run '{name}' has the seed {seed} of another run: it adds no other distillation",
                hint="distil the same recipe with --set seed=N",
            )
        seeds.append(seed)
        runs.append(other)
    return runs


def _seed(run: RunDir) -> int:
    run.require(run.recipe, "edgedistil distill RECIPE")
    return load_recipe(run.recipe).seed


def _changed(run: RunDir, other: RunDir) -> list[str]:
    """Keys that differ and affect training."""
    changes = differences(load_recipe(run.recipe), load_recipe(other.recipe))
    return [key for key in changes if key != "seed" and not is_resumable(key)]
