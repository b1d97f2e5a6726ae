"""A board over ssh: measured for real, and left as it was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.records import Method
from edgedistil.core.rundir import write_bytes
from edgedistil.runtime.compatibility import check_runtime_compatible
from edgedistil.runtime.match import match_device
from edgedistil.runtime.protocol import (
    MAX_REPLY_BYTES,
    Job,
    MachineIdentity,
    Reply,
    ReplyPart,
    parse_reply,
)
from edgedistil.runtime.ssh.board import Board, Ending, check_name, open_board, signal_of
from edgedistil.runtime.ssh.connection import Connection, parse_destination, printable
from edgedistil.runtime.wheels import arm64_wheels, fetch_wheels

A = TypeVar("A", bound=ReplyPart)

_DEFAULT_TIMEOUT_S = 3600.0
_GRACE_S = 30.0  # the runner's own supervisor ends a job first: it can still say where it was
_MAX_OUTPUTS_BYTES = 2**30
_OLDEST_GLIBC = (2, 28)


class SshTarget:
    """A board behind an ssh destination. Use it as a context manager: the end removes everything of ours there.

    Args:
        destination: `host`, `user@host`, `user@host:port`, or a name from the user's ssh config.
        bootstrap: Send aarch64 wheels of numpy and onnxruntime if the board lacks them, or has a version that dies.
        spec: What is known of the device; found by the board's name if not given.
    Raises:
        InputError: `destination` is none (nothing was started).
    """

    method: Method = "measured"

    def __init__(
        self, destination: str, *, bootstrap: bool = False, spec: DeviceSpec | None = None
    ) -> None:
        self._destination = parse_destination(destination)
        self._bootstrap, self.spec = bootstrap, spec
        self._connection: Connection | None = None
        self._board: Board | None = None
        self._identity: MachineIdentity | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The device's name; a board that no device file knows keeps its host name."""
        return self.spec.name if self.spec is not None else self._destination.host

    @property
    def source(self) -> str:
        return str(self._destination)

    @property
    def sent_bytes(self) -> int:
        """What was sent so far: a file that lies there already is not sent again."""
        return self._board.sent_bytes if self._board is not None else 0

    def identify(self) -> MachineIdentity:
        """What the board says of itself; asks once. A runtime that would crash there is refused before it is imported.

        Raises:
            TargetError: Not reached, or it lacks what the runner needs.
        """
        if self._identity is None:
            self._identity = self._examine(self._open())
        return self._identity

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        for name in files:
            check_name(name)
        self.identify()
        board = self._open()
        placed = {name: board.place(path) for name, path in files.items()}
        limit = job.timeout_seconds or _DEFAULT_TIMEOUT_S
        ending = board.start(job.to_json().encode(), placed, timeout_s=limit + _GRACE_S)
        reply = sanitize_reply(
            parse_reply(self._fetch_reply(board, ending, limit), source=self.source)
        )
        if outputs_to is not None and reply.outputs is not None and job.outputs is not None:
            # The name is ours, not the reply's: a board cannot make us read or write another file.
            data = board.fetch(
                job.outputs, limit_bytes=_MAX_OUTPUTS_BYTES, sha256=reply.outputs.sha256
            )
            write_bytes(outputs_to, data)
        return reply

    def close(self) -> None:
        """Removes our folder there and ends the connection."""
        board, connection = self._board, self._connection
        self._board = self._connection = self._identity = None
        try:
            if board is not None:
                board.close()
        finally:
            if connection is not None:
                connection.close()

    # --- first contact ---------------------------------------------------------------------------------

    def _open(self) -> Board:
        if self._board is None:
            self._connection = self._connection or Connection(self._destination)
            self._board = open_board(self._connection)
        return self._board

    def _examine(self, board: Board) -> MachineIdentity:
        told = board.describe()
        identity = self._identity_of(told)
        self.spec = self.spec or match_device(identity)
        console.say(_introduction(self.source, identity))
        identity = self._with_runtime(board, identity, str(told.get("libc", "")))
        check_runtime_compatible(identity, self.spec, source=self.source)
        board.check_import(f"numpy {identity.numpy} and onnxruntime {identity.onnxruntime}")
        return identity

    def _identity_of(self, told: dict[str, Any]) -> MachineIdentity:
        try:
            return MachineIdentity.model_validate(told)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise TargetError(
                f"{self.source} told something strange of itself: {where}: {first['msg']}"
            ) from error

    def _with_runtime(self, board: Board, identity: MachineIdentity, libc: str) -> MachineIdentity:
        missing = [name for name in ("numpy", "onnxruntime") if getattr(identity, name) is None]
        if not missing:
            try:
                check_runtime_compatible(identity, self.spec, source=self.source)
            except TargetError:
                if not self._bootstrap:
                    raise
            else:
                return identity
        if not self._bootstrap:
            raise TargetError(
                f"{self.source} has no {' and no '.join(missing)} for Python {board.python}",
                hint=f"install it there (python3 -m pip install {' '.join(missing)}), or let --bootstrap send it",
            )
        return self._send_runtime(board, identity, libc)

    def _send_runtime(self, board: Board, identity: MachineIdentity, libc: str) -> MachineIdentity:
        if identity.machine != "aarch64":
            raise TargetError(
                f"--bootstrap sends wheels for 64-bit ARM; {self.source} is {identity.machine}"
            )
        if not _new_enough(libc):
            raise TargetError(
                f"--bootstrap needs glibc 2.28 or newer on the board; {self.source} has {libc or 'another'}"
            )
        try:
            wheels = arm64_wheels(board.python)
        except InputError as error:
            raise TargetError(f"{self.source}: {error.message}", hint=error.hint) from error
        numpy, runtime = wheels
        placed = [board.place(file) for file in fetch_wheels(wheels)]
        board.environment["PYTHONPATH"] = board.unpack(placed, "site")
        console.say(
            f"{self.source}: sent numpy {numpy.version} and onnxruntime {runtime.version} for this visit"
        )
        return identity.model_copy(update={"numpy": numpy.version, "onnxruntime": runtime.version})

    # --- the reply ---------------------------------------------------------------------------------------

    def _fetch_reply(self, board: Board, ending: Ending, limit_s: float) -> bytes:
        size = ending.reply_bytes
        if size is None:
            raise TargetError(
                f"{self.source}: {_why_no_reply(ending, limit_s)}", hint=_advice(ending)
            )
        if size > MAX_REPLY_BYTES:
            raise TargetError(
                f"{self.source} has a reply of {size} bytes; at most {MAX_REPLY_BYTES} are read, so it was not fetched"
            )
        return board.fetch("reply.json", limit_bytes=size, sha256=ending.reply_sha256)


def sanitize_reply(reply: Reply) -> Reply:
    """The reply without control characters in the words that a person is going to read."""
    changes: dict[str, Any] = {
        "identity": _printable(reply.identity),
        "phase": printable(reply.phase),
    }
    if reply.error is not None:
        changes["error"] = _printable(reply.error)
    return reply.model_copy(update=changes)


def _printable(told: A) -> A:
    words = {name: printable(value) for name, value in told if isinstance(value, str)}
    return told.model_copy(update=words)


def _introduction(source: str, identity: MachineIdentity) -> str:
    what = (
        identity.board or identity.cpu or identity.machine or "a machine that does not name itself"
    )
    memory = f", {identity.memory_bytes / 2**30:.1f} GiB" if identity.memory_bytes else ""
    return (
        f"{source}: {what}, {identity.cores or '?'} cores{memory}, Python {identity.python}, "
        f"numpy {identity.numpy or 'missing'}, onnxruntime {identity.onnxruntime or 'missing'}"
    )


def _new_enough(libc: str) -> bool:
    name, _, version = libc.partition(" ")
    numbers = version.split(".")[:2]
    return (
        name == "glibc"
        and all(n.isdigit() for n in numbers)
        and tuple(map(int, numbers)) >= _OLDEST_GLIBC
    )


def _why_no_reply(ending: Ending, limit_s: float) -> str:
    died = signal_of(ending.status)
    said = f" ({ending.said.splitlines()[-1]})" if ending.said else ""
    if ending.status == 124:
        return f"the job was still at work after {limit_s:.0f} s and was stopped there"
    if died == "SIGKILL":
        return f"the runner was killed there{said}: most likely the board ran out of memory"
    if died is not None:
        return f"the runner died there of {died}{said}"
    return f"the runner ended with status {ending.status} and left no reply{said}"


def _advice(ending: Ending) -> str | None:
    if ending.status == 124:
        return "give it fewer lengths or fewer threads, or a smaller model"
    if signal_of(ending.status) == "SIGKILL":
        return "try the int8 model, or stop other programs there"
    return None
