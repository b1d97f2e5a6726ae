"""Cells: a file each, done once, done again when an input changes, begun anew after a kill, run beside each other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import cells, stage
from edgedistil.evaluate.cells import parse_cell, read_cell
from edgedistil.report.evaluation_tables import task_table


def times(run: RunDir) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.cells.glob("*/*.json")}


def test_cell_is_taken_apart():
    assert parse_cell("sst2:student:3") == ("sst2", "student", 3)
    assert parse_cell("a/b.toml:x:y:3") == ("a/b.toml", "x:y", 3)


@pytest.mark.parametrize("text", ["sst2", "sst2:student", "sst2:student:x", ":student:1", "a::1"])
def test_other_forms_of_a_cell_are_refused(text):
    with pytest.raises(InputError, match="expected TASK:MODEL:SEED"):
        parse_cell(text)


def test_second_evaluation_runs_no_cell(run, own_task):
    task = str(own_task(epochs=1))
    first = stage.evaluate(run, tasks=[task], models=["teacher", "student"], seeds=1)
    before = times(run)
    assert set(before) == {"teacher-1.json", "student-1.json"}
    second = stage.evaluate(run, tasks=[task], models=["teacher", "student"], seeds=1)
    assert times(run) == before
    assert [cell.scores for cell in first.cells] == [cell.scores for cell in second.cells]


def test_only_what_is_missing_is_run(run, own_task):
    task = str(own_task(epochs=1))
    stage.evaluate(run, tasks=[task], models=["student"], seeds=1)
    before = times(run)
    stage.evaluate(run, tasks=[task], models=["student"], seeds=2)
    after = times(run)
    assert set(after) - set(before) == {"student-2.json"}
    assert after["student-1.json"] == before["student-1.json"]


@pytest.mark.parametrize("what", ["data", "hyper-parameter", "weights", "torn file"])
def test_changed_input_runs_the_cell_again(run, own_task, tmp_path, what):
    task = own_task(epochs=1)
    stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    file = run.cells / "opinion" / "student-1.json"
    before = read_cell(file)
    if what == "data":
        with (task.parent / "train.csv").open("a") as data:
            data.write("a fine film,good\n")
    elif what == "hyper-parameter":
        task.write_text(task.read_text().replace("1e-2", "2e-2"))
    elif what == "weights":
        (run.path / "student").unlink()
        (run.path / "student").symlink_to(
            _changed_weights(run.path / "student-step0", tmp_path / "other")
        )
    else:
        file.write_text(file.read_text()[:100])
    from edgedistil.evaluate.tasks import load_data

    load_data.cache_clear()
    stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    after = read_cell(file)
    assert (after.key == before.key) is (what == "torn file")
    assert after.cell.provenance.created_utc >= before.cell.provenance.created_utc


def _changed_weights(source: Path, folder: Path) -> Path:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor + 0.01 for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def test_students_may_have_a_learning_rate_of_their_own(run, own_task):
    task = own_task(epochs=1)
    models = ["teacher", "student-step0", "student"]
    stage.evaluate(run, tasks=[str(task)], models=models, seeds=1)
    before = times(run)
    task.write_text(
        task.read_text().replace("epochs = 1", "epochs = 1\nstudent_learning_rate = 3e-2")
    )
    record = stage.evaluate(run, tasks=[str(task)], models=models, seeds=1)
    after = times(run)
    assert {name for name in before if before[name] != after[name]} == {
        "student-1.json",
        "student-step0-1.json",
    }
    rates = {cell.model: cell.hyper_parameters["learning_rate"] for cell in record.cells}
    assert rates == {"teacher": 1e-2, "student-step0": 3e-2, "student": 3e-2}
    assert (
        "learning rate 0.01 for teacher; 0.03 for student-step0, student"
        in task_table(record).notes[-1]
    )


def test_what_a_task_is_called_or_costs_to_download_changes_no_cell(run, own_task):
    task = own_task(epochs=1)
    stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    before = times(run)
    task.write_text('title = "Opinions"\nlicence = "mine"\n' + task.read_text())
    stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    assert times(run) == before


def test_killed_cell_leaves_nothing_and_starts_over(run, own_task):
    """A real process, killed while it trains: no cell file; the next evaluation makes it."""
    task = own_task(epochs=400)
    code = (
        "from pathlib import Path; from edgedistil.evaluate import stage; from edgedistil.core.rundir import RunDir\n"
        f"stage.evaluate(RunDir(Path({str(run.path)!r})), tasks=[{str(task)!r}], models=['student'], seeds=1)"
    )
    # EDGEDISTIL's own marker of training: the trainer's scratch folder
    scratch = task.parent / "tmp"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)}
    )
    try:
        _wait_for(lambda: any(scratch.glob("edgedistil-trainer-*")), process)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    file = run.cells / "opinion" / "student-1.json"
    assert not file.exists()
    task.write_text(task.read_text().replace("epochs = 400", "epochs = 1"))
    stage.evaluate(run, tasks=[str(task)], models=["student"], seeds=1)
    assert json.loads(file.read_text())["cell"]["seed"] == 1


@pytest.mark.slow
def test_interrupt_ends_the_workers_at_once(run, own_task):
    """SIGTERM to the command: exit code 130, no worker trains on, nothing half-written."""
    import psutil

    task = own_task(epochs=4000)
    scratch = task.parent / "tmp"
    scratch.mkdir()
    program = Path(sys.executable).with_name("edgedistil")
    command = [
        program,
        "evaluate",
        "--run",
        "tiny",
        "--task",
        task,
        "--model",
        "student",
        "--seeds",
        "2",
        "--jobs",
        "2",
    ]
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "EDGEDISTIL_RUNS": str(run.path.parent),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: len(list(scratch.glob("edgedistil-trainer-*"))) == 2, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    assert list(run.cells.rglob("*.json")) == []


def _wait_for(condition, process) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the process ended before it trained"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_beside_each_other_make_the_same_cells(run, own_task):
    task = str(own_task(epochs=1))
    stage.evaluate(run, tasks=[task], models=["student"], seeds=2)
    alone = {path.name: read_cell(path) for path in run.cells.glob("*/*.json")}
    for path in run.cells.glob("*/*.json"):
        path.unlink()
    stage.evaluate(run, tasks=[task], models=["student"], seeds=2, jobs=2)
    beside = {path.name: read_cell(path) for path in run.cells.glob("*/*.json")}
    assert {name: file.key for name, file in beside.items()} == {
        name: file.key for name, file in alone.items()
    }
    assert {name: file.cell.scores for name, file in beside.items()} == {
        name: file.cell.scores for name, file in alone.items()
    }


def test_failure_of_one_cell_keeps_the_others(run, own_task, tmp_path):
    """Weights that hold NaN fail; the cell beside them is finished and stays."""
    import shutil

    from safetensors.torch import load_file, save_file

    from edgedistil.core.errors import TrainingDiverged

    folder = tmp_path / "torn"
    shutil.copytree(run.student.resolve(), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor * float("nan") for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1"):
        stage.evaluate(
            run, tasks=[str(own_task(epochs=1))], models=[str(folder), "student"], seeds=1
        )
    assert set(times(run)) == {"student-1.json"}


def test_weights_that_can_run_code_are_refused(run, own_task, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((run.student / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="no weights in safetensors"):
        stage.evaluate(run, tasks=[str(own_task())], models=[str(folder)], seeds=1)


def test_key_of_a_file_that_is_no_cell(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    assert cells.key_of(tmp_path / "x.json") is None
    assert cells.key_of(tmp_path / "none.json") is None
