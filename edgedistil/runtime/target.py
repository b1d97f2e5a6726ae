"""Interface of all targets: identify a machine, run a job.

    local.py        this machine                         method "measured"
    ssh/target.py   a board through the ssh program      method "measured"
    qemu/target.py  a board's instruction set in qemu    method "emulated": never a latency

Predictions come from `profiling/predicted.py`, which runs nothing and has no target.

To add a target, write a class with these members; it needs no base class:

    class SshTarget:
        name, method, source = …
        def identify(self) -> MachineIdentity: ...
        def run(self, job, files, *, outputs_to=None) -> Reply: ...

A target moves files and bytes. It does not time, choose what is run, or build rows: that is done by
`profiling/measured.py` and `profiling/rows.py`, which gives an emulated row no latency whatever the
reply contains. `run` starts `protocol.RUNNER` as `python3 runner.py job.json reply.json` in a
folder that contains `job.json` (`job.to_json()`) and every file of `files` under its name, and
passes the bytes of the reply to `reply.parse_reply`.

A reply with `ok=False` (the runtime crashed, was killed, ran out of memory) is a result: `run`
returns it. `run` raises TargetError only if a reply is missing altogether (unreachable, no Python,
timed out, truncated). `raise_failure` turns such a result into an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from edgedistil.core.errors import TargetError
from edgedistil.core.records import Method
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import Job, Reply


class Target(Protocol):
    """A machine, real or emulated, that runs jobs."""

    @property
    def name(self) -> str:
        """Device name in rows: "host", "rpi4".

        A board without a device file has its host name.
        """

    @property
    def method(self) -> Method:
        """Origin of its figures: "measured" or "emulated"."""

    @property
    def source(self) -> str:
        """Name in messages: "this machine", "pi@rpi4.local", "qemu-aarch64 -cpu cortex-a72"."""

    def identify(self) -> MachineIdentity:
        """Describes the machine, before any large file is sent.

        Raises:
            TargetError: It cannot be reached, or lacks what the runner needs.
        """

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job and returns the reply.

        Args:
            job: What to run. Its paths are names in `files`.
            files: Name in the job's folder → local file. A name is relative, at most one folder
                deep ("student-fill-mask/model.onnx"), and consists of letters, digits and `._-`.
                A graph's external data is an entry of its own, in the graph's folder and under the
                name that the graph refers to.
            outputs_to: Where to put the file of the phase `outputs`; None if the job has no such
                phase.
        Raises:
            TargetError: The machine sent no reply.
        """


def raise_failure(reply: Reply, *, source: str) -> None:
    """Raises if the job of a reply failed.

    Raises:
        TargetError: The job failed; the message has the reason, the phase and what to do.
    """
    if reply.ok:
        return
    error = reply.error
    if error is None:
        raise TargetError(f"{source} failed during '{reply.phase}' and did not report a reason")
    # The last line of what the process printed is usually the reason.
    lines = error.details.strip().splitlines()
    last_line = f" ({lines[-1]})" if lines else ""
    raise TargetError(
        f"{source}: {error.message} during '{error.phase}'{last_line}",
        hint=_advice(error.kind, error.signal),
    )


def _advice(kind: str, signal: str | None) -> str | None:
    # SIGKILL comes from the kernel's out-of-memory killer unless a user sent it.
    if kind == "memory" or signal == "SIGKILL":
        return "it ran out of memory: try the int8 model or a shorter length, or --memory-limit"
    if signal == "SIGILL":
        return (
            "this onnxruntime uses instructions that the processor lacks: "
            "install another version there"
        )
    if kind == "timeout":
        return "use fewer lengths or fewer threads, or a smaller model"
    return None
