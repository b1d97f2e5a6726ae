"""`edgedistil evaluate`: plans the cells, runs the missing ones, and aggregates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedistil.core import console
from edgedistil.core.errors import InputError, TaskError
from edgedistil.core.evaluation_records import EvaluationRecord, MacroScore, Summary
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.recipe import load_recipe
from edgedistil.core.recipe_stages import Evaluate
from edgedistil.core.records import provenance, read_record, write_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import aggregate
from edgedistil.evaluate.artefact_cells import artefact_cells, artefact_scores, check_precision
from edgedistil.evaluate.cell_runner import run_cells
from edgedistil.evaluate.cells import CellFile, CellPlan, parse_cell, read_cell
from edgedistil.evaluate.overlap import mark_same_texts
from edgedistil.evaluate.planning import (
    PlannedTask,
    Planner,
    deployed_models,
    reference_model,
    with_controls,
)
from edgedistil.evaluate.retention import Predictions
from edgedistil.evaluate.retrieval.pairs import is_pair_set
from edgedistil.evaluate.retrieval.stage import (
    EmbeddingResults,
    evaluate_retrieval,
    is_retrieval,
    load_collections,
    load_pair_sets,
)
from edgedistil.evaluate.search import choose_settings
from edgedistil.evaluate.spec import expand_groups, load_task
from edgedistil.evaluate.tasks import load_data
from edgedistil.evaluate.untrimmed import name_untrimmed_run


@dataclass(frozen=True)
class _Selection:
    """The cells that an evaluation consists of.

    Attributes:
        tasks: Names of tasks, groups replaced.
        models: Models of the run, or folders.
        seeds: Seeds of each task and model.
    """

    tasks: list[str]
    models: list[str]
    seeds: list[int]


def evaluate(run: RunDir, options: EvaluateOptions) -> EvaluationRecord:
    """Fine-tunes the models of a run on labelled tasks with equal budgets and compares them.

    Results of earlier evaluations stay in the run's record: other tasks, and other models with the
    same seeds. With `options.cell`, the cell's file is written and the record is not.

    Args:
        run: The run.
        options: Tasks, models and seeds; by default those of the run's recipe.
    Returns:
        The record, artefacts included.
    Raises:
        InputError: A task, a model or data is missing or malformed.
        TrainingDiverged: A cell's loss is NaN or infinite; the other cells are finished first.
    """
    _check_data_folder(options)
    if options.untrimmed_run is not None:
        name_untrimmed_run(run, options.untrimmed_run)
    settings = _recipe_settings(run)
    selection = _select(options, settings)
    collections = load_collections([name for name in selection.tasks if is_retrieval(name)])
    pair_sets = load_pair_sets([name for name in selection.tasks if is_pair_set(name)])
    labelled = [
        name for name in selection.tasks if not is_retrieval(name) and not is_pair_set(name)
    ]
    if options.seed_runs and not collections:
        raise InputError("--seed-run is about retrieval; add --task retrieval")
    tasks = _planned_tasks(labelled, settings, options)

    # Check the options for artefacts first: fine-tuning takes hours.
    deployed: list[str] = []
    if options.artefact is not None:
        check_precision(options.artefact)
        deployed = deployed_models(selection.models, one_cell=options.cell is not None)

    # A record that cannot be read would lose the results of other tasks: before hours of work.
    earlier = None
    if run.evaluation.is_file() and options.cell is None:
        earlier = read_record(run.evaluation, EvaluationRecord)

    # Run what is missing.
    planner = Planner(run, deployed)
    models = dict.fromkeys(tasks, selection.models)
    # A single cell is one model; the comparison is made by a later command.
    if options.cell is None:
        models = {task: with_controls(run, selection.models, task.spec) for task in tasks}
    choose_settings(planner, models, jobs=options.jobs)
    plans: list[CellPlan] = []
    for task in tasks:
        plans += planner.plans(task, models[task], selection.seeds)
    run_cells(plans, jobs=options.jobs)

    # Aggregate these cells, and the earlier ones of the same tasks.
    aggregated = list(plans)
    if options.cell is None:
        for task in tasks:
            aggregated += planner.valid_earlier_cells(task, plans, selection.seeds)
    record = _aggregate(run, [read_cell(plan.file) for plan in aggregated], tasks)

    if options.artefact is not None:
        names = {planner.source(model).name for model in deployed}
        exported = [plan for plan in plans if plan.source.name in names]
        record = _with_artefacts(record, exported, options.artefact)
    embedded = evaluate_retrieval(
        run,
        collections,
        pair_sets,
        selection.models,
        reference=reference_model(run),
        precision=options.artefact,
        seed_runs=options.seed_runs or (),
    )
    record = _with_embedding_results(record, embedded, earlier)
    if options.cell is None:
        record = _with_earlier_tasks(run, earlier, record)
        record = record.model_copy(update={"tasks": mark_same_texts(record.tasks)})
        write_record(run.evaluation, record)
    return record


def _check_data_folder(options: EvaluateOptions) -> None:
    if options.data is not None and not options.data.is_dir():
        raise TaskError(
            f"--data {options.data} is not a folder",
            hint="pass the folder that contains the data sets' official files",
        )


def _with_embedding_results(
    record: EvaluationRecord, results: EmbeddingResults, earlier: EvaluationRecord | None
) -> EvaluationRecord:
    """Adds the results of encoders, and those of the earlier record that they do not replace."""
    if earlier is not None:
        results = results.merged(earlier)
    return record.model_copy(
        update={
            "retrieval": results.retrieval,
            "retrieval_differences": results.differences,
            "pairs": results.pairs,
        }
    )


def _recipe_settings(run: RunDir) -> Evaluate:
    # A run that was assembled from model folders has no recipe.
    if run.recipe.is_file():
        return load_recipe(run.recipe).evaluate
    return Evaluate.model_validate({})


def _select(options: EvaluateOptions, settings: Evaluate) -> _Selection:
    # One cell: the other options for tasks, models and seeds do not apply.
    if options.cell is not None:
        task, model, seed = parse_cell(options.cell)
        return _Selection(expand_groups([task]), [model], [seed])
    count = options.seeds or settings.seeds
    return _Selection(
        tasks=expand_groups(list(options.tasks or settings.tasks)),
        models=list(options.models or settings.models),
        seeds=list(range(1, count + 1)),
    )


def _planned_tasks(
    names: Sequence[str], settings: Evaluate, options: EvaluateOptions
) -> list[PlannedTask]:
    """Reads the task files and applies the recipe's limits.

    Raises:
        TaskError: A task cannot be read, or two different ones have one name.
    """
    by_name: dict[str, PlannedTask] = {}
    for name in names:
        spec = load_task(name)
        if settings.epochs is not None:
            training = spec.training.with_epochs(settings.epochs)
            spec = spec.model_copy(update={"training": training})
        task = PlannedTask(spec, options.data, settings.train_limit)
        # Cells and scores have the task's name, so the second would overwrite those of the first.
        if by_name.setdefault(spec.name, task) != task:
            raise TaskError(
                f"two tasks are called '{spec.name}', the second is {name}",
                hint="set another `name` in one of the two files",
            )
    return list(by_name.values())


def _aggregate(
    run: RunDir, files: list[CellFile], tasks: Sequence[PlannedTask]
) -> EvaluationRecord:
    console.say("evaluate: medians and intervals")
    results: dict[str, aggregate.TaskResult] = {}
    for task in tasks:
        # The baseline is that of the examples that were trained on, limits included.
        data = load_data(task.spec, task.data).limited(task.train_limit)
        results[task.spec.name] = aggregate.describe_task(task.spec, data)
    summaries = aggregate.summaries(files)
    return EvaluationRecord(
        cells=[file.cell for file in files],
        summaries=summaries,
        retentions=aggregate.retentions(files, results, reference=reference_model(run)),
        tasks=[result.facts for result in results.values()],
        macros=_macros(run, summaries),
        provenance=provenance(),
    )


def _with_artefacts(
    record: EvaluationRecord, plans: list[CellPlan], precision: str
) -> EvaluationRecord:
    """Adds the cells and scores of the models' artefacts."""
    files = artefact_cells(plans, precision)
    # PyTorch's own cells are in the record already.
    cells = [file.cell for file in files if file.cell.artefact != "pytorch"]
    return record.model_copy(
        update={"cells": [*record.cells, *cells], "artefacts": artefact_scores(files)}
    )


def _macros(run: RunDir, summaries: Sequence[Summary]) -> list[MacroScore]:
    """Returns the macro-scores of a run; cells are read where every task was scored."""
    seeds = {(summary.task, summary.model): summary.seeds for summary in summaries}

    def read(task: str, model: str) -> list[CellFile]:
        folder = run.cells / task
        return [read_cell(folder / f"{model}-{seed}.json") for seed in seeds[task, model]]

    return aggregate.macros(summaries, reference=reference_model(run), read=read)


def _with_earlier_tasks(
    run: RunDir, earlier: EvaluationRecord | None, record: EvaluationRecord
) -> EvaluationRecord:
    """Adds the other tasks of the run's earlier record, before the new ones."""
    if earlier is None:
        return record
    # Tasks of this evaluation replace their earlier entries entirely.
    evaluated = {task.name for task in record.tasks}
    merged = {}
    for part in ("cells", "summaries", "retentions", "artefacts"):
        others = [entry for entry in getattr(earlier, part) if entry.task not in evaluated]
        merged[part] = [*others, *getattr(record, part)]
    other_tasks = [task for task in earlier.tasks if task.name not in evaluated]
    merged["tasks"] = [*other_tasks, *record.tasks]
    # A macro-score is over tasks, so it is computed again from the merged summaries.
    merged["macros"] = _macros(run, merged["summaries"])
    return record.model_copy(update=merged)


def predictions_of_record(run: RunDir, record: EvaluationRecord, model: str) -> list[Predictions]:
    """Returns the predictions of a model in the cells of a record.

    Args:
        run: The run.
        record: Its record.
        model: Name of the model.
    Returns:
        One entry per task, in the record's order of tasks.
    """
    predictions = []
    for task in record.tasks:
        key = (task.name, model, "pytorch")
        cells = [cell for cell in record.cells if (cell.task, cell.model, cell.artefact) == key]
        folder = run.cells / task.name
        files = [read_cell(folder / f"{model}-{cell.seed}.json") for cell in cells]
        predictions.append(aggregate.predictions_of(files))
    return predictions
