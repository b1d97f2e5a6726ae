"""A cell is one model fine-tuned and scored on one task with one seed, in a file of its own.

The file is the commit point: it appears whole when the cell has ended, and it names by a hash everything that went in.
So a killed cell starts over, and a cell whose inputs have not changed is not run again.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from edgedistil.core import console
from edgedistil.core.errors import (
    EdgeDistilError,
    InputError,
    ModelError,
    StorageError,
    TrainingDiverged,
)
from edgedistil.core.records import Cell, Record, provenance, read_record, text_sha256, write_record
from edgedistil.core.rundir import read_json, sha256_file
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data

if TYPE_CHECKING:
    from edgedistil.evaluate.examples import TaskData
    from edgedistil.evaluate.scoring import Scored

FORMAT = 2  # raise it when the same inputs would give another cell
_CELL = re.compile(r"(?P<task>[^:]+):(?P<model>.+):(?P<seed>[0-9]+)")
_KEY_FILE = "edgedistil_cell.json"


class Timing(Record):
    """Size of the weights or graph, and p50 of a single example (`artefact.CONDITIONS`)."""

    bytes: int
    latency_ms: float


class CellFile(Record):
    """A cell with what the intervals need: the dev labels and what the model said about them."""

    key: str
    model_sha256: str
    cell: Cell
    labels: list[float]
    predictions: list[float]
    per_question: dict[str, list[float]] = Field(
        default={}, description="span: EM and F1 of each question"
    )
    timing: Timing | None = Field(default=None, description="taken where artefacts are compared")


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from before fine-tuning."""

    name: str
    folder: Path
    random_weights: bool = False

    def sha256(self) -> str:
        """Digest of configuration, tokenizer and (unless they are drawn at random) weights."""
        patterns = [
            "config.json",
            "tokenizer.json",
            *([] if self.random_weights else ["*.safetensors"]),
        ]
        files = sorted(path for pattern in patterns for path in self.folder.glob(pattern))
        if not self.random_weights and not any(path.suffix == ".safetensors" for path in files):
            raise ModelError(
                f"{self.folder} has no weights in safetensors",
                hint="other formats can run code on loading: convert them",
            )
        return text_sha256("\n".join(f"{path.name} {sha256_file(path)}" for path in files))


@dataclass(frozen=True)
class CellPlan:
    """Everything that one cell takes, as plain values that another process can be given."""

    spec: TaskSpec
    data: Path | None
    train_limit: int | None
    source: Source
    seed: int
    key: str
    model_sha256: str
    folder: Path
    keep_weights: bool = False
    soft_targets_from: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.spec.name}:{self.source.name}:{self.seed}"

    @property
    def file(self) -> Path:
        return self.folder / self.spec.name / f"{self.source.name}-{self.seed}.json"

    @property
    def weights(self) -> Path:
        """The fine-tuned model, where it is kept."""
        return self.folder / self.spec.name / f"{self.source.name}-{self.seed}"

    def is_done(self) -> bool:
        return key_of(self.file) == self.key and (not self.keep_weights or self.has_weights())

    def has_weights(self) -> bool:
        return key_of(self.weights / _KEY_FILE) == self.key


def key_of(path: Path) -> str | None:
    """The key that a cell's file carries; None when there is no file, or one that cannot be read."""
    try:
        content = read_json(path)
    except StorageError:
        return None
    return content.get("key") if isinstance(content, dict) else None


def cell_key(
    spec: TaskSpec,
    data_sha256: str,
    train_limit: int | None,
    source: Source,
    model_sha256: str,
    seed: int,
    soft_targets: tuple[str, str] | None,
) -> str:
    """Digest of everything that decides a cell's outcome; `soft_targets`: teacher's key, digest of unlabelled texts."""
    inputs = {
        "format": FORMAT,
        "task": [spec.name, spec.kind, spec.metric, spec.labels, spec.range, spec.parts],
        "training": spec.training.of(source.name).figures(),
        "data": data_sha256,
        "train_limit": train_limit,
        "model": model_sha256,
        "random_weights": source.random_weights,
        "seed": seed,
        "second_distillation": _soft_settings(spec) | {"from": soft_targets}
        if soft_targets
        else None,
    }
    return text_sha256(json.dumps(inputs, sort_keys=True))


def _soft_settings(spec: TaskSpec) -> dict[str, float | int | str]:
    return spec.second_distillation.model_dump(include={"alpha", "temperature"})


def parse_cell(text: str) -> tuple[str, str, int]:
    """`TASK:MODEL:SEED` taken apart.

    Raises:
        InputError: It is not of that form.
    """
    found = _CELL.fullmatch(text)
    if found is None:
        raise InputError(f"--cell {text}: expected TASK:MODEL:SEED, for example sst2:student:3")
    return found["task"], found["model"], int(found["seed"])


# --- running ----------------------------------------------------------------------------------------


def run_cells(plans: Sequence[CellPlan], *, jobs: int) -> None:
    """Runs the cells that are not done; cells that need another's soft targets after the others.

    Raises:
        EdgeDistilError: A cell failed; the others have been finished and stay.
    """
    missing = [plan for plan in plans if not plan.is_done()]
    if len(missing) < len(plans):
        console.say(f"evaluate: {len(plans) - len(missing)} of {len(plans)} cells are done already")
    for wave in (
        [p for p in missing if not p.soft_targets_from],
        [p for p in missing if p.soft_targets_from],
    ):
        failures = (
            _run_in_processes(wave, jobs) if jobs > 1 and len(wave) > 1 else _run_in_turn(wave)
        )
        if failures:
            raise failures[0]


def _run_in_turn(plans: list[CellPlan]) -> list[BaseException]:
    failures: list[BaseException] = []
    for plan in plans:
        try:
            run_cell(plan)
        except (
            TrainingDiverged
        ) as error:  # the next cell may well succeed; anything else would hit it too
            failures.append(error)
    return failures


def _run_in_processes(plans: list[CellPlan], jobs: int) -> list[BaseException]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    failures: list[BaseException] = []
    with (
        ProcessPoolExecutor(
            min(jobs, len(plans)), mp_context=get_context("spawn"), initializer=_hush
        ) as pool,
        console.progress("evaluate", len(plans), unit="cells") as bar,
    ):
        running = {pool.submit(run_cell, plan, threads=threads): plan for plan in plans}
        try:
            for done in as_completed(running):
                bar.note(running[done].label)
                bar.advance()
                error = done.exception()
                if error is not None:
                    failures.append(_named(error, running[done]))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # or leaving the pool would wait for hours of training
                child.terminate()
            raise
    return failures


def _hush() -> None:
    console.err.quiet = True  # the parent shows the progress of all


def _named(error: BaseException, plan: CellPlan) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return EdgeDistilError(
            f"the process of cell {plan.label} was killed",
            hint="out of memory? run fewer at a time with --jobs",
        )
    return error


def run_cell(plan: CellPlan, *, threads: int | None = None) -> None:
    """Fine-tunes, scores, and writes the cell's file; `threads` is given where cells run beside each other."""
    from edgedistil.evaluate.finetune import torch_threads

    started = time.monotonic()
    data = load_data(plan.spec, plan.data).limited(plan.train_limit)
    with torch_threads(threads):
        scored = _train_and_score(plan, data)
    write_record(plan.file, _cell_file(plan, data, scored, time.monotonic() - started))


def _train_and_score(plan: CellPlan, data: TaskData) -> Scored:
    from edgedistil.evaluate import finetune
    from edgedistil.evaluate.encode import open_tokenizer, pad_id
    from edgedistil.evaluate.scoring import score_dev

    spec, source = plan.spec, plan.source
    length = spec.training.max_length
    tokenizer = open_tokenizer(source.folder)
    rows = finetune.features(tokenizer, data.train, kind=spec.kind, max_length=length)
    soft = None
    if plan.soft_targets_from is not None:
        rows += finetune.features(
            tokenizer, data.unlabelled, kind=spec.kind, max_length=length, labelled=False
        )
        soft = finetune.teacher_logits(
            plan.soft_targets_from, rows, kind=spec.kind, tokenizer=tokenizer
        )
    model = finetune.task_model(
        source.folder,
        kind=spec.kind,
        labels=data.labels,
        seed=plan.seed,
        random_weights=source.random_weights,
    )
    finetune.fine_tune(
        model,
        rows,
        kind=spec.kind,
        pad=pad_id(tokenizer),
        training=spec.training.of(source.name),
        seed=plan.seed,
        label=plan.label,
        soft_targets=soft,
        second=spec.second_distillation,
    )
    if plan.keep_weights:
        finetune.save_model(
            model, source.folder, plan.weights, stamp={_KEY_FILE: {"key": plan.key}}
        )
    forward = finetune.torch_forward(model)
    return score_dev(
        forward,
        tokenizer,
        data.dev,
        kind=spec.kind,
        metric=spec.metric,
        max_length=length,
        parts=spec.parts,
    )


def _cell_file(plan: CellPlan, data: TaskData, scored: Scored, seconds: float) -> CellFile:
    settings: dict[str, float | int | str] = {**plan.spec.training.of(plan.source.name).figures()}
    if plan.soft_targets_from is not None:
        settings |= _soft_settings(plan.spec) | {"unlabelled": len(data.unlabelled)}
    cell = Cell(
        task=plan.spec.name,
        model=plan.source.name,
        seed=plan.seed,
        scores=scored.scores,
        metric=plan.spec.metric,
        dev_examples=len(data.dev),
        train_examples=len(data.train),
        seconds=round(seconds, 2),
        warnings=[*data.warnings, *scored.warnings],
        hyper_parameters=settings,
        provenance=provenance(),
    )
    return CellFile(
        key=plan.key,
        model_sha256=plan.model_sha256,
        cell=cell,
        labels=scored.labels,
        predictions=scored.predictions,
        per_question=scored.per_question,
    )


def read_cell(path: Path) -> CellFile:
    return read_record(path, CellFile)


__all__ = [
    "CellFile",
    "CellPlan",
    "Source",
    "Timing",
    "cell_key",
    "parse_cell",
    "read_cell",
    "run_cells",
]
