"""`auto` tries both precisions, takes the faster one, and a run keeps what it took."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgedistil.core.distill_records import PrecisionRecord
from edgedistil.core.recipe import Recipe
from edgedistil.core.records import read_record
from edgedistil.distill import precision_trial, stage
from edgedistil.distill.mlm_objective import MlmObjective
from edgedistil.distill.plan.timing import TimedObjective
from edgedistil.distill.precision_trial import TriedShape, faster, try_precisions
from edgedistil.distill.setup import build_student
from edgedistil.distill.stage import PRECISION_FILE, distill
from edgedistil.models.teacher import read_teacher
from tests.distill.sentences import sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _short_trials_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bfloat16 is as good here as a native one."""
    monkeypatch.setattr(stage, "has_choice", lambda device: True)
    monkeypatch.setattr(precision_trial, "_SECONDS", 0.0)


def refuse(*_arguments: Any, **_settings: Any) -> Any:
    raise AssertionError("no precision was to be timed")


def test_a_trial_times_both_and_changes_nothing(tiny_recipe: Make, tiny_teacher: Path) -> None:
    recipe = tiny_recipe()
    teacher = read_teacher(tiny_teacher, name="tiny").model
    student = build_student(recipe.student, teacher, seed=3).eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    random_state = torch.get_rng_state()
    built = []

    def build(precision: str) -> TimedObjective:
        built.append(precision)
        return TimedObjective(MlmObjective(student, teacher, recipe.loss))

    seconds = try_precisions(build, TriedShape(6, 23, 0.15), seconds=0.0)
    assert set(seconds) == set(built) == {"bfloat16", "float32"}
    assert all(took > 0 for took in seconds.values())
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not student.training
    assert all(parameter.grad is None for parameter in student.parameters())


def test_a_pass_has_about_1024_tokens_of_at_most_a_micro_batch() -> None:
    assert [TriedShape(32, length, 0.15).rows for length in (16, 128, 512)] == [32, 8, 3]
    assert TriedShape(2, 512, 0.15).rows == 2


def test_the_shorter_time_wins() -> None:
    assert faster({"bfloat16": 0.2, "float32": 0.3}) == "bfloat16"
    assert faster({"bfloat16": 0.3, "float32": 0.2}) == "float32"


def test_a_gpu_and_a_processor_without_bfloat16_have_no_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for native, expected in ((True, True), (False, False)):
        monkeypatch.setattr(precision_trial, "bfloat16_is_native", lambda device, n=native: n)
        assert precision_trial.has_choice(CPU) is expected
        assert not precision_trial.has_choice(torch.device("cuda"))


@pytest.mark.parametrize("fastest", ["bfloat16", "float32"])
def test_a_run_takes_the_faster_precision_and_keeps_it(
    fastest: str,
    tiny_recipe: Make,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = {name: 0.012 if name == fastest else 0.034 for name in ("bfloat16", "float32")}
    monkeypatch.setattr(stage, "try_precisions", lambda build, shape: seconds)
    recipe = tiny_recipe(train={"steps": 2, "precision": "auto"})
    run, record = distill(recipe, run_name=None, resume=False)
    assert record.precision == fastest
    assert f"precision {fastest}: a pass of 3 × 23 tokens takes" in capsys.readouterr().err
    assert read_record(run.path / PRECISION_FILE, PrecisionRecord).seconds == seconds

    # As if it had been killed before the record was written, and went on on another machine.
    run.distill.unlink()
    monkeypatch.setattr(stage, "try_precisions", refuse)
    monkeypatch.setattr(stage, "has_choice", lambda device: False)
    monkeypatch.setattr(stage, "resolve_precision", refuse)
    _, resumed = distill(recipe, run_name=None, resume=True)
    assert resumed.precision == fastest


def test_a_real_trial_of_sentence_vectors(
    tiny_recipe: Make, tiny_teacher: Path, tmp_path: Path, runs: Path
) -> None:
    recipe = sentence_recipe(
        tiny_recipe,
        sentence_teacher(tiny_teacher, tmp_path / "teacher"),
        train={"steps": 2, "precision": "auto"},
    )
    run, record = distill(recipe, run_name=None, resume=False)
    tried = read_record(run.path / PRECISION_FILE, PrecisionRecord)
    assert record.precision == tried.precision == faster(tried.seconds)
    # A run whose precision is given has the same trace: a trial leaves no mark.
    same_train = recipe.train.model_copy(update={"precision": tried.precision})
    explicit = recipe.model_copy(update={"train": same_train})
    other, _ = distill(explicit, run_name="given", resume=False)
    traces = [_losses(run.metrics), _losses(other.metrics)]
    assert len(traces[0]) == 2
    assert traces[0] == traces[1]
    assert not (other.path / PRECISION_FILE).exists()


def _losses(metrics: Path) -> list[tuple[float, float]]:
    entries = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [entry for entry in entries if entry["kind"] == "train"]
    return [(step["loss"], step["gradient_norm"]) for step in steps]


def test_an_explicit_precision_is_never_timed(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "try_precisions", refuse)
    run, record = distill(tiny_recipe(train={"steps": 2}), run_name=None, resume=False)
    assert record.precision == "float32"
    assert not (run.path / PRECISION_FILE).exists()


def test_a_run_from_before_there_were_trials_keeps_its_precision(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "try_precisions", lambda build, shape: {"float32": 0.1})
    monkeypatch.setattr(stage, "resolve_precision", lambda requested, device: "float32")
    recipe = tiny_recipe(train={"steps": 2, "precision": "auto"})
    run, _ = distill(recipe, run_name=None, resume=False)
    run.distill.unlink()
    (run.path / PRECISION_FILE).unlink()
    monkeypatch.setattr(stage, "try_precisions", refuse)
    assert distill(recipe, run_name=None, resume=True)[1].precision == "float32"
