"""This machine as a target, with a program of the test in front of the runner."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from edgedistil.core.errors import InputError, StorageError, TargetError
from edgedistil.runtime import local
from edgedistil.runtime.local import LocalTarget, with_limits, with_local_paths
from edgedistil.runtime.protocol import Case, Job, JobModel
from tests.fixtures.hostile_graphs import endless_graph, hungry_graph
from tests.fixtures.tiny_model import TinyModel

JOB = Job(models={"m": JobModel(file="m/graph.onnx")}, cases=[Case(name="7", keys=["a"])])


def files_in(folder: Path) -> dict[str, Path]:
    return {"m/graph.onnx": folder / "model.onnx", "inputs.npz": folder / "inputs.npz"}


def test_the_machine_is_identified_with_its_runtime() -> None:
    identity = LocalTarget().identify()
    assert identity.machine and identity.numpy and identity.onnxruntime


def test_names_become_absolute_paths(tmp_path: Path) -> None:
    local_job = with_local_paths(JOB, files_in(tmp_path))
    assert local_job.models["m"].file == str(tmp_path.resolve() / "model.onnx")
    assert local_job.inputs == str(tmp_path.resolve() / "inputs.npz")


def test_a_name_that_is_not_among_the_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names 'm/graph\.onnx', which is not among its files"):
        with_local_paths(JOB, {"inputs.npz": tmp_path / "inputs.npz"})


def test_a_runner_that_writes_no_reply_is_an_error(tmp_path: Path) -> None:
    target = LocalTarget(prefix=("sh", "-c", "echo starting >&2; echo no python >&2; exit 7"))
    with pytest.raises(TargetError, match=r"wrote no reply \(status 7\): no python"):
        target.run(JOB, files_in(tmp_path))


def test_a_full_disk_is_not_the_devices_fault(tmp_path: Path) -> None:
    print_reason = "echo 'cannot write the reply x: No space left on device' >&2; exit 2"
    target = LocalTarget(prefix=("sh", "-c", print_reason))
    with pytest.raises(StorageError, match="No space left on device") as error:
        target.run(JOB, files_in(tmp_path))
    assert error.value.exit_code == 1


def test_a_runner_that_does_not_finish_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedistil.runtime.local._GRACE_S", 0.0)
    target = LocalTarget(prefix=("sh", "-c", "exec sleep 60"))
    with pytest.raises(TargetError, match=r"did not finish within 0\.1 s"):
        target.run(JOB.model_copy(update={"timeout_seconds": 0.1}), files_in(tmp_path))


# --- limits --------------------------------------------------------------------------------------


def test_every_job_has_limits(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x" * 3_000_000)
    limited = with_limits(JOB, [model, tmp_path / "absent"])
    assert limited.timeout_seconds == 3600
    assert limited.first_result_seconds == 25 + 3 / 20
    own = JOB.model_copy(update={"timeout_seconds": 7.0, "first_result_seconds": 5.0})
    assert with_limits(own, [model]) == own


def test_a_graph_that_never_ends_is_stopped(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_FIRST_RESULT_S", 3.0)
    onnx.save(endless_graph(), tmp_path / "endless.onnx")
    reply = LocalTarget().run(tiny.job(), tiny.files(tmp_path / "endless.onnx"))
    assert reply.error is not None and reply.error.kind == "timeout"
    assert reply.error.message == "no result within 3 s"
    assert reply.error.phase == "first call tiny"


def test_a_graph_that_asks_for_gigabytes_does_not_get_them(tiny: TinyModel, tmp_path: Path) -> None:
    onnx.save(hungry_graph(), tmp_path / "hungry.onnx")
    job = tiny.job(private_memory_bytes=3 * 2**30)
    reply = LocalTarget().run(job, tiny.files(tmp_path / "hungry.onnx"))
    assert reply.error is not None and reply.error.kind == "memory"
    assert LocalTarget().run(job, tiny.files(tiny.int8)).ok


# --- nothing is left -----------------------------------------------------------------------------


def test_nothing_of_the_runtime_is_left(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert LocalTarget().run(tiny.job(outputs="outputs.npz"), tiny.files(tiny.int8)).ok
    assert list(tmp_path.iterdir()) == []


def test_the_runner_ends_when_this_process_is_killed(tiny: TinyModel, tmp_path: Path) -> None:
    onnx.save(endless_graph(), tmp_path / "endless.onnx")
    paths = {name: str(p) for name, p in tiny.files(tmp_path / "endless.onnx").items()}
    script = f"""
from pathlib import Path
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Job
job = Job.model_validate_json({tiny.job().model_dump_json()!r})
LocalTarget().run(job, {{name: Path(path) for name, path in {paths!r}.items()}})
"""
    environment = {"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment) as process:
        wait_until(lambda: len(runners_in(tmp_path)) == 2)
        process.kill()
    wait_until(lambda: not runners_in(tmp_path))


def runners_in(folder: Path) -> list[str]:
    """Process ids of the supervisors and workers whose job is in a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if any(a.startswith(str(folder)) and a.endswith("job.json") for a in arguments):
            pids.append(path.parent.name)
    return pids


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 30 s")
