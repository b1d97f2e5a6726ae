"""What is exported: a model folder or hub id, its task, and the safe way to its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from edgedistil.core.errors import ModelError
from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task, find_task, task_of_architectures
from edgedistil.models.quiet import quiet
from edgedistil.models.teacher import read_tokenizer

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True)
class Source:
    """A model in eval mode and float32, and where its files lie."""

    name: str
    role: Literal["teacher", "student", "other"]
    task: Task
    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @property
    def takes_token_types(self) -> bool:
        return FAMILIES[self.model.config.model_type].token_types


def load_source(
    folder: Path, *, name: str, role: Literal["teacher", "student", "other"], task: str | None
) -> Source:
    """The model in a folder, for a task.

    Args:
        task: TasksManager's name; inferred from the config's architecture if not given.
    Raises:
        ModelError: Not a model, not supported, weights as pickle only or torn, a task that its weights do not serve.
    """
    config = read_config(folder)
    chosen = checked_task(task) if task is not None else infer_task(config, folder)
    require_safetensors(folder)
    return Source(name, role, chosen, folder, _load(folder, chosen), read_tokenizer(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a supported model.

    Raises:
        ModelError: Missing, torn, or of a type that is not supported (says which it is).
    """
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is no model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    kind = config.get("model_type", "of unknown type")
    if kind not in FAMILIES:
        named = ", ".join(config.get("architectures") or []) or "no architecture named"
        raise ModelError(
            f"{folder} is a model of type '{kind}' ({named}); supported: {', '.join(FAMILIES)}"
        )
    if config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        what = (
            "a decoder"
            if config.get("is_decoder")
            else f"positions of type '{config['position_embedding_type']}'"
        )
        raise ModelError(f"{folder} has {what}; supported: encoders with absolute positions")
    activation = config.get(FAMILIES[kind].keys.activation, "gelu")
    if activation != "gelu":
        raise ModelError(f"{folder} has the activation '{activation}'; supported: gelu")
    return config


def infer_task(config: dict[str, Any], folder: Path) -> Task:
    """Returns the task that a config's architecture is for.

    Raises:
        ModelError: It names none that is supported.
    """
    named = config.get("architectures") or []
    task = task_of_architectures(named)
    if task is not None:
        return task
    raise ModelError(
        f"{folder / 'config.json'} names {', '.join(named) or 'no architecture'}, and no task follows from it",
        hint=f"give one with --task: {', '.join(TASKS)}",
    )


def checked_task(task: str) -> Task:
    """TasksManager's name of a task; its synonyms (`masked-lm`, `default` …) are understood.

    Raises:
        ModelError: Unknown or not supported.
    """
    from optimum.exporters.tasks import TasksManager

    row = find_task(str(TasksManager.map_from_synonym(task)))
    if row is None:
        raise ModelError(f"no task '{task}'; supported: {', '.join(TASKS)}")
    return row.name


def require_safetensors(folder: Path) -> None:
    """Returns if a folder has weights that run no code.

    Raises:
        ModelError: It has none, or only pickles.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    raise ModelError(
        f"{folder} has no weights in safetensors"
        + (f", only {', '.join(pickled)}" if pickled else ""),
        hint="a pickle can run code when it is read, so it is refused. Where you trust it, convert it once: "
        "transformers' from_pretrained, then save_pretrained, writes model.safetensors",
    )


def _load(folder: Path, task: Task) -> PreTrainedModel:
    model_class: Any = getattr(transformers, TASKS[task].auto_class)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, info = model_class.from_pretrained(
                folder,
                config=AutoConfig.from_pretrained(folder),
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"the weights in {folder} cannot be read: {str(error).splitlines()[0]}",
            hint="a file that was cut off while it was copied or fetched: copy or fetch it again",
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not _unused(key, task))
    if missing:
        some = ", ".join(missing[:3]) + (
            f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        )
        raise ModelError(
            f"{folder} lacks {some}: it cannot serve {task}",
            hint="random weights would be exported; name the task that it was trained for with --task",
        )
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def _unused(key: str, task: Task) -> bool:
    """Whether a weight is not used: every BERT has a pooler, and few tasks read it."""
    return "pooler" in key and not TASKS[task].reads_pooler
