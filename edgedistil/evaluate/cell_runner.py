"""Runs cells, one after the other or in several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from edgedistil.core import console
from edgedistil.core.errors import EdgeDistilError, TrainingDiverged
from edgedistil.core.evaluation_records import Cell
from edgedistil.core.records import provenance, write_record
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens
from edgedistil.evaluate.cells import CellFile, CellPlan
from edgedistil.evaluate.tasks import load_data
from edgedistil.evaluate.workers import worker_pool

# torch is imported by the functions that train: planning and reading cells does not need it.
if TYPE_CHECKING:
    from edgedistil.core.tokenizer import TextTokenizer
    from edgedistil.evaluate.examples import TaskData
    from edgedistil.evaluate.kind import TrainingRow
    from edgedistil.evaluate.scoring import DevScores


def run_cells(plans: Sequence[CellPlan], *, jobs: int) -> None:
    """Runs the cells that are not done.

    Args:
        plans: Cells to run.
        jobs: Cells that run at the same time.
    Raises:
        EdgeDistilError: A cell failed. The other cells are finished first and stay.
    """
    missing = [plan for plan in plans if not plan.is_done()]
    if len(missing) < len(plans):
        console.say(f"evaluate: {len(plans) - len(missing)} of {len(plans)} cells are done already")

    # Cells with soft targets need the weights of the teacher's cells, so they come second.
    with_labels = [plan for plan in missing if plan.soft_targets_from is None]
    with_soft_targets = [plan for plan in missing if plan.soft_targets_from is not None]
    for wave in (with_labels, with_soft_targets):
        if jobs > 1 and len(wave) > 1:
            failures = _run_in_processes(wave, jobs)
        else:
            failures = _run_in_turn(wave)
        if failures:
            raise failures[0]


def _run_in_turn(plans: list[CellPlan]) -> list[BaseException]:
    failures: list[BaseException] = []
    for plan in plans:
        try:
            run_cell(plan)
        # Another seed or model may succeed; any other error would also occur in the next cell.
        except TrainingDiverged as error:
            failures.append(error)
    return failures


def _run_in_processes(plans: list[CellPlan], jobs: int) -> list[BaseException]:
    # Each cell gets its share of the cores: OpenMP threads that wait for a core spin
    # (docs/log.md#openmp-threads-on-a-loaded-machine).
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures: list[BaseException] = []
    with (
        worker_pool(min(jobs, len(plans))) as pool,
        console.progress("evaluate", len(plans), unit="cells") as bar,
    ):
        # A failing cell must not stop the others, so errors are collected.
        running = {pool.submit(run_cell, plan, threads=threads): plan for plan in plans}
        for future in as_completed(running):
            bar.note(running[future].label)
            bar.advance()
            error = future.exception()
            if error is not None:
                failures.append(_with_cell_name(error, running[future]))
    return failures


def _with_cell_name(error: BaseException, plan: CellPlan) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return EdgeDistilError(
            f"the process of cell {plan.label} was killed",
            hint="if memory ran out, use fewer --jobs",
        )
    return error


def run_cell(plan: CellPlan, *, threads: int | None = None) -> None:
    """Fine-tunes and scores a model, and writes the cell's file.

    Args:
        plan: The cell.
        threads: PyTorch's threads, where several cells run at the same time; None: all.
    """
    from edgedistil.evaluate.task_model import torch_threads

    started = time.monotonic()
    data = load_data(plan.spec, plan.data).limited(plan.train_limit)
    if plan.settings.search_share is not None:
        data = data.for_search(plan.settings.search_share)
    with torch_threads(threads):
        scores = _train_and_score(plan, data)
    # The file is the commit point: it is written last, and atomically.
    write_record(plan.file, _cell_file(plan, data, scores, time.monotonic() - started))


def _train_and_score(plan: CellPlan, data: TaskData) -> DevScores:
    from edgedistil.evaluate.encode import count_unknown, open_tokenizer, pad_id
    from edgedistil.evaluate.finetune import FineTuneSettings, SoftTargets, fine_tune
    from edgedistil.evaluate.task_model import (
        build_task_model,
        check_fits,
        save_task_model,
        teacher_logits,
        torch_forward,
    )

    spec, source, kind = plan.spec, plan.source, plan.spec.task_kind
    max_length = plan.settings.training.max_length
    tokenizer = open_tokenizer(source.folder)

    # Rows with labels, and for soft targets also the unlabelled texts.
    rows = kind.training_rows(tokenizer, data.train, max_length)
    soft_targets = None
    unknown, tokens = count_unknown(tokenizer, [row.encoded for row in rows])
    warn_of_unknown_tokens(unknown, tokens, text=f"the task {spec.name}")
    if plan.soft_targets_from is not None:
        rows += _unlabelled_rows(plan, data, tokenizer)
        logits = teacher_logits(plan.soft_targets_from, rows, kind, tokenizer)
        soft_targets = SoftTargets(logits, spec.second_distillation)

    # The model is built after the teacher has run: building it sets the seed of all that follows.
    model = build_task_model(
        source.folder,
        kind,
        classes=data.labels,
        seed=plan.seed,
        random_weights=source.random_weights,
    )
    check_fits(model, [row.encoded for row in rows])
    # The dev set too: its longest text must not stop the cell after hours of training.
    dev_rows = kind.training_rows(tokenizer, data.dev, max_length, labelled=False)
    check_fits(model, [row.encoded for row in dev_rows])
    del dev_rows
    settings = FineTuneSettings(
        kind=kind,
        training=plan.settings.training,
        steps=_matched_steps(plan, rows, data, tokenizer),
        seed=plan.seed,
        pad=pad_id(tokenizer),
        label=plan.label,
    )
    fine_tune(model, rows, settings, soft_targets)

    if plan.keep_weights:
        save_task_model(model, source.folder, plan.weights, key=plan.key)
    return kind.score(torch_forward(model, kind), tokenizer, data.dev, spec.scoring)


def _unlabelled_rows(plan: CellPlan, data: TaskData, tokenizer: TextTokenizer) -> list[TrainingRow]:
    max_length = plan.settings.training.max_length
    return plan.spec.task_kind.training_rows(tokenizer, data.unlabelled, max_length, labelled=False)


def _matched_steps(
    plan: CellPlan, rows: Sequence[TrainingRow], data: TaskData, tokenizer: TextTokenizer
) -> int | None:
    """Returns the steps that training would have with the unlabelled texts; None: as they are."""
    if not plan.settings.match_steps:
        return None
    return plan.settings.training.steps(len(rows) + len(_unlabelled_rows(plan, data, tokenizer)))


def _cell_file(plan: CellPlan, data: TaskData, scores: DevScores, seconds: float) -> CellFile:
    cell = Cell(
        task=plan.spec.name,
        model=plan.source.name,
        seed=plan.seed,
        scores=scores.scores,
        metric=plan.spec.metric,
        dev_examples=len(data.dev),
        train_examples=len(data.train),
        seconds=round(seconds, 2),
        warnings=[*data.warnings, *scores.warnings],
        hyper_parameters=_hyper_parameters(plan, data),
        provenance=provenance(),
    )
    return CellFile(
        key=plan.key,
        model_sha256=plan.source.sha256,
        cell=cell,
        labels=scores.labels,
        predictions=scores.predictions,
        per_question=scores.per_question,
    )


def _hyper_parameters(plan: CellPlan, data: TaskData) -> dict[str, float | int | str]:
    # Only values that were used: alpha and T with soft targets alone.
    values: dict[str, float | int | str] = {**plan.settings.training.hyper_parameters()}
    if plan.settings.match_steps:
        values["as_many_steps_as_with_texts"] = len(data.train) + len(data.unlabelled)
    if plan.soft_targets_from is not None:
        values |= plan.spec.second_distillation.hyper_parameters()
        values["unlabelled"] = len(data.unlabelled)
    return values
