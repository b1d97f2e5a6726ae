"""`edgedistil evaluate`: plan the cells, run those that are missing, and put the record together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedistil.core import console
from edgedistil.core.recipe import Evaluate, load_recipe
from edgedistil.core.records import EvaluationRecord, provenance, read_record, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import aggregate as assemble
from edgedistil.evaluate.artefact_cells import artefact_cells, artefact_scores, check_precision
from edgedistil.evaluate.cells import CellFile, CellPlan, parse_cell, read_cell, run_cells
from edgedistil.evaluate.planning import Planner, Task, deployed_models
from edgedistil.evaluate.retention import Predictions
from edgedistil.evaluate.spec import expand_groups, load_task
from edgedistil.evaluate.tasks import load_data


def evaluate(
    run: RunDir,
    *,
    tasks: list[str] | None = None,
    seeds: int | None = None,
    models: list[str] | None = None,
    cell: str | None = None,
    artefact: str | None = None,
    data: Path | None = None,
    jobs: int = 1,
) -> EvaluationRecord:
    """Fine-tunes the run's models on labelled tasks with the same budget and compares them.

    What earlier evaluations of the run found stays in its record: other tasks, and other models with the same seeds.

    Args:
        tasks: Built-in names, groups (`glue`, `paper`) or TOML files; None: the recipe's.
        seeds: Seeds 1…N; None: the recipe's number.
        models: Of MODELS, or folders; None: the recipe's.
        cell: `TASK:MODEL:SEED`: this cell alone; its file is written, the run's record is not.
        artefact: Precision of the ONNX artefact of the fine-tuned student to score too.
        data: Folder with the public data sets' official files.
        jobs: Cells that run at the same time.
    Raises:
        InputError: A task, model or datum is missing or malformed.
        TrainingDiverged: A cell's loss is no number; other cells are finished and kept.
    """
    settings = (
        load_recipe(run.recipe).evaluate if run.recipe.is_file() else Evaluate.model_validate({})
    )
    if cell is not None:
        task, model, seed = parse_cell(cell)
        chosen, names, numbers = [task], [model], [seed]
    else:
        chosen, names = tasks or settings.tasks, models or settings.models
        numbers = list(range(1, (seeds or settings.seeds) + 1))
    planned = [_task(name, settings, data) for name in expand_groups(chosen)]
    if artefact is not None:
        check_precision(artefact)
    planner = Planner(
        run, deployed_models(names, one_cell=cell is not None) if artefact is not None else ()
    )
    plans = [plan for task in planned for plan in planner.plans(task, names, numbers)]
    run_cells(plans, jobs=jobs)
    wanted = plans if cell is not None else _with_others(planner, planned, plans, numbers)
    record = _record([read_cell(plan.file) for plan in wanted], planned)
    if artefact is not None:
        record = _with_artefacts(
            record, [plan for plan in plans if plan.source.name in planner.deployed], artefact
        )
    if cell is None:
        record = _beside_earlier(run, record)
        write_record(run.evaluation, record)
    return record


def _task(name: str, settings: Evaluate, data: Path | None) -> Task:
    spec = load_task(name)
    if settings.epochs is not None:
        spec = spec.model_copy(
            update={"training": spec.training.model_copy(update={"epochs": settings.epochs})}
        )
    return Task(spec, data, settings.train_limit)


def _with_others(
    planner: Planner, tasks: list[Task], plans: list[CellPlan], seeds: list[int]
) -> list[CellPlan]:
    return [*plans, *(plan for task in tasks for plan in planner.others_done(task, plans, seeds))]


def _with_artefacts(
    record: EvaluationRecord, plans: list[CellPlan], precision: str
) -> EvaluationRecord:
    files = artefact_cells(plans, precision)
    cells = [file.cell for file in files if file.cell.artefact != "pytorch"]
    return record.model_copy(
        update={"cells": [*record.cells, *cells], "artefacts": artefact_scores(files)}
    )


def _beside_earlier(run: RunDir, record: EvaluationRecord) -> EvaluationRecord:
    """The record with the other tasks of the run's earlier one before it."""
    if not run.evaluation.is_file():
        return record
    before = read_record(run.evaluation, EvaluationRecord)
    done = {task.name for task in record.tasks}
    kept: dict[str, list[Any]] = {
        part: [each for each in getattr(before, part) if each.task not in done]
        for part in ("cells", "summaries", "retentions", "artefacts")
    }
    kept["tasks"] = [task for task in before.tasks if task.name not in done]
    merged = {part: [*earlier, *getattr(record, part)] for part, earlier in kept.items()}
    return record.model_copy(update={**merged, "macros": assemble.macros(merged["summaries"])})


def predictions_of_record(run: RunDir, record: EvaluationRecord, model: str) -> list[Predictions]:
    """What `model` said in the cells of a record, a task each, in the record's order of tasks."""
    found = []
    for task in record.tasks:
        seeds = [
            c.seed
            for c in record.cells
            if (c.task, c.model, c.artefact) == (task.name, model, "pytorch")
        ]
        found.append(
            assemble.predictions_of(
                [read_cell(run.cells / task.name / f"{model}-{seed}.json") for seed in seeds]
            )
        )
    return found


def _record(files: list[CellFile], planned: list[Task]) -> EvaluationRecord:
    console.say("evaluate: medians and intervals")
    data = {
        task.spec.name: load_data(task.spec, task.data).limited(task.train_limit)
        for task in planned
    }
    facts = {
        task.spec.name: assemble.task_facts(task.spec, data[task.spec.name]) for task in planned
    }
    found = assemble.summaries(files)
    return EvaluationRecord(
        cells=[file.cell for file in files],
        summaries=found,
        retentions=assemble.retentions(files, facts, data),
        tasks=list(facts.values()),
        macros=assemble.macros(found),
        provenance=provenance(),
    )
