"""One job on a target that records what it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import TargetError
from edgedistil.core.records import Method
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import Case, Failure, Job, JobModel, ModelResult, Reply

OK = Reply(
    format=1,
    ok=True,
    phase="done",
    runner_sha256="ab",
    models={"m": ModelResult(load_ns=5, first_call_ns=7)},
)
FAILED = Reply(
    format=1,
    ok=False,
    phase="import",
    runner_sha256="ab",
    error=Failure(kind="exit", phase="import", message="the worker exited with status 1"),
)
INPUTS = NpzInputs({"a/input_ids": np.arange(7).reshape(1, 7)})
JOB = Job(
    models={"m": JobModel(file="m/graph.onnx")}, cases=[Case(name="7", keys=["a"])], phases=[]
)


@dataclass
class RecordingTarget:
    """Returns a fixed reply, and reads the inputs while they exist."""

    reply: Reply
    source: str = "a test board"
    name: str = "board"
    method: Method = "measured"
    files: dict[str, Path] = field(default_factory=dict)
    outputs_to: Path | None = None
    inputs_sha256: list[str] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)

    def identify(self) -> MachineIdentity:
        return MachineIdentity()

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        self.files, self.outputs_to = dict(files), outputs_to
        self.inputs_sha256.append(sha256_file(files[job.inputs]))
        with np.load(files[job.inputs]) as arrays:
            self.ids = arrays["a/input_ids"].tolist()
        return self.reply


@dataclass(frozen=True)
class OneFile:
    name: str
    path: Path

    def job_files(self) -> dict[str, Path]:
        return {self.name: self.path}


def test_a_job_gets_its_inputs_and_the_files_of_every_model(tmp_path: Path) -> None:
    target = RecordingTarget(OK)
    models = [OneFile("m/graph.onnx", tmp_path / "m"), OneFile("n/graph.onnx", tmp_path / "n")]
    assert run_job(target, models, JOB, INPUTS, outputs_to=tmp_path / "out.npz") is OK
    assert target.files.keys() == {"inputs.npz", "m/graph.onnx", "n/graph.onnx"}
    assert target.ids == [[0, 1, 2, 3, 4, 5, 6]]
    assert target.outputs_to == tmp_path / "out.npz"
    assert not target.files["inputs.npz"].exists()


def test_equal_inputs_are_equal_files(tmp_path: Path) -> None:
    target = RecordingTarget(OK)
    for _ in range(2):
        run_job(target, [], JOB, INPUTS)
    first, second = target.inputs_sha256
    assert first == second


def test_a_reply_about_another_model_is_an_error() -> None:
    lie = OK.model_copy(update={"models": {"other": ModelResult()}})
    with pytest.raises(TargetError, match="a test board sent an invalid reply: it is about 'oth"):
        run_job(RecordingTarget(lie), [], JOB, INPUTS, check=False)


def test_a_failed_job_is_an_error_unless_the_caller_examines_it() -> None:
    with pytest.raises(TargetError, match="a test board: the worker exited with status 1 during"):
        run_job(RecordingTarget(FAILED), [], JOB, INPUTS)
    assert run_job(RecordingTarget(FAILED), [], JOB, INPUTS, check=False) is FAILED
