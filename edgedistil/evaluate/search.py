"""Chooses learning rate and epochs of each model on a part of the training examples.

The dev set, which judges the models, has no part in it. Every model has the same settings to choose
from; a treated student takes those of the same student without the treatment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedistil.evaluate.cell_runner import run_cells
from edgedistil.evaluate.cells import CellPlan
from edgedistil.evaluate.planning import (
    TEACHER,
    WITH_SOFT_TARGETS,
    PlannedTask,
    Planner,
    best_setting,
    untreated,
)


def choose_settings(
    planner: Planner, models: Mapping[PlannedTask, Sequence[str]], *, jobs: int
) -> None:
    """Runs the missing cells of the search, and stores each model's best setting in the planner.

    Args:
        planner: Plans the cells; `searched` receives the settings.
        models: Models of each task.
        jobs: Cells that run at the same time.
    """
    searches: list[tuple[PlannedTask, str, list[CellPlan]]] = []
    for task, names in models.items():
        if task.spec.training.search is None:
            continue
        # Soft targets come from the teacher, which has settings of its own.
        needed = [*names, TEACHER] if set(names) & set(WITH_SOFT_TARGETS) else names
        for model in dict.fromkeys(untreated(name) for name in needed):
            source = planner.source(model)
            searches.append((task, source.name, planner.search_plans(task, source)))
    run_cells([plan for *_, plans in searches for plan in plans], jobs=jobs)
    for task, name, plans in searches:
        planner.searched[task.spec.name, name] = best_setting(plans)
