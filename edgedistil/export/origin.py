"""Which models an export is about: a run's student and teacher, or one model that was named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgedistil.core.errors import ModelError, OfflineError
from edgedistil.core.rundir import RunDir, create_run, open_run
from edgedistil.core.task import ENCODER_TASK, FILL_MASK_TASK
from edgedistil.export.source import read_config, require_safetensors

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*.json",
    "vocab.txt",
    "*_map.json",
]


@dataclass(frozen=True)
class Origin:
    """One model and task to export. `quantized` is whether the asked precisions are made, or float32 alone."""

    name: str
    role: Literal["teacher", "student", "other"]
    folder: Path
    task: str | None
    quantized: bool


def find_origins(run: str, *, model: str | None, task: str | None) -> tuple[RunDir, list[Origin]]:
    """The run and what is exported into it.

    The student as masked LM (logit parity is shown there) and as encoder (the speed claim is measured there); the
    teacher the same in float32, as the baseline.

    Raises:
        RunError: No such run, or it has no student yet.
        ModelError, OfflineError: `model` is no folder, and not to be had from the hub.
    """
    if model is not None:
        folder = _model_folder(model)
        read_config(folder)  # both before a run is made for something that cannot be exported
        require_safetensors(folder)
        name = (
            re.sub(r"[^A-Za-z0-9._-]+", "-", model.strip("/").split("/")[-1]).strip(".-_")
            or "model"
        )
        return create_run(name, resume=True), [Origin(name, "other", folder, task, quantized=True)]
    chosen = open_run(run)
    chosen.require(chosen.student, "edgedistil distill RECIPE")
    origins = [
        Origin("student", "student", chosen.student, each, quantized=True)
        for each in (FILL_MASK_TASK, ENCODER_TASK)
    ]
    if chosen.teacher.exists():
        origins += [
            Origin("teacher", "teacher", chosen.teacher, each, quantized=False)
            for each in (FILL_MASK_TASK, ENCODER_TASK)
        ]
    return chosen, origins


def _model_folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(model):
        raise ModelError(f"no model '{model}': no such folder, and no hub id")
    return _download(model)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"the hub has no model '{model}'",
            hint="look for a typing error; a private one needs a login",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise OfflineError(
            f"cannot fetch model '{model}' from the hub: {str(error).splitlines()[0]}",
            hint="without a network, put config.json, model.safetensors and tokenizer.json into a folder and name that",
        ) from error
