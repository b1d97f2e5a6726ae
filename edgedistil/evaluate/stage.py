"""`edgedistil evaluate`: plan the cells, run those that are missing, and put the record together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistil import console
from edgedistil.errors import InputError
from edgedistil.evaluate import assemble
from edgedistil.evaluate.artefact_cells import artefact_cells, artefact_scores
from edgedistil.evaluate.cells import CellFile, CellPlan, Source, cell_key, parse_cell, read_cell, run_cells
from edgedistil.evaluate.retention import Predictions
from edgedistil.evaluate.spec import TaskSpec, expand_groups, load_task
from edgedistil.evaluate.tasks import load_data
from edgedistil.recipe import Evaluate, load_recipe
from edgedistil.records import EvaluationRecord, provenance, write_record
from edgedistil.rundir import RunDir

MODELS = ("teacher", "student-step0", "student", "student-random", "student-d")


@dataclass(frozen=True)
class _Task:
    spec: TaskSpec
    data: Path | None
    train_limit: int | None


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
    settings = load_recipe(run.recipe).evaluate if run.recipe.is_file() else Evaluate.model_validate({})
    if cell is not None:
        task, model, seed = parse_cell(cell)
        chosen, names, numbers = [task], [model], [seed]
    else:
        chosen, names = tasks or settings.tasks, models or settings.models
        numbers = list(range(1, (seeds or settings.seeds) + 1))
    planned = [_task(name, settings, data) for name in expand_groups(chosen)]
    deployed = _deployed(names, cell) if artefact is not None else []
    plans = [plan for task in planned for plan in _plans(run, task, names, numbers, deployed)]
    run_cells(plans, jobs=jobs)
    files = [read_cell(plan.file) for plan in plans]
    record = _record(files, planned)
    if artefact is not None:
        to_score = [plan for plan in plans if plan.source.name in deployed]
        record = _with_artefacts(record, artefact_cells(to_score, artefact))
    if cell is None:
        write_record(run.evaluation, record)
    return record


def _task(name: str, settings: Evaluate, data: Path | None) -> _Task:
    spec = load_task(name)
    if settings.epochs is not None:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": settings.epochs})})
    return _Task(spec, data, settings.train_limit)


def _deployed(models: Sequence[str], cell: str | None) -> list[str]:
    """Models whose artefacts are scored: the students that are meant for a device, or the one of `--cell`."""
    chosen = [
        model for model in models if cell is not None or model not in ("teacher", "student-step0", "student-random")
    ]
    if not chosen:
        raise InputError(f"--artefact: none of {', '.join(models)} is for a device", hint="add --model student")
    return [model if model in MODELS else _folder_name(model) for model in chosen]


def _with_artefacts(record: EvaluationRecord, files: list[CellFile]) -> EvaluationRecord:
    cells = [file.cell for file in files if file.cell.artefact != "pytorch"]
    return record.model_copy(
        update={"cells": [*record.cells, *cells], "artefacts": artefact_scores(files)},
    )


def _plans(
    run: RunDir, task: _Task, models: Sequence[str], seeds: Sequence[int], deployed: Sequence[str]
) -> list[CellPlan]:
    """The cells of a task, and the teacher's cells that a student with soft targets needs."""
    needs_soft = any(_is_second(model) for model in models)
    plans: list[CellPlan] = []
    for seed in seeds:
        teacher = _plan(run, task, source_of(run, "teacher"), seed, keep=needs_soft) if needs_soft else None
        for model in dict.fromkeys(models):
            if model == "teacher" and teacher is not None:
                continue
            soft_from = teacher if _is_second(model) else None
            source = source_of(run, model)
            plans.append(_plan(run, task, source, seed, keep=source.name in deployed, teacher=soft_from))
        if teacher is not None:
            plans.append(teacher)
    return plans


def _plan(
    run: RunDir, task: _Task, source: Source, seed: int, *, keep: bool, teacher: CellPlan | None = None
) -> CellPlan:
    sha256 = source.sha256()
    digest = load_data(task.spec, task.data).sha256
    key = cell_key(task.spec, digest, task.train_limit, source, sha256, seed, teacher.key if teacher else None)
    return CellPlan(
        spec=task.spec,
        data=task.data,
        train_limit=task.train_limit,
        source=source,
        seed=seed,
        key=key,
        model_sha256=sha256,
        folder=run.cells,
        keep_weights=keep,
        soft_targets_from=teacher.weights if teacher else None,
    )


def _is_second(model: str) -> bool:
    return model == "student-d"


def source_of(run: RunDir, model: str) -> Source:
    """Where a model's weights are before fine-tuning.

    Raises:
        RunError: The run does not have it yet.
        InputError: Neither a model of a run nor a folder.
    """
    made_by = "edgedistil distill RECIPE"
    if model == "teacher":
        return Source(model, run.require(run.teacher, made_by))
    if model == "student-step0":
        return Source(model, run.require(run.student_step0, made_by))
    if model in MODELS:
        return Source(model, run.require(run.student, made_by), random_weights=model == "student-random")
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise InputError(f"no model '{model}': expected one of {', '.join(MODELS)}, or a folder that holds config.json")
    return Source(_folder_name(model), folder)


def predictions_of_record(run: RunDir, record: EvaluationRecord, model: str) -> list[Predictions]:
    """What `model` said in the cells of a record, a task each, in the record's order of tasks."""
    found = []
    for task in record.tasks:
        seeds = [c.seed for c in record.cells if (c.task, c.model, c.artefact) == (task.name, model, "pytorch")]
        found.append(
            assemble.predictions_of([read_cell(run.cells / task.name / f"{model}-{seed}.json") for seed in seeds])
        )
    return found


def _folder_name(model: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).resolve().name)
    return f"folder-{name}" if name in MODELS else name


def _record(files: list[CellFile], planned: list[_Task]) -> EvaluationRecord:
    console.say("evaluate: medians and intervals")
    data = {task.spec.name: load_data(task.spec, task.data).limited(task.train_limit) for task in planned}
    facts = {task.spec.name: assemble.task_facts(task.spec, data[task.spec.name]) for task in planned}
    found = assemble.summaries(files)
    return EvaluationRecord(
        cells=[file.cell for file in files],
        summaries=found,
        retentions=assemble.retentions(files, facts, data),
        tasks=list(facts.values()),
        macros=assemble.macros(found),
        provenance=provenance(),
    )
