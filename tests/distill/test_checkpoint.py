"""Checkpoints: restored bit for bit, written completely or not at all, verified when read."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedistil.core.errors import StorageError
from edgedistil.distill.checkpoint import (
    Checkpoints,
    TrainingProgress,
    random_state,
    read_progress,
    restore,
    restore_random_state,
    step_of,
)


def progress(step: int) -> TrainingProgress:
    return TrainingProgress(step=step, tokens_seen=13 * step, seconds=1.5, precision="float32")


def model_and_optimizer(seed: int = 5) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Linear(7, 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(3):
        model(torch.randn(2, 7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(checkpoints: Checkpoints, step: int) -> Path:
    model, optimizer = model_and_optimizer(step)
    return checkpoints.save(
        progress(step),
        student=model,
        optimizer=optimizer,
        scaler={"scale": 8.0},
        random_states=[random_state()],
    )


def test_a_checkpoint_is_restored_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    states = [random_state()]
    path = Checkpoints(tmp_path, keep=1).save(
        progress(3), student=model, optimizer=optimizer, scaler={"scale": 8.0}, random_states=states
    )
    drawn = torch.rand(3), np.random.rand(3), random.random()
    other, other_optimizer = model_and_optimizer(seed=11)
    assert restore(path, student=other, optimizer=other_optimizer) == {"scale": 8.0}
    restore_random_state(path, rank=0)
    again = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(drawn[0], again[0])
    assert np.array_equal(drawn[1], again[1])
    assert drawn[2] == again[2]
    assert read_progress(path) == progress(3)
    for one, two in ((model, other), (optimizer, other_optimizer)):
        flat_one, flat_two = (torch.utils._pytree.tree_leaves(x.state_dict()) for x in (one, two))
        for a, b in zip(flat_one, flat_two, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    for trained, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        trained(torch.ones(2, 7)).square().sum().backward()
        its_optimizer.step()
    assert torch.equal(model.weight, other.weight)


def test_only_the_newest_checkpoints_remain(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 10, 9):
        save(checkpoints, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000009", "step-00000010"]


def test_a_corrupt_checkpoint_is_reported_and_the_one_before_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    good, corrupt = save(checkpoints, 4), save(checkpoints, 5)
    weights = corrupt / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"zero")
    assert checkpoints.newest_intact() == good
    warning = capsys.readouterr().err
    problem = "(student.safetensors does not match its sha256)"
    assert f"checkpoint {corrupt} is corrupt {problem}" in warning
    assert f"Using the last good one: {good}" in warning
    assert step_of(good) == 4
    assert not corrupt.exists()
    assert corrupt.with_name("step-00000005.corrupt").exists()


@pytest.mark.parametrize("damage", ["manifest.json", "optimizer.safetensors"])
def test_a_checkpoint_with_a_missing_file_is_corrupt(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    (save(checkpoints, 5) / damage).unlink()
    with pytest.raises(
        StorageError,
        match=rf"step-00000005 is corrupt \({damage} is missing.*all checkpoints are corrupt",
    ):
        checkpoints.newest_intact()
    with pytest.raises(StorageError):  # asking again changes nothing
        checkpoints.newest_intact()


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", keep=2).newest_intact() is None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files may not grow beyond `size`, which has the effect of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_names_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = save(checkpoints, 4)
    with largest_file(100), pytest.raises(StorageError) as caught:
        save(checkpoints, 5)
    assert str(caught.value).startswith("cannot write ")
    assert "step-00000005" in caught.value.message
    assert f"the last good checkpoint is {good}; --resume continues from it" in (
        caught.value.hint or ""
    )
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]
    assert checkpoints.newest_intact() == good


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(
        StorageError, match=r"(?s)cannot write .*step-00000004.*no earlier checkpoint exists"
    ):
        save(Checkpoints(tmp_path / "checkpoints", keep=1), 4)


def test_a_checkpoint_of_another_student_is_rejected(tmp_path: Path) -> None:
    path = save(Checkpoints(tmp_path, keep=1), 4)
    other = nn.Linear(7, 3)
    with pytest.raises(StorageError, match="is of another student"):
        restore(path, student=other, optimizer=torch.optim.AdamW(other.parameters()))


def test_reading_runs_no_code(tmp_path: Path) -> None:
    path = save(Checkpoints(tmp_path, keep=1), 4)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}
    assert set(json.loads((path / "manifest.json").read_text())) == {
        "student.safetensors",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
    }
