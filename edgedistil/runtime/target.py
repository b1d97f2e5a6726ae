"""The one interface of all targets: ask a machine who it is, and let it run a job.

    local.py      this machine                          method "measured"
    ssh.py        a board through the ssh binary        method "measured"
    emulated.py   a board's instruction set under qemu  method "emulated": never a latency
    predicted.py  a cost model; it runs nothing, so it does not implement `Target` (see `predicted.predict`)

How a target is written:

    class SshTarget:                                   # no inheritance: a Protocol
        def __init__(self, destination: str, *, bootstrap: bool = False) -> None: ...
        name, method, source = …
        def identify(self) -> MachineIdentity: ...
        def run(self, job, files, *, outputs_to=None) -> Reply: ...

A target moves files and bytes. It does not time, does not choose what is run, and makes no rows: `measure.py` builds
jobs, `rows.py` turns replies into rows (and gives an emulated row no latency, whatever the reply holds).
`messages.RUNNER` is the file to send; start it as `python3 runner.py job.json reply.json` in a folder that holds
`job.json` (`job.to_json()`) and every file of `files` under its name. Reply bytes go through
`messages.parse_reply(data, source=…)`.

A reply with `ok=False` (the runtime crashed, was killed, ran out of memory) is an answer, and `run` returns it; `run`
raises TargetError only when there is no reply (unreachable, no Python, timed out, half a reply). `raise_failure` turns
such an answer into a message of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from edgedistil.core.errors import TargetError
from edgedistil.core.records import Method
from edgedistil.runtime.protocol import Job, MachineIdentity, Reply


class Target(Protocol):
    """A machine, real or emulated, that runs jobs."""

    @property
    def name(self) -> str:
        """Device name for the rows: "host", "rpi4"; a board that no device file knows keeps its destination."""

    @property
    def method(self) -> Method:
        """ "measured" or "emulated"."""

    @property
    def source(self) -> str:
        """Who it is in messages: "this machine", "pi@rpi4.local", "qemu-aarch64 -cpu cortex-a72"."""

    def identify(self) -> MachineIdentity:
        """What the machine says of itself, before anything heavy is sent.

        Raises:
            TargetError: It cannot be reached, or lacks what the runner needs; says what and what to do.
        """

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """The reply to `job`.

        Args:
            job: What to run. Its paths are names in `files`.
            files: Name in the job's folder → local file. A name is relative, with at most one folder in it
                ("student-fill-mask/model.onnx"), letters, digits and `._-` only; a graph's external data has its own
                entry beside the graph, under the name that the graph refers to.
            outputs_to: Where the file that the phase `outputs` wrote is put; None when the job has no such phase.
        Raises:
            TargetError: There is no reply.
        """


def raise_failure(reply: Reply, *, source: str) -> None:
    """Does nothing for a reply that is ok.

    Raises:
        TargetError: The job failed there: what happened, in which phase, and what to do about it.
    """
    if reply.ok:
        return
    error = reply.error
    if error is None:
        raise TargetError(f"{source} failed in the phase '{reply.phase}' and did not say why")
    details = error.details.strip().splitlines()
    said = f" ({details[-1]})" if details else ""
    raise TargetError(
        f"{source}: {error.message} in the phase '{error.phase}'{said}",
        hint=_advice(error.kind, error.signal),
    )


def _advice(kind: str, signal: str | None) -> str | None:
    if kind == "memory" or signal == "SIGKILL":
        return (
            "it ran out of memory: try the int8 model, a shorter length, or look at --memory-limit"
        )
    if signal == "SIGILL":
        return "this onnxruntime uses instructions that the machine lacks: install another version there"
    if kind == "timeout":
        return "give it fewer lengths or fewer threads, or a smaller model"
    return None
