"""Cells run once, again when an input changed, from the start after a kill, and in parallel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgedistil.core.errors import ModelError, TrainingDiverged
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.scratch import sweep
from edgedistil.evaluate import stage
from edgedistil.evaluate.cells import read_cell
from edgedistil.evaluate.tasks import load_data
from edgedistil.report.evaluation_tables import task_table

WriteTask = Callable[..., Path]
# Scratch folders of the trainer, which show that training has started.
TRAINER = "edgedistil-tmp-trainer-*"


def options(task: Path, *models: str, seeds: int = 1, jobs: int = 1) -> EvaluateOptions:
    return EvaluateOptions(tasks=[str(task)], models=models, seeds=seeds, jobs=jobs)


def times(run: RunDir) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.cells.glob("*/*.json")}


def copy_with_weights(source: Path, folder: Path, *, factor: float) -> Path:
    """Copies a model folder and multiplies its weights."""
    shutil.copytree(source.resolve(), folder)
    path = folder / "model.safetensors"
    tensors = {name: tensor * factor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})
    return folder


# --- up-to-date cells ----------------------------------------------------------------------------


def test_second_evaluation_runs_no_cell(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)
    first = stage.evaluate(run, options(task, "teacher", "student"))
    before = times(run)
    assert set(before) == {"teacher-1.json", "student-1.json"}
    second = stage.evaluate(run, options(task, "teacher", "student"))
    assert times(run) == before
    assert [cell.scores for cell in first.cells] == [cell.scores for cell in second.cells]


def test_only_missing_cells_are_run(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)
    stage.evaluate(run, options(task, "student"))
    before = times(run)
    stage.evaluate(run, options(task, "student", seeds=2))
    after = times(run)
    assert set(after) - set(before) == {"student-2.json"}
    assert after["student-1.json"] == before["student-1.json"]


@pytest.mark.parametrize("change", ["data", "hyper-parameter", "weights", "truncated file"])
def test_changed_input_runs_the_cell_again(
    run: RunDir, own_task: WriteTask, tmp_path: Path, change: str
) -> None:
    task = own_task(epochs=1)
    stage.evaluate(run, options(task, "student"))
    file = run.cells / "opinion" / "student-1.json"
    before = read_cell(file)

    if change == "data":
        with (task.parent / "train.csv").open("a") as data:
            data.write("a fine film,good\n")
    elif change == "hyper-parameter":
        task.write_text(task.read_text().replace("1e-2", "2e-2"))
    elif change == "weights":
        other = copy_with_weights(run.path / "student-step0", tmp_path / "other", factor=1.01)
        (run.path / "student").unlink()
        (run.path / "student").symlink_to(other)
    else:
        file.write_text(file.read_text()[:100])

    load_data.cache_clear()
    stage.evaluate(run, options(task, "student"))
    after = read_cell(file)
    assert (after.key == before.key) is (change == "truncated file")
    assert after.cell.provenance.created_utc >= before.cell.provenance.created_utc


def test_title_and_licence_run_no_cell_again(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)
    stage.evaluate(run, options(task, "student"))
    before = times(run)
    task.write_text('title = "Opinions"\nlicence = "mine"\n' + task.read_text())
    stage.evaluate(run, options(task, "student"))
    assert times(run) == before


# --- soft targets --------------------------------------------------------------------------------


def test_unlabelled_texts_are_an_input_of_cells_with_soft_targets_only(
    run: RunDir, own_task: WriteTask
) -> None:
    task = own_task(epochs=1, extra='[second_distillation]\nunlabelled = "more.txt"\n')
    more = task.parent / "more.txt"
    more.write_text("a dull plot\na bright actor\n")

    def keys() -> dict[str, str]:
        load_data.cache_clear()
        stage.evaluate(run, options(task, "student", "student-d", "student-step0-d"))
        files = (run.cells / "opinion").glob("*.json")
        return {path.stem: read_cell(path).key for path in files}

    before = keys()
    note = task_table(read_record(run.evaluation, EvaluationRecord)).notes[-1]
    assert note.startswith(
        "opinion: student-d, student-step0-d, teacher-d on 2 more texts, without labels"
    )
    soft_targets = {"student-d-1", "student-step0-d-1", "teacher-d-1"}
    same_steps = {"student-same-steps-1"}
    assert set(before) == {"teacher-1", "student-1"} | soft_targets | same_steps
    soft = read_cell(run.cells / "opinion" / "student-d-1.json").cell
    assert (soft.train_examples, soft.hyper_parameters["unlabelled"]) == (64, 2)

    more.write_text("a dull plot\na bright story\n")
    after = keys()
    changed = {name for name in before if before[name] != after[name]}
    # How many texts there are decides the steps of one more model.
    assert changed == soft_targets | same_steps


def test_undistilled_student_may_have_soft_targets(run: RunDir, own_task: WriteTask) -> None:
    """`student-step0-d` starts from the weights of `student-step0`."""
    stage.evaluate(run, options(own_task(epochs=1), "student-step0", "student-step0-d"))
    plain = read_cell(run.cells / "opinion" / "student-step0-1.json")
    soft = read_cell(run.cells / "opinion" / "student-step0-d-1.json")
    assert plain.model_sha256 == soft.model_sha256
    assert soft.cell.hyper_parameters["alpha"] == 0.5


def test_damaged_weights_of_a_cell_are_trained_again(
    run: RunDir, own_task: WriteTask, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher's fine-tuned weights, which a student's soft targets come from."""
    task = own_task(epochs=1)
    stage.evaluate(run, options(task, "student-d"))
    weights = run.cells / "opinion" / "teacher-1" / "model.safetensors"
    intact = weights.read_bytes()
    before = times(run)

    damaged = bytearray(intact)
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    capsys.readouterr()
    stage.evaluate(run, options(task, "student-d"))
    assert "opinion:teacher:1 is trained again" in capsys.readouterr().err
    assert weights.read_bytes() == intact
    after = times(run)
    assert [name for name in before if before[name] != after[name]] == ["teacher-1.json"]


# --- interruptions and failures ------------------------------------------------------------------


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the process ended before it trained"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_cell_leaves_no_file_and_starts_over(run: RunDir, own_task: WriteTask) -> None:
    """A real process, killed while it trains."""
    task = own_task(epochs=400)
    code = (
        "from pathlib import Path\n"
        "from edgedistil.core.options import EvaluateOptions\n"
        "from edgedistil.core.rundir import RunDir\n"
        "from edgedistil.evaluate import stage\n"
        f"options = EvaluateOptions(tasks=[{str(task)!r}], models=['student'], seeds=1)\n"
        f"stage.evaluate(RunDir(Path({str(run.path)!r})), options)"
    )
    # The trainer's scratch folder shows that training has started.
    scratch = task.parent / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True)
    try:
        _wait_for(lambda: any(scratch.glob(TRAINER)), process)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    file = run.cells / "opinion" / "student-1.json"
    assert not file.exists()
    task.write_text(task.read_text().replace("epochs = 400", "epochs = 1"))
    stage.evaluate(run, options(task, "student"))
    assert json.loads(file.read_text())["cell"]["seed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_the_workers_at_once(
    run: RunDir, own_task: WriteTask, number: signal.Signals
) -> None:
    """No worker continues, and no partial file and no scratch folder remains."""
    import psutil

    task = own_task(epochs=4000)
    scratch = task.parent / "tmp"
    scratch.mkdir()
    program = Path(sys.executable).with_name("edgedistil")
    arguments = f"evaluate --run tiny --task {task} --model student --seeds 2 --jobs 2"
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "EDGEDISTIL_RUNS": str(run.path.parent),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [str(program), *arguments.split()], env=environment, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: len(list(scratch.glob(TRAINER))) == 2, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGTERM else -number), errors
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert list(run.cells.rglob("*.json")) == []
    # A killed command cannot remove its folders, but the next one can.
    if number == signal.SIGKILL:
        sweep(scratch)
    assert list(scratch.glob("edgedistil-*")) == []


def test_parallel_cells_equal_sequential_ones(run: RunDir, own_task: WriteTask) -> None:
    task = own_task(epochs=1)

    def results(jobs: int) -> dict[str, tuple[str, dict[str, float]]]:
        stage.evaluate(run, options(task, "student", seeds=2, jobs=jobs))
        files = {path.name: read_cell(path) for path in run.cells.glob("*/*.json")}
        for path in run.cells.glob("*/*.json"):
            path.unlink()
        return {name: (file.key, file.cell.scores) for name, file in files.items()}

    sequential = results(jobs=1)
    assert len(sequential) == 2
    assert results(jobs=2) == sequential


def test_failing_cell_does_not_stop_the_others(
    run: RunDir, own_task: WriteTask, tmp_path: Path
) -> None:
    """Weights whose squares overflow fail; the next cell is run and its file stays."""
    folder = copy_with_weights(run.student, tmp_path / "large", factor=1e20)
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1"):
        stage.evaluate(run, options(own_task(epochs=1), str(folder), "student"))
    assert set(times(run)) == {"student-1.json"}


def test_weights_that_can_execute_code_are_not_loaded(
    run: RunDir, own_task: WriteTask, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((run.student / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="no weights in safetensors"):
        stage.evaluate(run, options(own_task(), str(folder)))
