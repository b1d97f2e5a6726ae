"""The training loop: means, processes, divergence, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedistil.core.errors import Interrupted, TrainingDiverged
from edgedistil.core.recipe import Recipe, write_recipe
from edgedistil.core.rundir import RunDir
from edgedistil.distill import mlm_objective
from edgedistil.distill import train as loop
from edgedistil.distill.stage import distill
from tests.distill.sentences import sentence_recipe, sentence_teacher

Make = Callable[..., Recipe]
TRACED = (
    "step",
    "loss",
    "soft_target",
    "mlm",
    "cosine",
    "gradient_norm",
    "learning_rate",
    "tokens",
)


def trace(run: RunDir, keys: Sequence[str] = TRACED) -> list[list[Any]]:
    """The figures of each step that do not depend on the machine's speed."""
    steps = []
    for line in run.metrics.read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train":
            steps.append([entry[key] for key in keys])
    return steps


def test_losses_fall(tiny_recipe: Make, runs: Path) -> None:
    recipe = tiny_recipe(train={"steps": 60, "learning_rate": 5e-3, "evaluate_every": 60})
    run, record = distill(recipe, run_name=None, resume=False)
    losses = [entry[1] for entry in trace(run)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    teacher, before, after = record.heldout
    assert (teacher.agreement, teacher.kl_nats) == (1.0, 0.0)
    assert after.kl_nats < 0.5 * before.kl_nats  # type: ignore[operator]


def test_a_run_does_not_take_the_precision_of_an_earlier_stage(
    tiny_recipe: Make, runs: Path
) -> None:
    """Ablations fine-tune and distil in one process, and a Trainer sets its precision globally."""
    from accelerate import Accelerator

    Accelerator(cpu=True, mixed_precision="bf16")
    _, record = distill(tiny_recipe(train={"steps": 1}), run_name=None, resume=False)
    assert record.precision == "float32"


def test_accumulation_is_one_mean_over_the_tokens_of_a_step(tiny_recipe: Make, runs: Path) -> None:
    """Rows of unequal length: a mean of micro-batch means would differ."""
    layout = {"corpus": {"layout": "lines"}, "student": {"dropout": 0.0}}
    single, _ = distill(
        tiny_recipe(**layout, train={"micro_batch": 6}), run_name="single", resume=False
    )
    parts, _ = distill(
        tiny_recipe(**layout, train={"micro_batch": 1}), run_name="parts", resume=False
    )
    np.testing.assert_allclose(trace(parts), trace(single), rtol=1e-4)
    means, _ = distill(
        tiny_recipe(**layout, train={"micro_batch": 1}, loss={"mean": "micro-batch"}),
        run_name="means",
        resume=False,
    )
    assert not np.allclose(trace(means), trace(single), rtol=1e-4)


def torchrun(
    processes: int, arguments: list[str], folder: Path, runs: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            *arguments,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "EDGEDISTIL_RUNS": str(runs)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


COUNTING = """
import sys
import torch
from torch.profiler import ProfilerActivity, profile
from edgedistil.distill.stage import distill
from edgedistil.core.recipe import load_recipe

# Once: a second rendezvous in one process finds the addresses of the first.
torch.distributed.init_process_group("gloo")
for name in sys.argv[1:]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        distill(load_recipe(f"{name}.toml"), run_name=name, resume=False)
    events = [event for event in profiled.key_averages() if event.key == "gloo:all_reduce"]
    reduces = sum(event.count for event in events)
    print("REDUCES", name, reduces, flush=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(tiny_recipe: Make, runs: Path, tmp_path: Path) -> None:
    """The same order, masks, dropout and means; the number of all-reduces ignores accumulation."""
    settings = {"steps": 5, "global_batch": 12, "evaluate_every": 5}
    few = tiny_recipe(train={**settings, "micro_batch": 3})
    many = tiny_recipe(train={**settings, "micro_batch": 1})
    one_few, alone = distill(few, run_name="one-few", resume=False)
    one_many, _ = distill(many, run_name="one-many", resume=False)
    write_recipe(tmp_path / "two-few.toml", few)
    write_recipe(tmp_path / "two-many.toml", many)
    (tmp_path / "counting.py").write_text(COUNTING)
    done = torchrun(2, ["counting.py", "two-few", "two-many"], tmp_path, runs)
    assert done.returncode == 0, done.stderr
    for one, two in ((one_few, "two-few"), (one_many, "two-many")):
        np.testing.assert_allclose(trace(RunDir(runs / two)), trace(one), rtol=1e-4)
    figures = json.loads(RunDir(runs / "two-few").distill.read_text())
    assert figures["processes"] == 2
    assert figures["heldout"][2]["mlm_loss_nats"] == pytest.approx(
        alone.heldout[2].mlm_loss_nats, rel=1e-4
    )
    assert figures["heldout"][2]["masked_tokens"] == alone.heldout[2].masked_tokens
    counted = {
        line.split()[1]: int(line.split()[2])
        for line in done.stdout.splitlines()
        if line.startswith("REDUCES")
    }
    assert counted["two-few"] == counted["two-many"] > 0


@pytest.mark.slow
def test_two_processes_learn_vectors_as_one_does(
    tiny_recipe: Make, tiny_teacher: Path, tiny_text: Path, runs: Path, tmp_path: Path
) -> None:
    """All losses over three passes of states from the cache, and relations alone."""
    folder = sentence_teacher(tiny_teacher, tmp_path / "sentences")
    text = tmp_path / "short.txt"
    text.write_text("".join(tiny_text.read_text().splitlines(keepends=True)[:60]))
    relations = {"relations": 1.0, "relation_heads": 7}
    losses = {"vector": 1.0, "similarity": 1.0, "states": 1.0, "layers": 1.0}
    objectives = {
        "all": {**losses, **relations},
        "relations": {**dict.fromkeys(losses, 0.0), **relations},
    }
    alone = {}
    for name, objective in objectives.items():
        recipe = sentence_recipe(
            tiny_recipe,
            folder,
            student={"dropout": 0.1},
            corpus={"sources": [{"files": str(text)}], "heldout_share": 0.3},
            objective=objective,
            train={"steps": None, "epochs": 3, "global_batch": 12, "micro_batch": 3},
        )
        alone[name], _ = distill(recipe, run_name=f"one-{name}", resume=False)
        write_recipe(tmp_path / f"two-{name}.toml", recipe)
    (tmp_path / "counting.py").write_text(COUNTING)
    done = torchrun(2, ["counting.py", *(f"two-{name}" for name in objectives)], tmp_path, runs)
    assert done.returncode == 0, done.stderr
    for name, objective in objectives.items():
        keys = ("step", "loss", "gradient_norm", "tokens")
        keys += tuple(loss for loss in (*losses, "relations") if objective[loss] > 0)
        together = RunDir(runs / f"two-{name}")
        np.testing.assert_allclose(trace(together, keys), trace(alone[name], keys), rtol=1e-4)
        assert json.loads(together.distill.read_text())["processes"] == 2
        assert not together.teacher_states.exists()


def test_divergence_stops_at_its_step_and_saves_the_batch(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = mlm_objective.distillation_loss
    calls = 0

    def poisoned(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = original(*args, **keywords)
        if calls == 6:  # the second micro-batch of the third step
            return type(loss)(
                loss.total * torch.nan,
                loss.soft_target_sum,
                loss.mlm_sum * torch.nan,
                loss.cosine_sum,
            )
        return loss

    monkeypatch.setattr(mlm_objective, "distillation_loss", poisoned)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 3 .*MLM nan") as caught:
        distill(tiny_recipe(train={"evaluate_every": 99}), run_name=None, resume=False)
    assert caught.value.exit_code == 1
    run = RunDir(runs / "small")
    assert [entry[0] for entry in trace(run)] == [1, 2]
    with np.load(run.path / "diverged" / "step-00000003.rank-0.npz") as saved:
        assert sorted(saved.files) == ["input_ids_1", "labels_1"]
        assert saved["input_ids_1"].shape == saved["labels_1"].shape == (3, 23)


def test_a_gradient_that_is_not_finite_saves_all_micro_batches(
    tiny_recipe: Make, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_is_finite", lambda losses, scaled: False)
    with pytest.raises(TrainingDiverged, match=r"at step 1 .*gradient norm"):
        distill(tiny_recipe(), run_name=None, resume=False)
    with np.load(runs / "small" / "diverged" / "step-00000001.rank-0.npz") as saved:
        assert sorted(saved.files) == ["input_ids_0", "input_ids_1", "labels_0", "labels_1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_prints_the_command_to_resume(
    tiny_recipe: Make, runs: Path, number: int
) -> None:
    recipe = tiny_recipe(train={"steps": 5000, "evaluate_every": 5000})
    run = RunDir(runs / "small")

    def interrupt() -> None:
        while not run.metrics.exists() or len(run.metrics.read_text().splitlines()) < 6:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(Interrupted, match=r"interrupted after step \d+ of 5000") as caught:
        distill(recipe, run_name=None, resume=False)
    sender.join()
    assert caught.value.exit_code == 130
    assert caught.value.hint == f"resume with: edgedistil distill {run.recipe} --run small --resume"
    last = trace(run)[-1][0]
    assert [p.name for p in run.checkpoints.iterdir()] == [f"step-{last:08d}"]
