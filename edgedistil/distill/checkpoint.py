"""Checkpoints that appear whole or not at all: student, optimizer, scaler, random states, and the place in the run.

Tensors lie in safetensors and the rest in JSON, so reading a checkpoint runs no code. A checkpoint is written aside,
synced, and renamed; its manifest holds the sha256 of every file, so one that the disk has torn is found out.
"""

from __future__ import annotations

import random
import re
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
from edgedistil.core.rundir import read_json, replacing, storage_errors, tree_manifest, write_json

_NAME = re.compile(r"step-(\d{8})")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Place:
    """Where a run is. The data needs no more than the step: the order of batches is a function of it."""

    step: int
    tokens_seen: int
    seconds: float
    precision: str


@dataclass(frozen=True)
class RandomState:
    """All random states of one process."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


# --- the folder of checkpoints -----------------------------------------------------------------------


class Checkpoints:
    """The last `keep` checkpoints of a run."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(
        self,
        place: Place,
        *,
        student: nn.Module,
        optimizer: Optimizer,
        scaler: Mapping[str, Any],
        random_states: list[RandomState],
    ) -> Path:
        """Writes a checkpoint, and removes what is older than the last `keep`.

        Raises:
            StorageError: It cannot be written; the message names the last good checkpoint, which is unchanged.
        """
        path = self.folder / f"step-{place.step:08d}"
        try:
            with replacing(path) as aside, storage_errors(path):
                aside.mkdir()
                _write_tensors(aside / "student.safetensors", dict(student.named_parameters()))
                _write_tensors(
                    aside / "optimizer.safetensors", _optimizer_tensors(student, optimizer)
                )
                _write_tensors(aside / "random.safetensors", _by_rank(random_states))
                plain = [state.plain for state in random_states]
                write_json(
                    aside / "state.json",
                    {"place": asdict(place), "scaler": dict(scaler), "random": plain},
                )
                write_json(aside / _MANIFEST, tree_manifest(aside))
        except StorageError as error:
            good = self._steps()
            last = (
                f"the last good checkpoint is {good[-1][1]}; --resume goes on from it"
                if good
                else ("there is no earlier checkpoint; --resume starts from the beginning")
            )
            raise StorageError(
                error.message, hint=f"free some space or choose another folder; {last}"
            ) from error
        for _, old in self._steps()[: -self._keep]:
            _remove(old)
        return path

    def newest_whole(self) -> Path | None:
        """The newest checkpoint whose files are what its manifest says; torn ones are told, and set aside.

        Raises:
            StorageError: There are checkpoints, and none of them is whole.
        """
        torn: list[tuple[Path, str]] = []
        for _, path in reversed(self._steps()):
            damage = _damage(path)
            if damage is None:
                if torn:
                    console.warn(
                        f"{'; '.join(told for _, told in torn)}. Using the last good one: {path}"
                    )
                for bad, _ in torn:
                    bad.rename(bad.with_name(f"{bad.name}.torn"))
                return path
            torn.append((path, f"checkpoint {path} is torn ({damage})"))
        if torn:
            raise StorageError(
                f"{'; '.join(told for _, told in torn)}: no checkpoint is whole",
                hint="start anew with --run NEW-NAME; nothing was removed",
            )
        return None

    def clear_scratch(self) -> None:
        """Removes what a killed process was still writing."""
        if self.folder.is_dir():
            for left in self.folder.glob(".step-*"):
                _remove(left)

    def _steps(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = ((_NAME.fullmatch(p.name), p) for p in self.folder.iterdir())
        return sorted((int(match[1]), p) for match, p in found if match)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def read_place(checkpoint: Path) -> Place:
    return Place(**read_json(checkpoint / "state.json")["place"])


def restore(checkpoint: Path, *, student: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Fills student and optimizer from a checkpoint, in place, bit for bit.

    Returns:
        The scaler's state; empty without a scaler.
    Raises:
        StorageError: The checkpoint is of another model.
    """
    weights = _read_tensors(checkpoint / "student.safetensors")
    parameters = dict(student.named_parameters())
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in parameters.items()}:
        raise StorageError(
            f"{checkpoint} holds another student: its tensors are not this student's",
            hint="start a run of another name",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _restore_optimizer(student, optimizer, _read_tensors(checkpoint / "optimizer.safetensors"))
    scaler: dict[str, Any] = read_json(checkpoint / "state.json")["scaler"]
    return scaler


# --- optimizer -----------------------------------------------------------------------------------------


def _optimizer_tensors(student: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by `parameter name|entry`. Its settings come from the recipe, its rate from the step."""
    return {
        f"{name}|{entry}": value
        for name, parameter in student.named_parameters()
        for entry, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(
    student: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]
) -> None:
    parameters = dict(student.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.partition("|")
        parameter = parameters[name]
        # A fused optimizer keeps its step count where the parameter is.
        optimizer.state[parameter][entry] = value.to(parameter.device)


# --- random states ---------------------------------------------------------------------------------------


def random_state() -> RandomState:
    """The random states of this process: torch on every device, numpy, Python."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy_state = [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)]
    return RandomState(tensors, {"python": [version, list(words), gauss], "numpy": numpy_state})


def restore_random_state(checkpoint: Path, *, rank: int) -> None:
    """Sets this process's random states; a rank that the checkpoint does not know keeps its own.

    Dropout is seeded by step and micro-batch, so a run may go on with more or fewer processes.
    """
    plain = read_json(checkpoint / "state.json")["random"]
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


def _by_rank(states: list[RandomState]) -> dict[str, Tensor]:
    return {
        f"{rank}.{name}": tensor
        for rank, state in enumerate(states)
        for name, tensor in state.tensors.items()
    }


# --- files ---------------------------------------------------------------------------------------------


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path
        )
    except (
        SafetensorError
    ) as error:  # a full disk, say: safetensors has its own words for what the system says
        raise StorageError(f"cannot write {path.parent.name}: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot read {path}: {error}") from error


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None when they are what the manifest says."""
    try:
        expected = read_json(checkpoint / _MANIFEST)
    except StorageError:
        return f"{_MANIFEST} is missing or no JSON"
    got = {name: digest for name, digest in tree_manifest(checkpoint).items() if name != _MANIFEST}
    for name in sorted(set(expected) | set(got)):
        if name not in got:
            return f"{name} is missing"
        if expected.get(name) != got[name]:
            return f"{name} is not what was written"
    return None


def _remove(folder: Path) -> None:
    """Takes a checkpoint's name away first: a kill half-way must not leave a torn one behind."""
    import shutil

    doomed = folder.with_name(f".{folder.name}.old") if not folder.name.startswith(".") else folder
    with storage_errors(folder):
        folder.rename(doomed)
        shutil.rmtree(doomed)
