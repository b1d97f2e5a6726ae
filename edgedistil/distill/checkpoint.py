"""Checkpoints of a run: student, optimizer, loss scaler, random states, and the progress.

Tensors are stored in safetensors and the rest in JSON, so reading a checkpoint runs no code. A
checkpoint is written under another name, synced and renamed. Its manifest has the sha256 of every
file, so that a corrupt one is detected (docs/decisions.md#a-checkpoint-is-safetensors-and-json).
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from edgedistil.core import console
from edgedistil.core.errors import StorageError
from edgedistil.core.rundir import (
    read_json_object,
    replacing,
    storage_errors,
    tree_manifest,
    write_json,
)

_FOLDER_NAME = re.compile(r"step-(\d{8})")
_MANIFEST = "manifest.json"
# Key of the progress in state.json; the name is older than the class, and old runs are resumed.
_PROGRESS_KEY = "place"
_OTHER_CHECKPOINT = "remove this checkpoint's folder to resume from the one before"


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run, over all its sessions.

    The position in the data needs no field: the order of batches is a function of the step.

    Attributes:
        step: Completed optimizer steps.
        tokens_seen: Attended tokens of these steps, over all processes.
        seconds: Time spent in the loop.
        precision: Precision that the loop computes in.
    """

    step: int
    tokens_seen: int
    seconds: float
    precision: str


@dataclass(frozen=True)
class RandomState:
    """Random states of one process.

    Attributes:
        tensors: PyTorch's states by device type.
        plain: States of numpy and Python, as JSON values.
    """

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


# --- the folder of checkpoints -------------------------------------------------------------------


class Checkpoints:
    """The newest checkpoints of a run."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Creates nothing yet.

        Args:
            folder: Parent folder of the checkpoints.
            keep: Number of checkpoints that are retained.
        """
        self.folder = folder
        self._keep = keep

    def save(
        self,
        progress: TrainingProgress,
        *,
        student: nn.Module,
        optimizer: Optimizer,
        scaler: Mapping[str, Any],
        random_states: list[RandomState],
    ) -> Path:
        """Writes a checkpoint, then removes all but the newest ones.

        Args:
            progress: Progress of the run.
            student: Its parameters are stored.
            optimizer: Its moments and step counts are stored.
            scaler: State of the loss scaler; empty without one.
            random_states: Random states by rank.
        Returns:
            Folder of the checkpoint.
        Raises:
            StorageError: It cannot be written. The message names the last good checkpoint, which
                is unchanged.
        """
        path = self.folder / f"step-{progress.step:08d}"
        tensors: dict[str, dict[str, Tensor]] = {
            "student": dict(student.named_parameters()),
            "optimizer": _optimizer_tensors(student, optimizer),
            "random": _tensors_by_rank(random_states),
        }
        state = {
            _PROGRESS_KEY: asdict(progress),
            "scaler": dict(scaler),
            "random": [random_state.plain for random_state in random_states],
        }
        try:
            _write_checkpoint(path, tensors, state)
        except StorageError as error:
            raise StorageError(
                error.message,
                hint=f"free some space or choose another folder; {self._resume_advice()}",
            ) from error
        # Only now: until the new checkpoint is written, the old ones are needed.
        for old in self._newest_last()[: -self._keep]:
            _remove(old)
        return path

    def newest_intact(self) -> Path | None:
        """Returns the newest checkpoint whose files match its manifest; None without checkpoints.

        Corrupt checkpoints that are newer get the suffix `.corrupt` and are named in a warning.

        Raises:
            StorageError: There are checkpoints, and all of them are corrupt.
        """
        corrupt: dict[Path, str] = {}
        for path in reversed(self._newest_last()):
            damage = _damage(path)
            if damage is None:
                _set_aside(corrupt, good=path)
                return path
            corrupt[path] = f"checkpoint {path} is corrupt ({damage})"
        if corrupt:
            raise StorageError(
                f"{'; '.join(corrupt.values())}: all checkpoints are corrupt",
                hint="start another run with --run NEW-NAME; nothing was removed",
            )
        return None

    def remove_unfinished(self) -> None:
        """Removes folders that a killed process had not finished writing."""
        if self.folder.is_dir():
            for unfinished in self.folder.glob(".step-*"):
                _remove(unfinished)

    def _newest_last(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if _FOLDER_NAME.fullmatch(path.name)]
        return sorted(folders, key=step_of)

    def _resume_advice(self) -> str:
        good = self._newest_last()
        if not good:
            return "no earlier checkpoint exists; --resume starts from the beginning"
        return f"the last good checkpoint is {good[-1]}; --resume continues from it"


def step_of(checkpoint: Path) -> int:
    """Returns the step of a checkpoint, from its folder's name."""
    return int(checkpoint.name.removeprefix("step-"))


def read_progress(checkpoint: Path) -> TrainingProgress:
    """Reads the progress of the run at a checkpoint; raises StorageError if it is corrupt."""
    progress = _read_state(checkpoint)[_PROGRESS_KEY]
    try:
        return TrainingProgress(**progress)
    except TypeError as error:
        raise _other_version(checkpoint, str(error)) from error


def restore(checkpoint: Path, *, student: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restores student and optimizer in place, bit for bit.

    Returns:
        State of the loss scaler; empty without one.
    Raises:
        StorageError: The checkpoint belongs to a student of another shape, or cannot be read.
    """
    weights = _read_tensors(checkpoint / "student.safetensors")
    parameters = dict(student.named_parameters())
    stored_shapes = {name: weight.shape for name, weight in weights.items()}
    if stored_shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        raise StorageError(
            f"{checkpoint} is of another student: its tensors do not match this student's",
            hint="start a run of another name",
        )
    # In place: the optimizer and DDP refer to these parameters.
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _restore_optimizer(student, optimizer, _read_tensors(checkpoint / "optimizer.safetensors"))
    scaler: dict[str, Any] = _read_state(checkpoint)["scaler"]
    return scaler


# --- optimizer -----------------------------------------------------------------------------------


def _optimizer_tensors(student: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by `parameter name|entry`."""
    # Only these: settings come from the recipe, and the learning rate from the step.
    tensors = {}
    for name, parameter in student.named_parameters():
        for entry, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}|{entry}"] = value
    return tensors


def _restore_optimizer(
    student: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]
) -> None:
    parameters = dict(student.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.partition("|")
        parameter = parameters[name]
        # A fused optimizer expects its step count on the parameter's device, too.
        optimizer.state[parameter][entry] = value.to(parameter.device)


# --- random states -------------------------------------------------------------------------------


def random_state() -> RandomState:
    """Returns the random states of this process: PyTorch on every device, numpy, Python."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    # JSON has neither tuples nor numpy's integers.
    numpy_state = [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    return RandomState(tensors, {"python": [version, list(words), gauss], "numpy": numpy_state})


def restore_random_state(checkpoint: Path, *, rank: int) -> None:
    """Restores the random states of this process, if the checkpoint has its rank.

    A run may continue with more processes: dropout is seeded by step and micro-batch.
    """
    plain = _read_state(checkpoint)["random"]
    if rank >= len(plain):
        return
    tensors = _read_tensors(checkpoint / "random.safetensors")
    torch.set_rng_state(tensors[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])
    version, words, gauss = plain[rank]["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = plain[rank]["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


def _tensors_by_rank(states: list[RandomState]) -> dict[str, Tensor]:
    tensors = {}
    for rank, state in enumerate(states):
        for name, tensor in state.tensors.items():
            tensors[f"{rank}.{name}"] = tensor
    return tensors


# --- files ---------------------------------------------------------------------------------------


def _write_checkpoint(
    path: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> None:
    """Writes a folder of safetensors files, state.json and the manifest."""
    with replacing(path) as unfinished, storage_errors(path):
        unfinished.mkdir()
        for name, file_tensors in tensors.items():
            _write_tensors(unfinished / f"{name}.safetensors", file_tensors)
        write_json(unfinished / "state.json", state)
        # Last, because it has the digests of all other files.
        write_json(unfinished / _MANIFEST, tree_manifest(unfinished))


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_cpu, path)
    except SafetensorError as error:
        # safetensors wraps the system's errors (a full disk) in an exception of its own.
        raise StorageError(f"cannot write {path.parent.name}: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Reads state.json; raises StorageError unless it has all parts."""
    path = checkpoint / "state.json"
    state = read_json_object(path, hint=_OTHER_CHECKPOINT)
    for key, kind in ((_PROGRESS_KEY, dict), ("scaler", dict), ("random", list)):
        if not isinstance(state.get(key), kind):
            raise _other_version(checkpoint, f"'{key}' is missing or of another type")
    return state


def _other_version(checkpoint: Path, problem: str) -> StorageError:
    return StorageError(
        f"{checkpoint / 'state.json'} is corrupt or of another version: {problem}",
        hint=_OTHER_CHECKPOINT,
    )


def _damage(checkpoint: Path) -> str | None:
    """Describes how a checkpoint's files differ from its manifest; None if they match."""
    try:
        expected = read_json_object(checkpoint / _MANIFEST)
    except StorageError:
        return f"{_MANIFEST} is missing or not a JSON object"
    digests = tree_manifest(checkpoint)
    digests.pop(_MANIFEST, None)
    for name in sorted(set(expected) | set(digests)):
        if name not in digests:
            return f"{name} is missing"
        if expected.get(name) != digests[name]:
            return f"{name} does not match its sha256"
    return None


def _set_aside(corrupt: Mapping[Path, str], *, good: Path) -> None:
    """Warns of corrupt checkpoints, and renames them."""
    if not corrupt:
        return
    console.warn(f"{'; '.join(corrupt.values())}. Using the last good one: {good}")
    for folder in corrupt:
        folder.rename(folder.with_name(f"{folder.name}.corrupt"))


def _remove(folder: Path) -> None:
    """Renames a checkpoint, then removes it."""
    # A process killed during the removal must not leave an incomplete folder of a valid name.
    renamed = folder
    if not folder.name.startswith("."):
        renamed = folder.with_name(f".{folder.name}.old")
    with storage_errors(folder):
        folder.rename(renamed)
        shutil.rmtree(renamed)
