"""Models to export: a run's student and teacher, or one model by folder or hub id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistil.core import console
from edgedistil.core.digests import require_unchanged
from edgedistil.core.errors import ModelError, RunError
from edgedistil.core.family import FAMILIES
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.model_folder import read_model_folder
from edgedistil.core.model_source import find_model
from edgedistil.core.places import runs_root
from edgedistil.core.records import Role, text_sha256
from edgedistil.core.rundir import (
    LATEST,
    RunDir,
    create_run,
    open_run,
    read_json,
    write_json,
)
from edgedistil.core.sentence_modules import find_transformer, read_modules
from edgedistil.core.sentence_vector import (
    SentenceVector,
    read_sentence_vector,
    unsupported_part,
)
from edgedistil.core.task import (
    ENCODER_TASK,
    FILL_MASK_TASK,
    SENTENCE_OUTPUT,
    SENTENCE_TASK,
    TASKS,
    Task,
    find_task,
    task_of_architectures,
)
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.export.sentence_modules import check_modules
from edgedistil.export.vector_options import VectorOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgedistil.models.sentence_encoder import SentenceEncoder

# Names and identities of the models in a run.
MODELS_FILE = "models.json"
# The names of runs and files have a limit, and a digest and a task follow the model's name.
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A model folder that can be exported: supported, with safe weights, for a known task.

    Attributes:
        name: First part of the export folder's name: student, teacher, or the model's name.
        role: Its role in the run.
        folder: config.json, weights in safetensors, and tokenizer.
        package_folder: Files around the model, such as modules.json and the card; the same folder
            unless the model is in a subfolder.
        task: What the exported model computes.
        float_only: Whether it is exported in float32 only, as a baseline.
        vector_options: What the user states about its sentence vectors.
    """

    name: str
    role: Role
    folder: Path
    package_folder: Path
    task: Task
    float_only: bool = False
    vector_options: VectorOptions = field(default_factory=VectorOptions)

    def sentence_vector(self) -> SentenceVector | None:
        """Returns how the model makes sentence vectors; `is_guess` if nothing says it.

        Returns:
            None for another task, and where a part of the folder is not supported.
        Raises:
            InputError: The user states something else than the folder.
            ModelError: A module's settings are damaged.
        """
        if self.task != ENCODER_TASK or unsupported_part(self.package_folder) is not None:
            return None
        source = read_model_folder(self.folder)
        hidden = source.family.hidden(source.config)
        vector = read_sentence_vector(self.package_folder, hidden=hidden)
        return self.vector_options.apply(vector, self.package_folder)

    def load_model(self) -> PreTrainedModel:
        """Loads the model with the task's head, in float32 and eval mode, without gradients.

        Raises:
            ModelError: The weights are corrupt, or lack what the task needs.
        """
        # The imports take seconds, and folders are checked before.
        import torch
        import transformers

        from edgedistil.models.loading import drop_missing_pooler, load_config, load_weights

        source = read_model_folder(self.folder)
        # transformers draws random weights for a head before it loads the file.
        with torch.random.fork_rng(devices=[]):
            model_class = getattr(transformers, TASKS[self.task].auto_class)
            loaded = load_weights(model_class, source, load_config(source))
        _check_complete(loaded.missing, self.folder, self.task)
        # Random weights would make the digest of the model another one each time.
        drop_missing_pooler(loaded)
        model: PreTrainedModel = loaded.model.eval().requires_grad_(False)
        return model

    def load_sentence_encoder(self, model: PreTrainedModel) -> SentenceEncoder | None:
        """Returns the model with the layers that make its sentence vectors.

        Args:
            model: The result of `load_model`.
        Returns:
            None for another task, and where the folder does not say how it pools: a guess may be
            in the package's settings, which users can change, but not in its graph.
        Raises:
            ModelError: A module's settings or weights are damaged.
        """
        from edgedistil.models.sentence_encoder import SentenceEncoder, build_head

        left_out = unsupported_part(self.package_folder)
        if self.task == ENCODER_TASK and left_out is not None:
            console.warn(
                f"the graph has no {SENTENCE_OUTPUT}: {left_out} is not supported in a graph; "
                "clients compute it with the package's modules"
            )
        vector = self.sentence_vector()
        if vector is None or vector.is_guess:
            return None
        head = build_head(vector, self.package_folder).requires_grad_(False)
        return SentenceEncoder(model, vector, head).eval()

    def load_tokenizer(self) -> TextTokenizer:
        """Loads the tokenizer.

        Raises:
            ModelError: It is missing or corrupt, or has ids that the model does not have.
        """
        from edgedistil.models.tokenizer import warn_if_read_otherwise

        tokenizer = read_tokenizer(self.folder)
        warn_if_read_otherwise(tokenizer)
        return tokenizer


def read_source(
    folder: Path,
    *,
    name: str,
    role: Role,
    task: str | None,
    float_only: bool = False,
    tokenizer: TextTokenizer | None = None,
) -> ExportSource:
    """Checks a model folder and determines its task; loads no weights.

    Args:
        folder: The model.
        name: First part of the export folder's name.
        role: Its role in the run.
        task: TasksManager's name or a synonym; `sentence-similarity` is an encoder that must make
            sentence vectors; if None, sentence vectors where the folder has
            sentence-transformers' modules, otherwise the task of the config's architecture.
        float_only: Whether it is exported in float32 only.
        tokenizer: The folder's tokenizer, if it has been read; None to read it.
    Raises:
        ModelError: Not a model, not supported, weights not in safetensors, files that are damaged
            or do not fit each other, an unknown task, or no sentence vectors for a task that asks
            for them.
    """
    # Weights are loaded one model at a time, when it is exported.
    package_folder, folder = folder, find_transformer(folder)
    model_folder = read_model_folder(folder)
    config = model_folder.config
    if task is not None:
        checked_task = parse_task(task)
        if task == SENTENCE_TASK:
            _require_sentence_vectors(package_folder)
    elif any(module.is_transformer for module in read_modules(package_folder)):
        checked_task = ENCODER_TASK
    else:
        checked_task = infer_task(config, folder)
    _check_head_exists(model_folder.family, checked_task, folder)
    if checked_task == ENCODER_TASK:
        check_modules(package_folder)
    tokenizer = tokenizer or read_tokenizer(folder)
    if TASKS[checked_task].level == "vocabulary":
        tokenizer.require("mask")
    return ExportSource(
        name=name,
        role=role,
        folder=folder,
        package_folder=package_folder,
        task=checked_task,
        float_only=float_only,
    )


def why_no_sentence_vectors(folder: Path) -> str | None:
    """Returns why a graph of a folder's model has no sentence vectors; None if it has them."""
    if not read_modules(folder):
        return "it has no modules.json, which says how the states of a text become one vector"
    part = unsupported_part(folder)
    return f"{part} is not supported in a graph" if part is not None else None


def _require_sentence_vectors(folder: Path) -> None:
    """Raises ModelError if a graph of a folder's model would have no sentence vectors."""
    reason = why_no_sentence_vectors(folder)
    if reason is not None:
        raise ModelError(
            f"the model in {folder} gives no sentence vectors: {reason}",
            hint="save it with sentence-transformers, or export the states of its tokens with "
            f"--task {ENCODER_TASK}",
        )


def find_sources(
    run_name: str, *, model: str | None, task: str | None
) -> tuple[RunDir, list[ExportSource]]:
    """Returns the run, and the models that are exported into it.

    Of a run, these are the student as masked LM (parity of the logits is shown there) and as
    encoder (the speed claim is measured there); and the teacher, the same in float32, as the
    baseline.

    Args:
        run_name: Run with a student. With `model`: the run that receives the export, created if it
            does not exist; `latest` for a run that is named after the model.
        model: Folder, hub id, or `asset:NAME`.
        task: Task of `model`.
    Raises:
        RunError: There is no such run, it has no student yet, or its models were changed.
        ModelError: `model` is neither a folder nor on the hub, or cannot be exported.
        OfflineError: The hub cannot be reached.
    """
    if model is not None:
        # Checked before a run is created for a model that cannot be exported.
        folder = find_model(model)
        identity = _identity(model)
        name = _plain_name(model, identity)
        source = read_source(folder, name=name, role="other", task=task)
        run = _run_of_model(run_name, name, identity)
        return run, [replace(source, name=_claimed_name(run, name, identity))]

    run = open_run(run_name)
    run.require(run.student, "edgedistil distill RECIPE")
    return run, _run_sources(run)


def _run_sources(run: RunDir) -> list[ExportSource]:
    folders: dict[Role, Path] = {"student": run.student}
    # The student can be exported without its teacher.
    if run.teacher.exists():
        folders["teacher"] = run.teacher
    require_unchanged(run, folders.values())
    sources = []
    for role, folder in folders.items():
        is_teacher = role == "teacher"
        # A student of sentence vectors has no MLM head, and its teacher need not have one.
        is_sentence_run = bool(read_modules(run.student))
        tasks = (ENCODER_TASK,) if is_sentence_run else (FILL_MASK_TASK, ENCODER_TASK)
        sources += [
            read_source(folder, name=role, role=role, task=of_run, float_only=is_teacher)
            for of_run in tasks
        ]
    return sources


# --- names of models ------------------------------------------------------------------------------


def _identity(model: str) -> str:
    """What makes a model another one: its folder's path without links, or its hub id."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _plain_name(model: str, identity: str) -> str:
    """Name of a model: the last part of its path, without characters that no run has."""
    # `.` and `..` name a folder only together with the working directory.
    last = (
        identity.strip("/").split("/")[-1] if Path(model).name in ("", "..") else Path(model).name
    )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-_") or "model"
    if name == LATEST or len(name) > _LONGEST_NAME:
        # What was cut may be all that distinguishes two models.
        return _with_digest(name[:_LONGEST_NAME], identity)
    return name


def _with_digest(name: str, identity: str) -> str:
    return f"{name}-{text_sha256(identity)[:8]}"


def _run_of_model(run_name: str, name: str, identity: str) -> RunDir:
    """Opens or creates the run that receives a model's export."""
    if run_name != LATEST:
        return create_run(run_name, resume=True)
    run = runs_root() / name
    # A run of another model, or of a recipe, keeps its exports.
    # A name such as `student` is another one in the run's table.
    if run.is_dir() and any(run.iterdir()) and identity not in _read_models(RunDir(run)).values():
        name = _with_digest(name, identity)
    return create_run(name, resume=True)


def _claimed_name(run: RunDir, name: str, identity: str) -> str:
    """Returns a name for a model's exports that no other model has in the run, and records it."""
    models = _read_models(run)
    if models.get(name, identity) != identity or name in ("student", "teacher"):
        name = _with_digest(name, identity)
    if name not in models:
        write_json(run.path / MODELS_FILE, models | {name: identity})
    return name


def _read_models(run: RunDir) -> dict[str, str]:
    """Name → identity of the models that were exported into a run with --model."""
    path = run.path / MODELS_FILE
    models: dict[str, str] = {}
    if path.is_file():
        content = read_json(path)
        if not isinstance(content, dict):
            raise RunError(f"{path} is corrupt: expected a table of names", hint="remove the file")
        models = content
    return models


# --- config and task -----------------------------------------------------------------------------


def infer_task(config: Mapping[str, Any], folder: Path) -> Task:
    """Returns the task of a config's architecture.

    Raises:
        ModelError: The config names no architecture of a supported task.
    """
    architectures = config.get("architectures") or []
    task = task_of_architectures(architectures, FAMILIES[config["model_type"]].class_prefix)
    if task is None:
        names = ", ".join(architectures) or "no architecture"
        raise ModelError(
            f"{folder / 'config.json'} names {names}, which belongs to no supported task",
            hint=f"select one with --task: {', '.join(TASKS)}",
        )
    return task


def _check_head_exists(family: FamilyInfo, task: Task, folder: Path) -> None:
    """Raises ModelError if transformers has no head of the family for a task."""
    if TASKS[task].architectures[0] not in family.missing_heads:
        return
    possible = [name for name in TASKS if TASKS[name].architectures[0] not in family.missing_heads]
    raise ModelError(
        f"the model in {folder} is a {family.model_type}, which has no head for {task}",
        hint=f"select another task with --task: {', '.join(possible)}",
    )


def parse_task(name: str) -> Task:
    """Returns the task of a name or of a synonym, such as `masked-lm`.

    Raises:
        ModelError: The task is unknown or not supported.
    """
    row = find_task(ENCODER_TASK if name == SENTENCE_TASK else name)
    if row is None:
        # The import takes a second, and most callers use the names of our table.
        from optimum.exporters.tasks import TasksManager

        row = find_task(str(TasksManager.map_from_synonym(name)))
    if row is None:
        raise ModelError(f"unknown task '{name}'", hint=f"expected one of: {', '.join(TASKS)}")
    return row.name


# --- weights -------------------------------------------------------------------------------------


def _check_complete(missing_keys: list[str], folder: Path, task: Task) -> None:
    """Raises ModelError if weights are missing that the task uses."""
    missing = sorted(missing_keys)
    if not TASKS[task].reads_pooler:
        # Every BERT has a pooler, and few tasks read it.
        missing = [key for key in missing if "pooler" not in key]
    if not missing:
        return
    from edgedistil.models.loading import listed

    raise ModelError(
        f"{folder} lacks {listed(missing)}: it cannot serve {task}",
        hint="random weights would be exported; select the task that it was trained for "
        "with --task",
    )
