"""Plans the cells of an evaluation, with the key of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.digests import require_unchanged
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.paths import user_path
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate.cells import CellPlan, ModelSource, cell_key, read_key
from edgedistil.evaluate.spec import TaskSpec
from edgedistil.evaluate.tasks import load_data

TEACHER = "teacher"
MODELS = (TEACHER, "student-step0", "student", "student-random", "student-d", "student-step0-d")
# Models that only serve as comparisons. The teacher is not one of them: it is what would be
# deployed without a student.
COMPARISON_MODELS = ("student-step0", "student-random", "student-step0-d")
WITH_SOFT_TARGETS = ("student-d", "student-step0-d")

_CELL_FILE = re.compile(r"(?P<model>.+)-(?P<seed>[0-9]+)")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class PlannedTask:
    """A task with the run's limits applied.

    Attributes:
        spec: The task.
        data: Folder with official files of public data sets, if any.
        train_limit: Training examples at most; None: all.
    """

    spec: TaskSpec
    data: Path | None
    train_limit: int | None


@dataclass
class Planner:
    """Plans the cells of one evaluation; each model's weights are hashed once.

    Attributes:
        run: The run whose models are evaluated.
        deployed: Names of models whose artefacts are scored, so that their weights are stored.
    """

    run: RunDir
    deployed: Sequence[str] = ()
    _digests: dict[ModelSource, str] = field(default_factory=dict)

    def plans(
        self, task: PlannedTask, models: Sequence[str], seeds: Sequence[int]
    ) -> list[CellPlan]:
        """Plans the cells of a task, with the teacher's cells that soft targets need."""
        needs_teacher = any(model in WITH_SOFT_TARGETS for model in models)
        plans: list[CellPlan] = []
        for seed in seeds:
            teacher = None
            if needs_teacher:
                teacher = self.plan(task, TEACHER, seed, keep=True)
                plans.append(teacher)
            others = dict.fromkeys(models)
            if teacher is not None:
                # Its cell is in the plan already.
                others.pop(TEACHER, None)
            plans += [self.plan(task, name, seed, keep=False, teacher=teacher) for name in others]
        return plans

    def valid_earlier_cells(
        self, task: PlannedTask, plans: Sequence[CellPlan], seeds: Sequence[int]
    ) -> list[CellPlan]:
        """Finds cells of earlier evaluations that are still valid.

        Args:
            task: The task.
            plans: Cells of this evaluation, which are left out.
            seeds: Seeds of this evaluation; cells of other seeds are left out.
        """
        planned = {plan.file for plan in plans}
        valid = []
        for path in sorted((self.run.cells / task.spec.name).glob("*.json")):
            name = _CELL_FILE.fullmatch(path.stem)
            # Artefacts' cells (`student-1.int8.json`) do not have the form of a cell's name.
            if path in planned or name is None:
                continue
            # Models that are folders are left out: the name does not lead back to the folder.
            if name["model"] in MODELS and int(name["seed"]) in seeds:
                plan = self._plan_again(task, name["model"], int(name["seed"]))
                # A cell that was made with other settings has another key.
                if read_key(path) == plan.key:
                    valid.append(plan)
        return valid

    def _plan_again(self, task: PlannedTask, model: str, seed: int) -> CellPlan:
        """Plans a cell of an earlier evaluation as it would be run now."""
        teacher = None
        if model in WITH_SOFT_TARGETS:
            teacher = self.plan(task, TEACHER, seed, keep=False)
        return self.plan(task, model, seed, keep=False, teacher=teacher)

    def plan(
        self,
        task: PlannedTask,
        model: str,
        seed: int,
        *,
        keep: bool,
        teacher: CellPlan | None = None,
    ) -> CellPlan:
        """Plans one cell.

        Args:
            task: The task.
            model: One of MODELS, or a folder.
            seed: Seed of head, data order and dropout.
            keep: Whether to store the fine-tuned weights.
            teacher: The teacher's cell; ignored for models without soft targets.
        """
        source = source_of(self.run, model)
        # Hashing reads all weights, so each model is hashed once for all tasks and seeds.
        if source not in self._digests:
            self._digests[source] = source.sha256()
        data = load_data(task.spec, task.data)
        # The key of the teacher's cell is an input only where its soft targets are used.
        if model not in WITH_SOFT_TARGETS:
            teacher = None
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


def source_of(run: RunDir, model: str) -> ModelSource:
    """Returns where a model is before fine-tuning.

    Args:
        run: The run.
        model: One of MODELS, or a folder.
    Raises:
        RunError: The run does not have the model yet, or its files were changed.
        InputError: The name is neither one of MODELS nor a folder with a model.
    """
    if model in MODELS:
        folder = run.require(_folder_in_run(run, model), "edgedistil distill RECIPE")
        require_unchanged(run, [folder])
        return ModelSource(model, folder, random_weights=model == "student-random")
    folder = user_path(model)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"unknown model '{echo(model)}': expected one of {', '.join(MODELS)}, "
            "or a folder with a config.json"
        )
    return ModelSource(cell_model_name(model), folder)


def _folder_in_run(run: RunDir, model: str) -> Path:
    if model == TEACHER:
        return run.teacher
    if model in ("student-step0", "student-step0-d"):
        return run.student_step0
    # A random student has the architecture of the distilled one.
    return run.student


def cell_model_name(model: str) -> str:
    """Returns the name of a model in cells: its own, or one derived from its folder's name."""
    if model in MODELS:
        return model
    name = _NOT_IN_NAMES.sub("-", Path(model).resolve().name)
    # A folder called `student` must not overwrite the cells of the run's student.
    return f"folder-{name}" if name in MODELS else name


def deployed_models(models: Sequence[str], *, one_cell: bool) -> list[str]:
    """Returns the names of the models whose artefacts are scored.

    Args:
        models: Models of the evaluation.
        one_cell: Whether a single cell was asked for; its model counts whatever it is.
    Raises:
        InputError: All models are only comparisons.
    """
    deployed = [model for model in models if one_cell or model not in COMPARISON_MODELS]
    if not deployed:
        raise InputError(
            f"--artefact: {', '.join(models)} are only comparisons, expected a model to deploy",
            hint="add --model student",
        )
    return [cell_model_name(model) for model in deployed]
