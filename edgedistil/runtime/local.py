"""This machine as a target: the runner in a scratch folder."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.records import Method
from edgedistil.runtime.protocol import RUNNER, Job, MachineIdentity, Reply, parse_reply

# The runner's supervisor enforces the job's own timeout and can report the phase: it gets this much
# longer before the runner itself is stopped.
_GRACE_S = 10.0


@dataclass(frozen=True)
class LocalTarget:
    """This machine.

    Attributes:
        name: Device name in rows.
        prefix: Goes before the command: `systemd-run …`, or a shell that enters a cgroup first.
    """

    name: str = "host"
    prefix: Sequence[str] = field(default=())

    @property
    def method(self) -> Method:
        """Figures of this machine are measured."""
        return "measured"

    @property
    def source(self) -> str:
        """Name in messages."""
        return "this machine"

    def identify(self) -> MachineIdentity:
        """Describes this machine, with the versions of numpy and onnxruntime."""
        import numpy
        import onnxruntime

        facts = runpy.run_path(str(RUNNER))["read_identity"]()
        versions = {"numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}
        return MachineIdentity.model_validate({**facts, **versions})

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job; nothing is copied, the runner gets absolute paths."""
        with tempfile.TemporaryDirectory(prefix="edgedistil-") as name:
            folder = Path(name)
            local_job = with_local_paths(job, files)
            (folder / "job.json").write_text(local_job.to_json(), encoding="utf-8")
            reply = self._run_in(folder, job.timeout_seconds)
            if outputs_to is not None and reply.outputs is not None:
                shutil.move(folder / reply.outputs.file, outputs_to)
            return reply

    def _run_in(self, folder: Path, timeout_seconds: float | None) -> Reply:
        # -P keeps the runner's folder off sys.path: this package's modules must not shadow others.
        command = [*self.prefix, sys.executable, "-P", str(RUNNER)]
        # Absolute, because a prefix such as systemd-run may change the working directory.
        command += [str(folder / "job.json"), str(folder / "reply.json")]
        timeout = None if timeout_seconds is None else timeout_seconds + _GRACE_S
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                command, capture_output=True, cwd=folder, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"the runner did not finish within {error.timeout} s") from error
        try:
            data = (folder / "reply.json").read_bytes()
        except OSError as error:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            last_line = lines[-1] if lines else "it printed nothing"
            raise TargetError(
                f"the runner wrote no reply (status {done.returncode}): {last_line}"
            ) from error
        return parse_reply(data, source=self.source)


def with_local_paths(job: Job, files: Mapping[str, Path]) -> Job:
    """Returns the job with local paths in place of file names.

    Raises:
        InputError: The job names a file that is not in `files`.
    """
    names = [job.inputs, *(model.file for model in job.models.values())]
    missing = [name for name in names if name not in files]
    if missing:
        raise InputError(
            f"the job names {missing[0]!r}, which is not among its files: {', '.join(files)}"
        )
    paths = {name: str(path.resolve()) for name, path in files.items()}
    models = {}
    for label, model in job.models.items():
        models[label] = model.model_copy(update={"file": paths[model.file]})
    return job.model_copy(update={"models": models, "inputs": paths[job.inputs]})
