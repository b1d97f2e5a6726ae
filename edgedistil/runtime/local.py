"""This machine as a target: the runner as a process of its own, in a scratch folder, with the files where they are."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.errors import TargetError
from edgedistil.core.records import Method
from edgedistil.runtime.protocol import RUNNER, Job, MachineIdentity, Reply, parse_reply

_GRACE_S = 10.0


@dataclass(frozen=True)
class LocalTarget:
    """This machine. `prefix` is put before the command: `systemd-run …`, or a shell that enters a cgroup first."""

    name: str = "host"
    prefix: Sequence[str] = field(default=())

    @property
    def method(self) -> Method:
        return "measured"

    @property
    def source(self) -> str:
        return "this machine"

    def identify(self) -> MachineIdentity:
        import numpy
        import onnxruntime

        found = runpy.run_path(str(RUNNER))["identity"]()
        return MachineIdentity.model_validate(
            {**found, "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}
        )

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """The reply to `job`; nothing is copied, the runner gets absolute paths."""
        with tempfile.TemporaryDirectory(prefix="edgedistil-") as name:
            folder = Path(name)
            where = {key: str(path.resolve()) for key, path in files.items()}
            models = {
                label: each.model_copy(update={"file": where[each.file]})
                for label, each in job.models.items()
            }
            here = job.model_copy(update={"models": models, "inputs": where[job.inputs]})
            (folder / "job.json").write_text(here.to_json(), encoding="utf-8")
            reply = self._started(folder, job.timeout_seconds)
            if outputs_to is not None and reply.outputs is not None:
                shutil.move(folder / reply.outputs.file, outputs_to)
            return reply

    def _started(self, folder: Path, timeout_seconds: float | None) -> Reply:
        command = [
            *self.prefix,
            sys.executable,
            "-P",
            str(RUNNER),
            str(folder / "job.json"),
            str(folder / "reply.json"),
        ]
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                command,
                capture_output=True,
                cwd=folder,
                check=False,
                timeout=None if timeout_seconds is None else timeout_seconds + _GRACE_S,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"the runner did not end within {error.timeout} s") from error
        try:
            data = (folder / "reply.json").read_bytes()
        except OSError as error:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            last = said[-1] if said else "it printed nothing"
            raise TargetError(
                f"the runner left no reply (status {done.returncode}): {last}"
            ) from error
        return parse_reply(data, source=self.source)
