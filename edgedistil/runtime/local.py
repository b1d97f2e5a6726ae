"""This machine as a target: the runner in a scratch folder."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.errors import InputError, StorageError, TargetError
from edgedistil.core.records import Method, installed_versions
from edgedistil.core.scratch import scratch_errors, scratch_folder
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import PARENT_ENV, RUNNER, Job, Reply
from edgedistil.runtime.reply import parse_reply

# The runner's supervisor enforces the job's own timeout and can report the phase: it gets this much
# longer before the runner itself is stopped.
_GRACE_S = 10.0
# A job without a timeout of its own gets this one, as on a board.
_DEFAULT_TIMEOUT_S = 3600.0
# Limit of loading a model and its first call: seconds in all, and more for a large file. A slow
# disk reads more than this in a second; a graph whose loop never ends would take the job's timeout.
_FIRST_RESULT_S = 25.0
_SLOWEST_BYTES_PER_S = 20_000_000
# What the runner prints when its folder is full.
_NOT_WRITTEN = "cannot write the reply"
_NO_SPACE_HINT = "free some space there, or set TMPDIR to another folder"


@dataclass(frozen=True)
class LocalTarget:
    """This machine.

    Attributes:
        name: Device name in rows.
        prefix: Goes before the command: a shell that enters a cgroup and then becomes the command.
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
        facts = runpy.run_path(str(RUNNER))["read_identity"]()
        # Without an import, which would leave onnxruntime's files in TMPDIR and the cache.
        versions = installed_versions()
        packages = {name: versions.get(name) for name in ("numpy", "onnxruntime")}
        return MachineIdentity.model_validate({**facts, **packages})

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job; nothing is copied, the runner gets absolute paths."""
        with scratch_folder("job") as folder:
            local_job = with_limits(with_local_paths(job, files), files.values())
            with scratch_errors():
                (folder / "job.json").write_text(local_job.to_json(), encoding="utf-8")
            reply = self._run_in(folder, local_job.timeout_seconds or _DEFAULT_TIMEOUT_S)
            if outputs_to is not None and reply.outputs is not None:
                shutil.move(folder / reply.outputs.file, outputs_to)
            return reply

    def _run_in(self, folder: Path, timeout_seconds: float) -> Reply:
        # -P keeps the runner's folder off sys.path: this package's modules must not shadow others.
        command = [*self.prefix, sys.executable, "-P", str(RUNNER)]
        # Absolute, because a prefix may change the working directory.
        command += [str(folder / "job.json"), str(folder / "reply.json")]
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
                check=False,
                timeout=timeout_seconds + _GRACE_S,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"the runner did not finish within {error.timeout} s") from error
        try:
            data = (folder / "reply.json").read_bytes()
        except OSError as error:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            last_line = lines[-1] if lines else "it printed nothing"
            if last_line.startswith(_NOT_WRITTEN):
                raise StorageError(last_line, hint=_NO_SPACE_HINT) from error
            raise TargetError(
                f"the runner wrote no reply (status {done.returncode}): {last_line}"
            ) from error
        return parse_reply(data, source=self.source)


def _environment(folder: Path) -> dict[str, str]:
    """Returns the runner's environment variables.

    Args:
        folder: The job's folder, which is removed at the end.
    """
    return {
        **os.environ,
        # The runner ends with this process, however it ends.
        PARENT_ENV: str(os.getpid()),
        # onnxruntime writes a device id and a database into the cache folder, and `.ses` files into
        # TMPDIR: docs/log.md#onnxruntime-writes-into-the-cache-folder.
        "TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }


def with_limits(job: Job, files: Iterable[Path]) -> Job:
    """Returns a job that ends in any case: with limits for it and for each model's first result."""
    size = sum(path.stat().st_size for path in files if path.is_file())
    first_result_s = _FIRST_RESULT_S + size / _SLOWEST_BYTES_PER_S
    changes = {
        "timeout_seconds": job.timeout_seconds or _DEFAULT_TIMEOUT_S,
        "first_result_seconds": job.first_result_seconds or first_result_s,
    }
    return job.model_copy(update=changes)


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
