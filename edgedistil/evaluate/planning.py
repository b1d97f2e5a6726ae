"""Plans the cells of an evaluation, with the key of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.digests import require_unchanged
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError, RunError, StorageError
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.paths import user_path
from edgedistil.core.rundir import RunDir
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.evaluate.aggregate import baseline_model
from edgedistil.evaluate.cells import (
    CellPlan,
    CellSettings,
    ModelSource,
    cell_key,
    model_sha256,
    read_cell,
    read_finished,
)
from edgedistil.evaluate.spec import TaskSpec, Training
from edgedistil.evaluate.tasks import load_data
from edgedistil.evaluate.untrimmed import has_untrimmed_run, untrimmed_run

TEACHER = "teacher"
# The teacher before a head was fitted, in runs where one was.
AS_GIVEN = "teacher-as-given"
# The teacher as given with the student's vocabulary: what trimming alone costs.
TRIMMED = "teacher-trimmed"
# The student of the same recipe without trimming: what distilling alone costs.
UNTRIMMED = "student-untrimmed"
RANDOM_STUDENT = "student-random"
MODELS = (
    TEACHER,
    AS_GIVEN,
    TRIMMED,
    "student-step0",
    "student",
    UNTRIMMED,
    RANDOM_STUDENT,
    "student-d",
    "student-step0-d",
    "student-same-steps",
    "teacher-d",
)
# Models that only serve as comparisons. The teacher is not one of them: it is what would be
# deployed without a student.
COMPARISON_MODELS = (
    "student-step0",
    UNTRIMMED,
    RANDOM_STUDENT,
    "student-step0-d",
    "student-same-steps",
    "teacher-d",
)
# The teacher on its own soft targets (self-training) has the texts and steps of `student-d`.
WITH_SOFT_TARGETS = ("student-d", "student-step0-d", "teacher-d")
# The student on labels alone, with as many steps as `student-d` has on labels and further texts.
SAME_STEPS = "student-same-steps"
# Treated model → the same model without the treatment.
_UNTREATED = {
    "student-d": "student",
    "student-step0-d": "student-step0",
    SAME_STEPS: "student",
    "teacher-d": TEACHER,
}
# Seed of the cells that choose settings; the seeds of results begin at 1.
_SEARCH_SEED = 0

_CELL_FILE = re.compile(r"(?P<model>.+)-(?P<seed>[0-9]+)")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
# Characters of a folder's name, and digits of the model's digest, in the names of its cells.
_NAME_CHARACTERS = 60
_DIGEST_DIGITS = 8


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
        deployed: Models whose artefacts are scored, so that their weights are stored.
        searched: Task and model → hyper-parameters that a search chose.
    """

    run: RunDir
    deployed: Sequence[str] = ()
    searched: dict[tuple[str, str], Training] = field(default_factory=dict)
    _sources: dict[str, ModelSource] = field(default_factory=dict)

    def source(self, model: str) -> ModelSource:
        """Returns where a model is; raises as `source_of`."""
        # Hashing reads all weights, so each model is hashed once for all tasks and seeds.
        if model not in self._sources:
            self._sources[model] = source_of(self.run, model)
        return self._sources[model]

    def plans(
        self, task: PlannedTask, models: Sequence[str], seeds: Sequence[int]
    ) -> list[CellPlan]:
        """Plans the cells of a task, with the teacher's cells that soft targets need."""
        needs_teacher = any(model in WITH_SOFT_TARGETS for model in models)
        # By file: two folders may contain the same model, and the teacher is needed once.
        plans: dict[Path, CellPlan] = {}
        for seed in seeds:
            teacher = None
            if needs_teacher:
                teacher = self.plan(task, TEACHER, seed, keep=True)
                plans[teacher.file] = teacher
            for model in models:
                plan = self.plan(task, model, seed, keep=False, teacher=teacher)
                plans.setdefault(plan.file, plan)
        return list(plans.values())

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
            if path in planned or name is None or int(name["seed"]) not in seeds:
                continue
            plan = self._plan_again(task, name["model"], int(name["seed"]), path)
            # A cell that was made with other settings has another key.
            if plan is not None and read_finished(path, plan.key) is not None:
                valid.append(plan)
        return valid

    def _plan_again(self, task: PlannedTask, model: str, seed: int, path: Path) -> CellPlan | None:
        """Plans a cell of an earlier evaluation as it would be run now; None if it cannot be."""
        if model in MODELS:
            needed = [model, TEACHER] if model in WITH_SOFT_TARGETS else [model]
            if not all(self._is_searched(task, self.source(name)) for name in needed):
                return None
            teacher = None
            if model in WITH_SOFT_TARGETS:
                teacher = self.plan(task, TEACHER, seed, keep=False)
            return self.plan(task, model, seed, keep=False, teacher=teacher)
        # The name does not lead back to a folder, but the file contains the model's digest.
        digest = _recorded_model(path)
        if digest is None or not model.endswith(f"-{digest[:_DIGEST_DIGITS]}"):
            return None
        source = ModelSource(model, path.parent, digest)
        return self._plan(task, source, seed) if self._is_searched(task, source) else None

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
        return self._plan(
            task,
            self.source(model),
            seed,
            keep_weights=keep or model in self.deployed,
            teacher=teacher if model in WITH_SOFT_TARGETS else None,
        )

    def search_plans(self, task: PlannedTask, source: ModelSource) -> list[CellPlan]:
        """Plans the cells of a model that choose its settings; none where the task has one."""
        training = task.spec.training
        if training.search is None:
            return []
        share = training.search.share
        return [
            self._plan(task, source, _SEARCH_SEED, settings=CellSettings(setting, share))
            for setting in training.settings()
        ]

    def _training(self, task: PlannedTask, source: ModelSource) -> Training:
        """Returns the hyper-parameters of a model: the only ones, or those that were chosen.

        Raises:
            KeyError: Nothing was chosen for the model yet.
        """
        if task.spec.training.search is None:
            return task.spec.training
        return self.searched[task.spec.name, untreated(source.name)]

    def _is_searched(self, task: PlannedTask, source: ModelSource) -> bool:
        """Whether the settings of a model are known, from this search or an earlier one."""
        key = (task.spec.name, untreated(source.name))
        if task.spec.training.search is None or key in self.searched:
            return True
        if untreated(source.name) in MODELS:
            source = self.source(untreated(source.name))
        plans = self.search_plans(task, source)
        if any(read_finished(plan.file, plan.key) is None for plan in plans):
            return False
        self.searched[key] = best_setting(plans)
        return True

    def _plan(
        self,
        task: PlannedTask,
        source: ModelSource,
        seed: int,
        *,
        keep_weights: bool = False,
        teacher: CellPlan | None = None,
        settings: CellSettings | None = None,
    ) -> CellPlan:
        data = load_data(task.spec, task.data)
        if settings is None:
            training = self._training(task, source)
            settings = CellSettings(training, match_steps=source.name == SAME_STEPS)
        if settings.search_share is not None:
            data = data.limited(task.train_limit).for_search(settings.search_share)
        # The key of the teacher's cell is an input only where its soft targets are used.
        soft_targets = None
        if teacher is not None:
            soft_targets = (teacher.key, data.unlabelled_sha256)
        elif settings.match_steps:
            soft_targets = ("", data.unlabelled_sha256)
        key = cell_key(
            task.spec, settings, data.sha256, task.train_limit, source, seed, soft_targets
        )
        return CellPlan(
            spec=task.spec,
            settings=settings,
            data=task.data,
            train_limit=task.train_limit,
            source=source,
            seed=seed,
            key=key,
            folder=self.run.cells,
            keep_weights=keep_weights,
            soft_targets_from=teacher.weights if teacher else None,
        )


def reference_model(run: RunDir) -> str:
    """Returns the model that retention is a share of: the teacher as the user gave it."""
    return AS_GIVEN if run.teacher_as_given.exists() else TEACHER


def with_controls(run: RunDir, models: Sequence[str], spec: TaskSpec) -> list[str]:
    """Returns the models of a task with those that their figures need for comparison.

    Retention needs the teacher as given; a treated student the same treatment of the undistilled
    one and of the teacher, and as many steps without it; a task without a meaningful constant
    prediction a student with random weights.
    """
    extended = list(models)
    if "student-d" in models:
        extended += ["student-step0-d", "teacher-d"]
        # Without further texts `student` itself has as many steps.
        if spec.second_distillation.unlabelled is not None:
            extended += ["student", SAME_STEPS]
    # Without the teacher there is no retention.
    if TEACHER in models and len(models) > 1:
        extended.append(reference_model(run))
        extended += trim_baselines(run)
        if baseline_model(spec.metric) == RANDOM_STUDENT:
            extended.append(RANDOM_STUDENT)
    return list(dict.fromkeys(extended))


def trim_baselines(run: RunDir) -> list[str]:
    """Returns the models that say what trimming alone and distilling alone cost."""
    baselines = [TRIMMED] if run.teacher_trimmed.exists() else []
    return [*baselines, UNTRIMMED] if has_untrimmed_run(run) else baselines


def untreated(model: str) -> str:
    """Returns the model whose settings a model is fine-tuned with."""
    return _UNTREATED.get(model, model)


def best_setting(plans: Sequence[CellPlan]) -> Training:
    """Returns the hyper-parameters of the cell with the highest score; of equal ones the first."""
    return max(plans, key=lambda plan: read_cell(plan.file).score).settings.training


def source_of(run: RunDir, model: str) -> ModelSource:
    """Returns where a model is before fine-tuning.

    Args:
        run: The run.
        model: One of MODELS, or a folder.
    Raises:
        RunError: The run does not have the model yet, or its files were changed.
        ModelError: The model has no weights in safetensors.
        InputError: The name is neither one of MODELS nor a folder with a model.
    """
    if model in MODELS:
        if model == AS_GIVEN and run.teacher.exists() and not run.teacher_as_given.exists():
            raise RunError(
                f"the teacher of run '{run.name}' is used as it was given: its head was not fitted",
                hint=f"pass --model {TEACHER}",
            )
        # A model of a run has to be as `distill` left it.
        owner = untrimmed_run(run) if model == UNTRIMMED else run
        folder = owner.require(_folder_in_run(owner, model), "edgedistil distill RECIPE")
        require_unchanged(owner, [folder])
        _check_model(folder)
        is_random = model == RANDOM_STUDENT
        digest = model_sha256(folder, random_weights=is_random)
        return ModelSource(model, folder, digest, random_weights=is_random)
    # Anything else is a folder of the user's.
    folder = user_path(model)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"unknown model '{echo(model)}': expected one of {', '.join(MODELS)}, "
            "or a folder with a config.json"
        )
    _check_model(folder)
    digest = model_sha256(folder)
    return ModelSource(cell_model_name(folder, digest), folder, digest)


def _check_model(folder: Path) -> None:
    """Raises ModelError unless model and tokenizer in a folder are sound and fit each other."""
    read_model_folder(folder)
    read_tokenizer(folder)


def _folder_in_run(run: RunDir, model: str) -> Path:
    if model in (TEACHER, "teacher-d"):
        return run.teacher
    if model == AS_GIVEN:
        return run.teacher_as_given
    if model == TRIMMED:
        return run.teacher_trimmed
    if model in ("student-step0", "student-step0-d"):
        return run.student_step0
    # A random student has the architecture of the distilled one.
    return run.student


def cell_model_name(folder: Path, digest: str) -> str:
    """Returns the name of a folder's model in cells: the folder's name and a part of the digest.

    Two models in folders of one name have different cells, and a folder called `student` does not
    overwrite those of the run's student.
    """
    name = _NOT_IN_NAMES.sub("-", folder.resolve().name)[:_NAME_CHARACTERS].strip(".-_")
    if name in MODELS:
        name = f"folder-{name}"
    return f"{name or 'model'}-{digest[:_DIGEST_DIGITS]}"


def _recorded_model(path: Path) -> str | None:
    """Returns the digest of the model in a cell's file; None if there is no readable one."""
    # Corrupt cells of folders are not reported: nothing can run them again.
    with suppress(StorageError):
        return read_cell(path).model_sha256
    return None


def deployed_models(models: Sequence[str], *, one_cell: bool) -> list[str]:
    """Returns the models whose artefacts are scored.

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
    return deployed
