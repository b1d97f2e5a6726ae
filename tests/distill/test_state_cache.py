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
from numpy.typing import NDArray

from edgedistil.core.errors import TrainingDiverged
from edgedistil.core.recipe import Recipe
from edgedistil.core.recipe_objective import Objective as Settings
from edgedistil.core.rundir import RunDir
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill import stage
from edgedistil.distill import train as loop
from edgedistil.distill.plan import estimate
from edgedistil.distill.plan import timing as timing_module
from edgedistil.distill.plan.plan import plan
from edgedistil.distill.plan.timing import StepTiming
from edgedistil.distill.representation import compared_layers
from edgedistil.distill.stage import distill
from edgedistil.distill.state_cache import (
    StateCache,
    States,
    claim_folder,
    is_worth_caching,
    states_bytes,
)
from tests.distill.sentences import TRACED, sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]

LENGTHS = np.array([5, 3, 9, 1, 9, 2])
# Two layers of different types and widths.
TOKEN = {1: torch.zeros(1, 1, 3, dtype=torch.bfloat16), 4: torch.zeros(1, 1, 5)}


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
        layer: torch.randn(len(rows), longest, token.shape[2], generator=random).to(token.dtype)
        for layer, token in TOKEN.items()
    }


# --- the file ------------------------------------------------------------------------------------


def computed(rows: list[int], states: States | None = None) -> States:
    """States of rows that no file has."""
    return {layer: values.clone() for layer, values in (states or states_of(rows)).items()}


def refused() -> States:
    raise AssertionError("the rows are in the file")


def test_rows_are_read_as_they_were_computed_in_any_batch(
    tmp_path: Path, store: TokenStore
) -> None:
    cache = StateCache(tmp_path, store, TOKEN)
    first, second = [2, 0, 5], [1, 4, 3]
    for rows in (first, second):
        states = cache.states(np.array(rows), lambda rows=rows: computed(rows))
        # The loop learns from what it computed, padding included.
        assert all(torch.equal(states[layer], states_of(rows)[layer]) for layer in TOKEN)
    # Another process, and another batch: rows of both, the longest last.
    read = StateCache(tmp_path, store, TOKEN).states(np.array([5, 1, 4]), refused)
    assert set(read) == {1, 4}
    for layer, states_BLD in read.items():
        assert states_BLD.dtype == TOKEN[layer].dtype and states_BLD.shape[:2] == (3, 9)
        assert torch.equal(states_BLD[0, :2], states_of(first)[layer][2, :2])
        assert torch.equal(states_BLD[1, :3], states_of(second)[layer][0, :3])
        assert torch.equal(states_BLD[2], states_of(second)[layer][1])
        # Padding is 0, not what the teacher computed there.
        assert not states_BLD[0, 2:].any() and not states_BLD[1, 3:].any()
    assert states_bytes(int(LENGTHS.sum()), TOKEN) == LENGTHS.sum() * (3 * 2 + 5 * 4)
    assert (tmp_path / "states").stat().st_mode & 0o111 == 0


def test_a_row_has_the_states_of_its_first_batch(tmp_path: Path, store: TokenStore) -> None:
    cache = StateCache(tmp_path, store, TOKEN)
    cache.states(np.array([0, 5]), lambda: computed([0, 5]))
    # One new row: the batch is computed again, and the others are as they were.
    mixed = cache.states(np.array([5, 1, 0, 1]), lambda: computed([5, 1, 0, 1]))
    for layer in TOKEN:
        assert torch.equal(mixed[layer][2, :5], states_of([0, 5])[layer][0, :5])
        assert torch.equal(mixed[layer][0, :2], states_of([0, 5])[layer][1, :2])
        assert torch.equal(mixed[layer][1, :3], states_of([5, 1, 0, 1])[layer][1, :3])
        # A small text may have a row twice in a batch.
        assert torch.equal(mixed[layer][3, :3], mixed[layer][1, :3])
    # A killed run that repeats the step learns from the same states.
    again = StateCache(tmp_path, store, TOKEN).states(np.array([5, 1, 0, 1]), refused)
    for layer in TOKEN:
        for index, row in enumerate([5, 1, 0, 1]):
            length = LENGTHS[row]
            assert torch.equal(again[layer][index, :length], mixed[layer][index, :length])


def test_rows_of_no_store_are_computed(tmp_path: Path, store: TokenStore) -> None:
    cache = StateCache(tmp_path, store, TOKEN)
    cache.states(np.array([0]), lambda: computed([0]))
    assert cache.states(np.zeros(0, np.int64), lambda: computed([1, 2]))[1].shape[0] == 2
    # Row 1 is between written ones, and row 4 behind the end of the file.
    cache.states(np.array([2]), lambda: computed([2]))
    for row in (1, 4):
        with pytest.raises(AssertionError, match="the rows are in the file"):
            cache.states(np.array([row]), refused)


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_row_is_computed_again(tmp_path: Path, store: TokenStore, damage: str) -> None:
    cache = StateCache(tmp_path, store, TOKEN)
    rows = [0, 1, 2, 3, 4, 5]
    cache.states(np.array(rows), lambda: computed(rows))
    file = tmp_path / "states"
    data = bytearray(file.read_bytes())
    if damage == "changed":
        data[-1] ^= 1
    else:
        del data[-1]
    file.write_bytes(data)
    cache.states(np.array([0, 4]), refused)
    cache.states(np.array([5, 0]), lambda: computed([5, 0]))
    assert torch.equal(cache.states(np.array([5]), refused)[1][0, :2], states_of([5, 0])[1][0, :2])


def test_states_of_another_type_are_an_error(tmp_path: Path, store: TokenStore) -> None:
    cache = StateCache(tmp_path, store, TOKEN)
    with pytest.raises(TypeError, match="float64; expected"):
        cache.states(
            np.array([0]), lambda: {layer: v.double() for layer, v in states_of([0]).items()}
        )


def test_a_full_disk_gives_its_space_back(
    tmp_path: Path,
    store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "teacher-states"
    folder.mkdir()
    cache = StateCache(folder, store, TOKEN)
    cache.states(np.array([0]), lambda: computed([0]))
    real, places = os.pwrite, []

    def full(file: int, data: bytes, place: int) -> int:
        places.append(place)
        if len(places) == 1:
            return real(file, data[:7], place)  # a part, as a nearly full disk takes it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    states = cache.states(np.array([2, 0]), lambda: computed([2, 0]))
    assert states[1].shape == (2, 9, 3)
    # A checkpoint needs the space more.
    assert not folder.exists()
    cache.states(np.array([3]), lambda: computed([3]))
    assert len(places) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.count("not cached any longer (No space left on device)") == 1


def test_an_unreadable_file_does_not_end_the_run(
    tmp_path: Path,
    store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = StateCache(tmp_path / "teacher-states", store, TOKEN)
    (tmp_path / "teacher-states").mkdir()
    cache.states(np.array([0]), lambda: computed([0]))

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", broken)
    cache.states(np.array([0]), lambda: computed([0]))
    assert "not cached any longer (Input/output error)" in " ".join(capsys.readouterr().err.split())


# --- whether states are cached -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "limit_gib", "device", "expected"),
    [
        (2.0, 1.0, "cpu", True),
        (1.4, 1.0, "cpu", False),
        (2.0, 0.0, "cpu", False),
        (2.0, 1.0, "cuda", False),
    ],
)
def test_one_pass_no_limit_and_gpus_cache_nothing(
    passes: float, limit_gib: float, device: str, expected: bool
) -> None:
    is_worth_it = is_worth_caching(passes, limit_gib=limit_gib, device=torch.device(device))
    assert is_worth_it is expected


def test_a_refused_cache_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, size = tmp_path / "teacher-states", 3 * 2**30

    def claimed(limit_gib: float, free: float) -> str | None:
        """The message if the cache is refused."""
        folder.mkdir(exist_ok=True)
        (folder / "states").write_bytes(b"of an interrupted session")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        is_allowed = claim_folder(folder, size, limit_gib=limit_gib)
        assert folder.exists() is is_allowed
        message = " ".join(capsys.readouterr().err.split())
        return None if is_allowed else message

    assert claimed(3.0, 2 * size) is None
    assert "they would take 3.0 GiB, and train.state_cache_gib is 2.5" in str(
        claimed(2.5, 2 * size)
    )
    assert "the disk has 5.0 GiB for them, of which half may be used" in str(
        claimed(16.0, 5 * 2**30 - 4096)
    )


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
    """Three passes over the text."""

    def recipe(
        limit_gib: float = 16.0,
        precision: str = "float32",
        checkpoint_minutes: float = 10.0,
        **objective: Any,
    ) -> Recipe:
        return sentence_recipe(
            tiny_recipe,
            teacher_folder,
            objective={"layers": 0.5, "similarity": 0.5, **objective},
            train={
                "steps": None,
                "epochs": 3,
                "global_batch": 60,
                "micro_batch": 15,
                "precision": precision,
                "state_cache_gib": limit_gib,
                "checkpoint_minutes": checkpoint_minutes,
            },
        )

    return recipe


@pytest.fixture
def computed_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the batches that the teacher computes in a run with a cache."""
    rows: list[int] = []
    real = StateCache.states

    def states(self: StateCache, rows_B: NDArray[np.int64], compute: Any) -> States:
        def counted() -> States:
            rows.extend(rows_B.tolist())
            result: States = compute()
            return result

        return real(self, rows_B, counted)

    monkeypatch.setattr(StateCache, "states", states)
    return rows


def losses(run: RunDir) -> NDArray[np.float64]:
    entries = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return np.array(
        [[entry[key] for key in TRACED] for entry in entries if entry["kind"] == "train"]
    )


@pytest.mark.parametrize("weights", [{}, {"relations": 1.0, "relation_heads": 4}])
def test_a_run_learns_the_same_from_cached_states(
    make: Make, runs: Path, computed_rows: list[int], weights: dict[str, float]
) -> None:
    cached, record = distill(make(**weights), run_name="cached", resume=False)
    # Hardly any row twice: only batches that reach from one pass into the next.
    assert len(set(computed_rows)) <= len(computed_rows) < 1.2 * len(set(computed_rows))
    assert record.steps * 60 > 2.5 * len(set(computed_rows)) > 0
    straight, _ = distill(make(0.0, **weights), run_name="straight", resume=False)
    assert losses(cached) == pytest.approx(losses(straight), rel=2e-4)
    # Large files go with the last step.
    assert not cached.teacher_states.exists()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("minutes", [1e-9, 1e9])
def test_a_run_killed_in_its_second_pass_is_equal_in_every_bit(
    make: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    computed_rows: list[int],
    precision: str,
    minutes: float,
) -> None:
    recipe = make(precision=precision, checkpoint_minutes=minutes)
    straight, expected = distill(recipe, run_name="straight", resume=False)
    count = len(computed_rows)
    log_step = loop.Trainer._log_step

    def killed(self: loop.Trainer, *args: Any, **keywords: Any) -> None:
        log_step(self, *args, **keywords)
        if self._progress.step == round(0.6 * expected.steps):
            raise RuntimeError("killed")

    monkeypatch.setattr(loop.Trainer, "_log_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        distill(recipe, run_name="cut", resume=False)
    # With a checkpoint of the step before, or with none: all steps are repeated.
    checkpoints = list((runs / "cut" / "checkpoints").glob("step-*"))
    assert bool(checkpoints) is (minutes < 1)
    monkeypatch.setattr(loop.Trainer, "_log_step", log_step)
    resumed, record = distill(recipe, run_name="cut", resume=True)
    assert record.student.weights_sha256 == expected.student.weights_sha256
    assert np.array_equal(losses(resumed), losses(straight))
    # The first session's states were read, not computed again.
    assert len(computed_rows) == 2 * count


def test_a_lower_limit_removes_the_states_of_an_interrupted_session(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, computed_rows: list[int]
) -> None:
    log_step = loop.Trainer._log_step

    def killed(self: loop.Trainer, *args: Any, **keywords: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(loop.Trainer, "_log_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        distill(make(), run_name="cut", resume=False)
    states = RunDir(runs / "cut").teacher_states
    assert (states / "states").stat().st_size > 0

    def looked(self: loop.Trainer, *args: Any, **keywords: Any) -> None:
        assert not states.exists()
        log_step(self, *args, **keywords)

    monkeypatch.setattr(loop.Trainer, "_log_step", looked)
    count = len(computed_rows)
    distill(make(0.0), run_name="cut", resume=True)
    assert len(computed_rows) == count


def test_a_kill_after_the_record_leaves_the_states_to_the_next_resume(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_folder: Path) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(stage, "remove_folder", killed)
    with pytest.raises(RuntimeError, match="killed"):
        distill(make(), run_name="cut", resume=False)
    run = RunDir(runs / "cut")
    assert run.distill.exists() and run.teacher_states.exists()
    monkeypatch.undo()
    monkeypatch.setenv("EDGEDISTIL_RUNS", str(runs))
    distill(make(), run_name="cut", resume=True)
    assert not run.teacher_states.exists()


def test_a_run_that_diverges_removes_its_states(
    make: Make, runs: Path, monkeypatch: pytest.MonkeyPatch, computed_rows: list[int]
) -> None:
    monkeypatch.setattr(loop, "_is_finite", lambda losses, scaled: False)
    with pytest.raises(TrainingDiverged, match="at step 1"):
        distill(make(), run_name=None, resume=False)
    assert computed_rows and (runs / "small" / "diverged").exists()
    assert not RunDir(runs / "small").teacher_states.exists()


def test_a_run_of_one_pass_caches_nothing(
    tiny_recipe: Make, teacher_folder: Path, runs: Path, computed_rows: list[int]
) -> None:
    recipe = sentence_recipe(
        tiny_recipe,
        teacher_folder,
        train={"steps": None, "epochs": 1, "global_batch": 60, "micro_batch": 15},
    )
    run, _ = distill(recipe, run_name=None, resume=False)
    assert not computed_rows and not run.teacher_states.exists()


def test_a_plan_says_that_the_teacher_reads_the_text_once(make: Make, runs: Path) -> None:
    def notes(limit_gib: float) -> str:
        return " ".join(plan(make(limit_gib), max_micro_batch_s=1.0).notes)

    assert "the text is read 3.0 times, by the teacher once if 0.0 GiB" in notes(1.0)
    assert "by the teacher each time" in notes(1e-9) and "train.state_cache_gib is 1e-09" in notes(
        1e-9
    )
    assert "is read 3.0 times" not in notes(0.0)


@pytest.mark.parametrize(
    ("limit_gib", "objective", "micro_batch_s"),
    [
        (16.0, {}, 1.0 - 2 / 3 * 0.6),
        (1e-9, {}, 1.0),
        (0.0, {}, 1.0),
        # Vectors alone are always reused.
        (0.0, {"states": 0.0, "layers": 0.0}, 1.0 - 2 / 3 * 0.6),
    ],
)
def test_a_plan_has_the_teacher_in_the_first_pass_alone(
    make: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit_gib: float,
    objective: dict[str, float],
    micro_batch_s: float,
) -> None:
    def timing(*_: Any, teaching: Any, **__: Any) -> StepTiming:
        teacher_s = 0.0 if teaching is None else 0.6
        return StepTiming(1.0, 0.25, teacher_s, 0.0, peak_bytes=1, rows=15)

    monkeypatch.setattr(estimate, "time_steps", timing)
    planned = plan(make(limit_gib, **objective))
    # Four micro-batches a step.
    expected = planned.tokens / (planned.steps * (4 * micro_batch_s + 0.25))
    assert planned.devices[0].tokens_per_s == pytest.approx(expected, rel=0.02)


@pytest.fixture
def timed_rows(monkeypatch: pytest.MonkeyPatch, runs: Path) -> list[int]:
    """Rows of the batches that a plan times the teacher on."""
    rows: list[int] = []
    real = timing_module._time_teacher

    def counted(teaching: Any, batches: Any, count: int) -> float:
        def one(batch: Any) -> object:
            rows.append(len(batch.input_ids_BL))
            return teaching(batch)

        return real(one, batches, count)

    monkeypatch.setattr(timing_module, "_time_teacher", counted)
    return rows


def test_the_teacher_is_timed_as_a_step_computes_it(timed_rows: list[int], make: Make) -> None:
    planned = plan(make(), max_micro_batch_s=1.0)
    assert isinstance(planned.devices[0].seconds, float) and planned.devices[0].seconds > 0
    # As many rows as the steps have.
    assert set(timed_rows) == {15}
