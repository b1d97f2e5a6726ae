"""Which cells an evaluation is made of: models, tasks and seeds → plans with keys, and what lies there already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.errors import InputError
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.cells import CellPlan, Source, cell_key, key_of
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data

MODELS = ("teacher", "student-step0", "student", "student-random", "student-d", "student-step0-d")
FOR_NO_DEVICE = (
    "student-step0",
    "student-random",
    "student-step0-d",
)  # the teacher: deployed without all this
WITH_SOFT_TARGETS = ("student-d", "student-step0-d")
_CELL_FILE = re.compile(r"(?P<model>.+)-(?P<seed>[0-9]+)")


@dataclass(frozen=True)
class Task:
    """A task with the run's limits applied, and where its data is."""

    spec: TaskSpec
    data: Path | None
    train_limit: int | None


@dataclass
class Planner:
    """Makes the plans of one evaluation; a model's weights are hashed once."""

    run: RunDir
    deployed: Sequence[str] = ()
    _digests: dict[Source, str] = field(default_factory=dict)

    def plans(self, task: Task, models: Sequence[str], seeds: Sequence[int]) -> list[CellPlan]:
        """The cells of a task, and the teacher's cells that a student with soft targets needs."""
        needs_soft = any(model in WITH_SOFT_TARGETS for model in models)
        found: list[CellPlan] = []
        for seed in seeds:
            teacher = self.plan(task, "teacher", seed, keep=needs_soft) if needs_soft else None
            if teacher is not None:
                found.append(teacher)
            others = [
                model for model in dict.fromkeys(models) if model != "teacher" or teacher is None
            ]
            found += [self.plan(task, model, seed, keep=False, teacher=teacher) for model in others]
        return found

    def others_done(
        self, task: Task, plans: Sequence[CellPlan], seeds: Sequence[int]
    ) -> list[CellPlan]:
        """Cells of the run's other models with these seeds that lie there and are what they would be now."""
        known = {plan.file for plan in plans}
        found = []
        for path in sorted((self.run.cells / task.spec.name).glob("*.json")):
            named = _CELL_FILE.fullmatch(path.stem)
            if (
                path in known
                or named is None
                or named["model"] not in MODELS
                or int(named["seed"]) not in seeds
            ):
                continue
            soft = named["model"] in WITH_SOFT_TARGETS
            teacher = self.plan(task, "teacher", int(named["seed"]), keep=False) if soft else None
            plan = self.plan(task, named["model"], int(named["seed"]), keep=False, teacher=teacher)
            if key_of(path) == plan.key:
                found.append(plan)
        return found

    def plan(
        self, task: Task, model: str, seed: int, *, keep: bool, teacher: CellPlan | None = None
    ) -> CellPlan:
        """One cell. `teacher` gives the soft targets, if the model is the one that takes them."""
        source = source_of(self.run, model)
        if source not in self._digests:
            self._digests[source] = source.sha256()
        teacher = teacher if model in WITH_SOFT_TARGETS else None
        data = load_data(task.spec, task.data)
        key = cell_key(
            task.spec,
            data.sha256,
            task.train_limit,
            source,
            self._digests[source],
            seed,
            (teacher.key, data.unlabelled_sha256) if teacher else None,
        )
        return CellPlan(
            spec=task.spec,
            data=task.data,
            train_limit=task.train_limit,
            source=source,
            seed=seed,
            key=key,
            model_sha256=self._digests[source],
            folder=self.run.cells,
            keep_weights=keep or source.name in self.deployed,
            soft_targets_from=teacher.weights if teacher else None,
        )


def source_of(run: RunDir, model: str) -> Source:
    """Where a model's weights are before fine-tuning.

    Raises:
        RunError: The run does not have it yet.
        InputError: Neither a model of a run nor a folder.
    """
    made_by = "edgedistil distill RECIPE"
    if model == "teacher":
        return Source(model, run.require(run.teacher, made_by))
    if model in ("student-step0", "student-step0-d"):
        return Source(model, run.require(run.student_step0, made_by))
    if model in MODELS:
        return Source(
            model, run.require(run.student, made_by), random_weights=model == "student-random"
        )
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"no model '{model}': expected one of {', '.join(MODELS)}, or a folder that holds config.json"
        )
    return Source(name_of(model), folder)


def name_of(model: str) -> str:
    """What a model is called in cells: its own name, or the last part of its folder's."""
    if model in MODELS:
        return model
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).resolve().name)
    return f"folder-{name}" if name in MODELS else name


def deployed_models(models: Sequence[str], *, one_cell: bool) -> list[str]:
    """Names of the models whose artefacts are scored: those that are meant for a device, or the one of `--cell`.

    Raises:
        InputError: None is.
    """
    chosen = [model for model in models if one_cell or model not in FOR_NO_DEVICE]
    if not chosen:
        raise InputError(
            f"--artefact: none of {', '.join(models)} is for a device", hint="add --model student"
        )
    return [name_of(model) for model in chosen]
