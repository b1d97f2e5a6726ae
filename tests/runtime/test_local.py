"""This machine as a target, with a program of the test in front of the runner."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import InputError, TargetError
from edgedistil.runtime.local import LocalTarget, with_local_paths
from edgedistil.runtime.protocol import Case, Job, JobModel

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


def test_a_runner_that_does_not_finish_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedistil.runtime.local._GRACE_S", 0.0)
    target = LocalTarget(prefix=("sh", "-c", "exec sleep 60"))
    with pytest.raises(TargetError, match=r"did not finish within 0\.1 s"):
        target.run(JOB.model_copy(update={"timeout_seconds": 0.1}), files_in(tmp_path))
