"""A board over ssh as a target, left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from edgedistil.core import console
from edgedistil.core.cpu import is_arm
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.records import Method
from edgedistil.core.rundir import write_bytes
from edgedistil.runtime.compatibility import check_runtime_compatible
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.match import match_device
from edgedistil.runtime.protocol import Job, Reply
from edgedistil.runtime.reply import MAX_REPLY_BYTES, parse_identity, parse_reply
from edgedistil.runtime.ssh.board import Board, JobOutcome, check_name, open_board, signal_of
from edgedistil.runtime.ssh.connection import Connection, parse_destination
from edgedistil.runtime.wheels import arm64_wheels, fetch_wheels

# A job without a timeout of its own gets this one: a board must not compute forever.
_DEFAULT_TIMEOUT_S = 3600.0
# The runner's supervisor enforces the job's timeout and can report the phase: it gets this much
# longer before `timeout` stops the runner itself.
_GRACE_S = 30.0
# Larger than the outputs of any parity check; bounds what a board can make this host store.
_MAX_OUTPUTS_BYTES = 2**30
# The pinned wheels are manylinux_2_28 (wheels.PLATFORMS).
_OLDEST_GLIBC = (2, 28)
# Exit status of `timeout` when it had to stop the program.
_TIMED_OUT = 124


class SshTarget:
    """A board behind an ssh destination.

    Use it as a context manager: the end removes everything of ours from the board.

    Args:
        destination: `host`, `user@host`, `user@host:port`, or a name from the user's ssh config.
        bootstrap: Send aarch64 wheels of numpy and onnxruntime if the board lacks them, or has a
            version that crashes there.
        spec: Device file of the board; found by the board's name if missing.
    Raises:
        InputError: `destination` is not valid (nothing was started).
    """

    method: Method = "measured"

    def __init__(
        self, destination: str, *, bootstrap: bool = False, spec: DeviceSpec | None = None
    ) -> None:
        self._destination = parse_destination(destination)
        self._bootstrap = bootstrap
        self.spec = spec
        self._connection: Connection | None = None
        self._board: Board | None = None
        self._identity: MachineIdentity | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Device name in rows; the host name without a device file."""
        return self.spec.name if self.spec is not None else self._destination.host

    @property
    def source(self) -> str:
        """Name in messages."""
        return str(self._destination)

    @property
    def sent_bytes(self) -> int:
        """Bytes of all files sent so far, one copy of each."""
        return self._board.sent_bytes if self._board is not None else 0

    def identify(self) -> MachineIdentity:
        """Describes the board; connects on the first call.

        A runtime that would crash there is rejected before it is imported.

        Raises:
            TargetError: The board cannot be reached, or lacks what the runner needs.
        """
        if self._identity is None:
            self._identity = self._examine(self._open())
        return self._identity

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job; sends only files that the board lacks."""
        # All names are checked before anything is sent.
        for name in files:
            check_name(name)
        self.identify()
        board = self._open()
        remote = {name: board.place(path) for name, path in files.items()}
        limit_s = job.timeout_seconds or _DEFAULT_TIMEOUT_S
        outcome = board.start(job.to_json().encode(), remote, timeout_s=limit_s + _GRACE_S)
        data = self._fetch_reply(board, outcome, limit_s)
        reply = parse_reply(data, source=self.source, clean=True)
        if outputs_to is not None and reply.outputs is not None and job.outputs is not None:
            # The name is the job's, not the reply's: a board must not choose which file is read.
            outputs = board.fetch(
                job.outputs, limit_bytes=_MAX_OUTPUTS_BYTES, sha256=reply.outputs.sha256
            )
            write_bytes(outputs_to, outputs)
        return reply

    def close(self) -> None:
        """Removes our folder from the board and ends the connection."""
        board, connection = self._board, self._connection
        self._board = self._connection = self._identity = None
        try:
            if board is not None:
                board.close()
        finally:
            if connection is not None:
                connection.close()

    # --- first contact ---------------------------------------------------------------------------

    def _open(self) -> Board:
        if self._board is None:
            self._connection = self._connection or Connection(self._destination)
            self._board = open_board(self._connection)
        return self._board

    def _examine(self, board: Board) -> MachineIdentity:
        # Nothing below imports onnxruntime before its version was checked.
        facts = board.describe()
        identity = parse_identity(facts, source=self.source)
        self.spec = self.spec or match_device(identity)
        console.say(_format_identity(self.source, identity))
        if self._needs_runtime(board, identity):
            identity = self._send_runtime(board, identity, str(facts.get("libc", "")))
        check_runtime_compatible(identity, self.spec, source=self.source)
        board.check_import(f"numpy {identity.numpy} and onnxruntime {identity.onnxruntime}")
        return identity

    def _needs_runtime(self, board: Board, identity: MachineIdentity) -> bool:
        """Whether packages must be sent; raises TargetError without `bootstrap`."""
        missing = [name for name in ("numpy", "onnxruntime") if getattr(identity, name) is None]
        if missing and not self._bootstrap:
            raise TargetError(
                f"{self.source} has no {' and no '.join(missing)} for Python {board.python}",
                hint=f"install it there (python3 -m pip install {' '.join(missing)}) or send it "
                f"with --bootstrap",
            )
        if missing:
            return True
        try:
            check_runtime_compatible(identity, self.spec, source=self.source)
        except TargetError:
            if not self._bootstrap:
                raise
            return True
        return False

    def _send_runtime(self, board: Board, identity: MachineIdentity, libc: str) -> MachineIdentity:
        """Sends and unpacks wheels; returns the identity with their versions."""
        if not is_arm(identity.machine):
            raise TargetError(
                f"--bootstrap sends wheels for 64-bit ARM; {self.source} is {identity.machine}"
            )
        if not _is_new_glibc(libc):
            raise TargetError(
                f"--bootstrap needs glibc 2.28 or newer on the board; {self.source} has "
                f"{libc or 'another C library'}"
            )
        try:
            wheels = arm64_wheels(board.python)
        except InputError as error:
            # The Python version is the board's, not the user's input.
            raise TargetError(f"{self.source}: {error.message}", hint=error.hint) from error
        numpy, runtime = wheels
        remote = [board.place(file) for file in fetch_wheels(wheels)]
        board.environment["PYTHONPATH"] = board.unpack(remote, "site")
        console.say(
            f"{self.source}: sent numpy {numpy.version} and onnxruntime {runtime.version}; they "
            f"are removed at the end"
        )
        return identity.model_copy(update={"numpy": numpy.version, "onnxruntime": runtime.version})

    # --- the reply -------------------------------------------------------------------------------

    def _fetch_reply(self, board: Board, outcome: JobOutcome, limit_s: float) -> bytes:
        size = outcome.reply_bytes
        if size is None:
            raise TargetError(
                f"{self.source}: {_format_failure(outcome, limit_s)}", hint=_advice(outcome)
            )
        if size > MAX_REPLY_BYTES:
            raise TargetError(
                f"{self.source} has a reply of {size} bytes, which was not fetched; the limit is "
                f"{MAX_REPLY_BYTES}"
            )
        return board.fetch("reply.json", limit_bytes=size, sha256=outcome.reply_sha256)


def _format_identity(source: str, identity: MachineIdentity) -> str:
    """Returns the line that is printed after connecting."""
    machine = identity.board or identity.cpu or identity.machine or "unknown machine"
    facts = [f"{machine}, {identity.cores or '?'} cores"]
    if identity.memory_bytes:
        facts.append(f"{identity.memory_bytes / 2**30:.1f} GiB")
    facts += [
        f"Python {identity.python}",
        f"numpy {identity.numpy or 'missing'}",
        f"onnxruntime {identity.onnxruntime or 'missing'}",
    ]
    return f"{source}: {', '.join(facts)}"


def _is_new_glibc(libc: str) -> bool:
    """Whether "glibc 2.31", as `platform.libc_ver` reports it, can load the pinned wheels."""
    name, _, version = libc.partition(" ")
    numbers = version.split(".")[:2]
    if name != "glibc" or not all(number.isdigit() for number in numbers):
        return False
    return tuple(int(number) for number in numbers) >= _OLDEST_GLIBC


def _format_failure(outcome: JobOutcome, limit_s: float) -> str:
    """Describes why a job left no reply."""
    if outcome.status == _TIMED_OUT:
        return f"the job did not finish within {limit_s:.0f} s and was stopped there"
    last_line = f" ({outcome.messages.splitlines()[-1]})" if outcome.messages else ""
    name = signal_of(outcome.status)
    # Nothing else on a board sends SIGKILL, except the kernel when memory runs out.
    if name == "SIGKILL":
        return f"the runner was killed there{last_line}: most likely the board ran out of memory"
    if name is not None:
        return f"the runner was terminated there by {name}{last_line}"
    return f"the runner exited with status {outcome.status} and wrote no reply{last_line}"


def _advice(outcome: JobOutcome) -> str | None:
    if outcome.status == _TIMED_OUT:
        return "use fewer lengths or fewer threads, or a smaller model"
    if signal_of(outcome.status) == "SIGKILL":
        return "try the int8 model, or stop other programs there"
    return None
