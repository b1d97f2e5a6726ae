"""States of the teacher that are kept from one pass over the text to the next."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.errors import Interrupted
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_objective import Objective as Settings
from edgedistil.core.rundir import RunDir
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill import representation
from edgedistil.distill import train as loop
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.representation import compared_layers
from edgedistil.distill.stage import distill
from edgedistil.distill.state_cache import STATES_FOLDER, StateCache, open_state_cache, pays
from tests.distill.sentences import TRACED, sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]

LENGTHS = np.array([5, 3, 9, 1, 9, 2])
# Two layers of different types and widths.
LIKE = {1: torch.zeros(1, 1, 3, dtype=torch.bfloat16), 4: torch.zeros(1, 1, 5)}


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    writer = StoreWriter(tmp_path / "store", vocabulary=100, row_length=None)
    writer.append(np.arange(LENGTHS.sum(), dtype=np.uint16), LENGTHS)
    writer.close()
    return TokenStore(tmp_path / "store")


def states_of(rows: list[int]) -> dict[int, torch.Tensor]:
    """States of rows, with noise where they are padded."""
    longest = int(LENGTHS[rows].max())
    random = torch.Generator().manual_seed(sum(rows))
    return {
        layer: torch.randn(len(rows), longest, like.shape[2], generator=random).to(like.dtype)
        for layer, like in LIKE.items()
    }


def attended(rows: list[int], states_BLD: torch.Tensor) -> torch.Tensor:
    parts = [states_BLD[index, : LENGTHS[row]] for index, row in enumerate(rows)]
    return torch.cat(parts)


# --- the file ------------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written_in_any_batch(tmp_path: Path, store: TokenStore) -> None:
    cache = StateCache(tmp_path, store, LIKE)
    first, second = [2, 0, 5], [1, 4, 3]
    written = {tuple(rows): states_of(rows) for rows in (first, second)}
    for rows, states in written.items():
        cache.write(np.array(rows), states)
    # Another process, and another batch: rows of both, the longest last.
    read = StateCache(tmp_path, store, LIKE).read(np.array([5, 1, 4]))
    assert read is not None and set(read) == {1, 4}
    for layer, states_BLD in read.items():
        assert states_BLD.dtype == LIKE[layer].dtype and states_BLD.shape[:2] == (3, 9)
        assert torch.equal(states_BLD[0, :2], written[(2, 0, 5)][layer][2, :2])
        assert torch.equal(states_BLD[1, :3], written[(1, 4, 3)][layer][0, :3])
        assert torch.equal(states_BLD[2], written[(1, 4, 3)][layer][1])
        # Padding is 0, not what the teacher computed there.
        assert not states_BLD[0, 2:].any() and not states_BLD[1, 3:].any()
    assert cache.size_bytes == LENGTHS.sum() * (3 * 2 + 5 * 4)


def test_a_row_that_was_not_written_is_not_read(tmp_path: Path, store: TokenStore) -> None:
    cache = StateCache(tmp_path, store, LIKE)
    assert cache.read(np.array([0])) is None
    cache.write(np.array([0, 5]), states_of([0, 5]))
    assert cache.read(np.array([0, 5])) is not None
    # Row 1 is between them; row 4 is beyond the end of the file.
    assert cache.read(np.array([0, 1])) is None
    assert cache.read(np.array([4])) is None


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_row_is_computed_again(tmp_path: Path, store: TokenStore, damage: str) -> None:
    cache = StateCache(tmp_path, store, LIKE)
    cache.write(np.arange(6), states_of([0, 1, 2, 3, 4, 5]))
    file = tmp_path / "states"
    data = bytearray(file.read_bytes())
    if damage == "changed":
        data[-1] ^= 1
    else:
        del data[-1]
    file.write_bytes(data)
    assert cache.read(np.array([5])) is None
    assert cache.read(np.array([0, 4])) is not None


def test_a_full_disk_warns_once_and_stops_keeping(
    tmp_path: Path,
    store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = StateCache(tmp_path, store, LIKE)
    cache.write(np.array([0]), states_of([0]))
    real, calls = os.pwrite, []

    def full(file: int, data: bytes, place: int) -> int:
        calls.append(place)
        if len(calls) == 1:
            return real(file, data[:7], place)  # a part, as a nearly full disk takes it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    cache.write(np.array([2]), states_of([2]))
    cache.write(np.array([3]), states_of([3]))
    assert len(calls) == 2
    message = capsys.readouterr().err
    assert message.count("not kept any longer (No space left on device)") == 1
    assert cache.read(np.array([2])) is None and cache.read(np.array([0])) is not None


# --- whether states are kept ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "limit_gib", "device", "expected"),
    [
        (2.0, 1.0, "cpu", True),
        (1.4, 1.0, "cpu", False),
        (2.0, 0.0, "cpu", False),
        (2.0, 1.0, "cuda", False),
    ],
)
def test_one_pass_no_limit_and_gpus_keep_nothing(
    passes: float, limit_gib: float, device: str, expected: bool
) -> None:
    assert pays(passes, limit_gib=limit_gib, device=torch.device(device)) is expected


def test_limit_and_free_disk_are_respected(
    tmp_path: Path,
    store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = int(LENGTHS.sum()) * 26

    def opened(limit_gib: float, free: int) -> StateCache | None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        return open_state_cache(tmp_path / "states", store, LIKE, limit_gib=limit_gib)

    assert opened(size / 2**30, 2 * size) is not None
    assert "kept in a file of 0.0 GiB" in capsys.readouterr().err
    assert opened((size - 1) / 2**30, 2 * size) is None
    assert "train.state_cache_gib is 7.0" in capsys.readouterr().err
    assert opened(1.0, 2 * size - 2) is None
    assert "more than half of the 0.0 GiB that are free" in capsys.readouterr().err


def test_compared_layers_are_those_that_losses_read() -> None:
    student, teacher = (
        SimpleNamespace(config=SimpleNamespace(num_hidden_layers=depth)) for depth in (3, 6)
    )
    settings = {"states": 1.0, "layers": 0.0, "relations": 0.0}
    expected = {(): [6], ("layers",): [2, 4, 6], ("relations",): [5, 6]}
    expected[("layers", "relations")] = [2, 4, 5, 6]
    objective = Settings(vector=0.0, states=0.0, relations=1.0)
    # MiniLMv2's relations alone need no states behind the last layer.
    assert compared_layers(objective, student, teacher) == [5]  # type: ignore[arg-type]
    for names, layers in expected.items():
        objective = Settings(**{**settings, **dict.fromkeys(names, 1.0)})  # type: ignore[arg-type]
        assert compared_layers(objective, student, teacher) == layers  # type: ignore[arg-type]


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher_folder(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_teacher(tiny_teacher, tmp_path_factory.mktemp("sentences") / "teacher")


@pytest.fixture
def make(tiny_recipe: Make, teacher_folder: Path) -> Make:
    """Three passes over the text, in float32."""

    def recipe(limit_gib: float = 16.0, **objective: Any) -> Recipe:
        return sentence_recipe(
            tiny_recipe,
            teacher_folder,
            objective={"layers": 0.5, "similarity": 0.5, **objective},
            train={
                "steps": None,
                "epochs": 3,
                "global_batch": 60,
                "micro_batch": 15,
                "precision": "float32",
                "state_cache_gib": limit_gib,
                "checkpoint_minutes": 1e-9,
            },
        )

    return recipe


@pytest.fixture
def read_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that the teacher reads while a run trains, as their number in each pass."""
    rows: list[int] = []
    real = StateCache.write

    def write(self: StateCache, rows_B: np.ndarray[Any, Any], states: Any) -> None:
        rows.extend(rows_B.tolist())
        real(self, rows_B, states)

    monkeypatch.setattr(StateCache, "write", write)
    return rows


def losses(run: RunDir) -> np.ndarray[Any, Any]:
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return np.array(
        [[entry[key] for key in TRACED] for entry in entries if entry["kind"] == "train"]
    )


def test_a_run_learns_the_same_from_state_cache(
    make: Make, runs: Path, read_rows: list[int]
) -> None:
    cached, record = distill(make(), run_name="cached", resume=False)
    assert isinstance(record, DistillRecord)
    # Hardly any row twice: only batches that reach from one pass into the next are read again.
    assert len(read_rows) < 1.2 * len(set(read_rows))
    assert record.steps * 60 > 2.5 * len(set(read_rows))
    computed, _ = distill(make(0.0), run_name="computed", resume=False)
    assert losses(cached) == pytest.approx(losses(computed), rel=2e-3)
    # Large files go with the last step.
    assert not (cached.path / STATES_FOLDER).exists()


def test_relations_are_learned_from_state_cache(
    make: Make, runs: Path, read_rows: list[int]
) -> None:
    weights = {"relations": 1.0, "relation_heads": 4}
    cached, _ = distill(make(**weights), run_name="cached", resume=False)
    assert read_rows
    computed, _ = distill(make(0.0, **weights), run_name="computed", resume=False)
    assert losses(cached) == pytest.approx(losses(computed), rel=2e-3)


def test_a_run_resumed_in_its_second_pass_is_equal_in_every_bit(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, read_rows: list[int]
) -> None:
    straight, expected = distill(make(), run_name="straight", resume=False)
    before = len(read_rows)
    stop_at = loop.Trainer._log_step

    def interrupted(self: loop.Trainer, *args: Any, **keywords: Any) -> None:
        stop_at(self, *args, **keywords)
        if self._progress.step == expected.steps // 2:
            raise Interrupted("stop")

    monkeypatch.setattr(loop.Trainer, "_log_step", interrupted)
    with pytest.raises(Interrupted):
        distill(make(), run_name="cut", resume=False)
    monkeypatch.setattr(loop.Trainer, "_log_step", stop_at)
    resumed, record = distill(make(), run_name="cut", resume=True)
    assert record.student.weights_sha256 == expected.student.weights_sha256
    assert np.array_equal(losses(resumed), losses(straight))
    # The first session's states were used, not computed again.
    assert len(read_rows) == 2 * before


def test_a_run_of_one_pass_keeps_nothing(
    tiny_recipe: Make, teacher_folder: Path, runs: Path, read_rows: list[int]
) -> None:
    recipe = sentence_recipe(
        tiny_recipe,
        teacher_folder,
        train={"steps": None, "epochs": 1, "global_batch": 60, "micro_batch": 15},
    )
    run, _ = distill(recipe, run_name=None, resume=False)
    assert not read_rows and not (run.path / STATES_FOLDER).exists()


def test_a_plan_says_that_the_teacher_reads_the_text_once(make: Make, runs: Path) -> None:
    notes = " ".join(plan(make(), max_micro_batch_s=1.0).notes)
    assert "the text is read 3.0 times" in notes
    assert "reads it once" not in " ".join(plan(make(0.0), max_micro_batch_s=1.0).notes)
    assert representation.reads_states(make().objective)
