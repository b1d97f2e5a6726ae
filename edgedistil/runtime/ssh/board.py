"""Our folder on a board: files by sha256, jobs, and its removal.

Every script here is for `sh`, and every value in it is quoted. Nothing stays on the board: at the
end its processes are killed and the folder is removed, and folders that a lost connection left
behind are removed by a later connection (docs/decisions.md#the-board-is-left-as-it-was).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import IO, Any

from edgedistil.core import console
from edgedistil.core.echo import printable
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime.protocol import RUNNER
from edgedistil.runtime.reply import clean_texts
from edgedistil.runtime.ssh.connection import CommandResult, Connection
from edgedistil.runtime.ssh.scripts import DESCRIBE_SCRIPT, OPEN_SCRIPT

OLDEST_PYTHON = (3, 9)
# Limit of commands that only look at the board or move files on it.
_SHORT_S = 120.0
_UNPACK_S = 600.0
# A transfer slower than this is considered stuck.
_SLOWEST_BYTES_PER_S = 50_000
# Between SIGTERM and SIGKILL: the runner's supervisor uses it to kill its worker.
_KILL_AFTER_S = 10
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*")
_FOLDER = re.compile(r"/(?:.*/)?\.?edgedistil\.[A-Za-z0-9]{6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Exit statuses of our own scripts.
_CANNOT_STORE, _WRONG_SHA256 = 3, 4


@dataclass
class Board:
    """Our folder on a board.

    Attributes:
        connection: Connection to the board.
        folder: Absolute path of the folder there.
        python: Version of python3 there: "3.11".
        environment: Further environment variables of python3 there.
        sent_bytes: Bytes of all files sent so far.
    """

    connection: Connection
    folder: str
    python: str
    environment: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0
    _sent: set[str] = field(default_factory=set)

    @property
    def source(self) -> str:
        """Name in messages."""
        return str(self.connection.destination)

    # --- identity --------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Returns the fields of MachineIdentity, with package versions, and the C library.

        Raises:
            TargetError: Python there did not return a JSON object.
        """
        runner = self.place(RUNNER)
        result = self._sh(f"{self._python()} -c {quote(DESCRIBE_SCRIPT)} {quote(runner)}")
        try:
            facts = clean_texts(json.loads(result.stdout.decode("utf-8")))
            if not isinstance(facts, dict):
                raise ValueError("not a JSON object")
        # 50,000 opening brackets end in a RecursionError.
        except (ValueError, RecursionError) as error:
            raise TargetError(
                f"{self.source}: Python {self.python} there could not describe the board: "
                f"{_last_line(result)}"
            ) from error
        return facts

    def check_import(self, versions: str) -> None:
        """Raises TargetError if numpy and onnxruntime cannot be imported there.

        Args:
            versions: Names and versions for the message.
        Raises:
            TargetError: The import fails or crashes.
        """
        result = self._sh(f"{self._python()} -c {quote('import numpy, onnxruntime')}")
        if result.status != 0:
            raise TargetError(
                f"{self.source}: {versions} cannot be imported there: {_format_failure(result)}",
                hint="install another version there, or send one with --bootstrap",
            )

    # --- files -----------------------------------------------------------------------------------

    def place(self, file: Path) -> str:
        """Returns a local file's path on the board, sent if new.

        Raises:
            TargetError: The transfer was incomplete, or the board cannot store the file.
        """
        sha256 = sha256_file(file)
        remote = f"{self.folder}/files/{sha256}"
        if sha256 not in self._sent:
            self._send(file, sha256, remote)
            self._sent.add(sha256)
        return remote

    def _send(self, file: Path, sha256: str, remote: str) -> None:
        size = file.stat().st_size
        part = quote(remote + ".part")
        # The file gets its name only after its digest was compared.
        script = (
            f"umask 077; cat > {part} || {{ rm -f {part}; exit {_CANNOT_STORE}; }}\n"
            f"digest=$(sha256sum < {part})\n"
            f'if [ "${{digest%% *}}" != {sha256} ]; then rm -f {part}; exit {_WRONG_SHA256}; fi\n'
            f"mv -f {part} {quote(remote)}"
        )
        timeout = _SHORT_S + size / _SLOWEST_BYTES_PER_S
        with (
            file.open("rb") as stream,
            console.progress(f"sending {file.name}", size, unit="bytes") as bar,
        ):
            tick = _advance_with(stream, bar)
            result = self.connection.run(script, stdin=stream, timeout_s=timeout, tick=tick)
        if result.status == _WRONG_SHA256:
            raise TargetError(
                f"{self.source}: transfer of {file.name} incomplete: sha256 mismatch; try again"
            )
        if result.status != 0:
            raise TargetError(
                f"{self.source} cannot store {file.name} ({size} bytes): {_last_line(result)}",
                hint="check the free space on its disk: the model has to fit there",
            )
        self.sent_bytes += size

    def unpack(self, archives: list[str], name: str) -> str:
        """Unpacks placed zip files (wheels) into one folder there; returns its path."""
        folder = f"{self.folder}/{name}"
        for archive in archives:
            # Python is there in any case, `unzip` may not be.
            script = f"python3 -m zipfile -e {quote(archive)} {quote(folder)}"
            result = self._sh(script, timeout_s=_UNPACK_S)
            if result.status != 0:
                raise TargetError(
                    f"{self.source} cannot unpack {name}: {_last_line(result)}",
                    hint="check the free space on its disk",
                )
        return folder

    # --- one job ---------------------------------------------------------------------------------

    def start(self, job: bytes, files: dict[str, str], *, timeout_s: float) -> JobOutcome:
        """Runs a job in a fresh folder and waits until it ends.

        Args:
            job: Bytes of job.json.
            files: Name in the job's folder → path on the board, as `place` returned it.
            timeout_s: Enforced on the board, and somewhat later here.
        """
        self._prepare_job(job, files)
        folder = quote(f"{self.folder}/job")
        runner = quote(self.place(RUNNER))
        # The job runs in the background so that its process id can be stored: `close` kills it by
        # that id, and by the process group that `timeout` makes.
        script = f"""cd {folder} || exit {_CANNOT_STORE}
timeout -k {_KILL_AFTER_S} {int(timeout_s)} {self._python()} {runner} job.json reply.json \
  </dev/null >/dev/null 2>messages &
echo $! > ../pid
wait $!
echo "status=$?"
rm -f ../pid
[ -f reply.json ] && echo "bytes=$(wc -c < reply.json)" && echo "sha256=$(sha256sum < reply.json)"
tail -c 2000 messages >&2
exit 0"""
        local_timeout = timeout_s + 2 * _KILL_AFTER_S + _SHORT_S
        result = self.connection.run(script, timeout_s=local_timeout)
        values = _parse_values(result)
        if not values.get("status", "").isdigit():
            raise TargetError(
                f"{self.source} did not report how the job ended: {_last_line(result)}"
            )
        size = values.get("bytes", "").strip()
        return JobOutcome(
            status=int(values["status"]),
            reply_bytes=int(size) if size.isdigit() else None,
            reply_sha256=values.get("sha256", "")[:64],
            messages=result.stderr.strip(),
        )

    def _prepare_job(self, job: bytes, files: dict[str, str]) -> None:
        """Makes the job's folder there, with links to its files."""
        folder = f"{self.folder}/job"
        names = [check_name(name) for name in files]
        subfolders = sorted({f"{folder}/{name.rpartition('/')[0]}" for name in names})
        quoted = " ".join(quote(subfolder) for subfolder in subfolders)
        lines = [
            "umask 077",
            f"rm -rf {quote(folder)}",
            f"mkdir -p {quoted} || exit {_CANNOT_STORE}",
        ]
        # Hard links: a job needs no second copy of a model on the board's disk.
        for name in names:
            link = quote(f"{folder}/{name}")
            lines.append(f"ln -f {quote(files[name])} {link} || exit {_CANNOT_STORE}")
        lines.append(f"cat > {quote(folder)}/job.json")
        with _stream(job) as stream:
            result = self.connection.run("\n".join(lines), stdin=stream, timeout_s=_SHORT_S)
        if result.status != 0:
            raise TargetError(f"{self.source} cannot prepare the job: {_last_line(result)}")

    def fetch(self, name: str, *, limit_bytes: int, sha256: str) -> bytes:
        """Reads a file of the job's folder.

        Raises:
            TargetError: It exceeds the limit, or the transfer was incomplete.
        """
        remote = quote(f"{self.folder}/job/{check_name(name)}")
        timeout = _SHORT_S + limit_bytes / _SLOWEST_BYTES_PER_S
        result = self.connection.run(f"cat {remote}", timeout_s=timeout, limit_bytes=limit_bytes)
        if result.status != 0:
            raise TargetError(f"{self.source} cannot read {name}: {_last_line(result)}")
        check_sha256(result.stdout, sha256, name=name, source=self.source)
        return result.stdout

    # --- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Kills the processes in our folder and removes it, or warns."""
        try:
            result = self.connection.run(self._removal(), timeout_s=_SHORT_S)
            reason = _last_line(result) if result.status != 0 else None
        except TargetError as error:
            reason = error.message
        if reason is not None:
            console.warn(f"{self.folder} could not be removed on {self.source}: {reason}")

    def remove_when_this_ends(self) -> None:
        """Has the board remove our folder itself if this process is killed."""
        self.connection.run_when_this_ends(self._removal())

    def _removal(self) -> str:
        """Returns the script that kills the job and removes our folder."""
        folder = quote(self.folder)
        # First the job itself, so that the supervisor can end its worker, then its process group.
        return (
            f"if pid=$(cat {folder}/pid 2>/dev/null); then\n"
            f'  kill -s TERM "$pid" 2>/dev/null; sleep 0.5; kill -s KILL -- "-$pid" 2>/dev/null\n'
            f"fi\nrm -rf {folder}"
        )

    def _python(self) -> str:
        """Returns the beginning of a command line that runs python3 there."""
        # onnxruntime writes a device id and a database into the cache folder, which must not stay
        # on the board: docs/log.md#onnxruntime-writes-into-the-cache-folder.
        scratch = self.folder + "/scratch"
        variables = {"TMPDIR": scratch, "XDG_CACHE_HOME": scratch, **self.environment}
        assignments = [f"{name}={quote(value)}" for name, value in variables.items()]
        return " ".join(["env", *assignments, "python3"])

    def _sh(self, script: str, *, timeout_s: float = _SHORT_S) -> CommandResult:
        return self.connection.run(script, timeout_s=timeout_s)


@dataclass(frozen=True)
class JobOutcome:
    """End of a job on the board.

    Attributes:
        status: Exit status of the runner; above 128, a signal; 124, `timeout` stopped it.
        reply_bytes: Size of the reply; None if it is missing.
        reply_sha256: Digest of the reply.
        messages: The end of the runner's stderr.
    """

    status: int
    reply_bytes: int | None
    reply_sha256: str
    messages: str


def open_board(connection: Connection) -> Board:
    """Makes our folder on the board and checks its programs.

    Raises:
        TargetError: It lacks Python 3.9 or newer, or a standard program of Linux.
    """
    source = str(connection.destination)
    values = _parse_values(connection.run(OPEN_SCRIPT, timeout_s=_SHORT_S))
    folder = values.get("folder", "")
    # The folder is removed at the end: its name has to be one that `OPEN_SCRIPT` gives.
    if not _FOLDER.fullmatch(folder):
        raise TargetError(
            f"{source}: cannot create a folder, neither in the home folder nor in /var/tmp"
        )
    board = Board(connection, folder, values.get("python", ""))
    board.remove_when_this_ends()
    try:
        _check_programs(values, source)
    except BaseException:
        board.close()
        raise
    return board


def _check_programs(values: dict[str, str], source: str) -> None:
    """Raises TargetError if a program is missing or Python is old."""
    if "lacks" in values:
        raise TargetError(
            f"{source} lacks the program {values['lacks']}",
            hint="install coreutils and findutils there",
        )
    if "python" not in values:
        raise TargetError(
            f"{source} has no python3", hint="install it there: sudo apt install python3"
        )
    version = re.fullmatch(r"(\d+)\.(\d+)", values["python"])
    if version is None:
        raise TargetError(f"{source}: python3 does not work there")
    if (int(version[1]), int(version[2])) < OLDEST_PYTHON:
        raise TargetError(f"{source} has Python {values['python']}; the runner needs 3.9 or newer")


def check_name(name: str) -> str:
    """Returns the name of a file in a job's folder, unchanged.

    Raises:
        InputError: It has other characters than a shell and a path read as they are, or more than
            one folder.
    """
    if not _NAME.fullmatch(name) or ".." in name.split("/"):
        raise InputError(
            f"{name!r} is not a valid name of a job's file: expected letters, digits and ._-, in "
            f"at most one folder"
        )
    return name


def check_sha256(data: bytes, sha256: str, *, name: str, source: str) -> None:
    """Raises TargetError if `data` does not have the digest.

    Args:
        data: Content of a file from the board.
        sha256: Digest that the board reported.
        name: Name of the file in the message.
        source: Name of the board in the message.
    """
    if not _SHA256.fullmatch(sha256) or hashlib.sha256(data).hexdigest() != sha256:
        raise TargetError(
            f"{source}: transfer of {name} incomplete: sha256 mismatch after {len(data)} bytes",
            hint="the connection failed or the disk there is full: try again",
        )


def signal_of(status: int) -> str | None:
    """Returns the signal that a shell's status reports, or None.

    A shell reports a signal as 128 + its number.
    """
    if status <= 128:
        return None
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return f"signal {status - 128}"


def _format_failure(result: CommandResult) -> str:
    name = signal_of(result.status)
    return f"it dies of {name}" if name else _last_line(result)


def _last_line(result: CommandResult) -> str:
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {result.status}"


def _parse_values(result: CommandResult) -> dict[str, str]:
    """Parses lines of `key=value`; the first value of a key counts."""
    values: dict[str, str] = {}
    for line in printable(result.stdout.decode("utf-8", "replace")).splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values.setdefault(key, value)
    return values


def _advance_with(stream: IO[bytes], bar: console.Bar) -> Callable[[], None]:
    """Returns a callback that moves a bar by what ssh has read."""
    done = 0

    def tick() -> None:
        nonlocal done
        # ssh inherited the open file, so both processes share its position.
        position = os.lseek(stream.fileno(), 0, os.SEEK_CUR)
        bar.advance(position - done)
        done = position

    return tick


@contextmanager
def _stream(data: bytes) -> Iterator[IO[bytes]]:
    """Yields an open file that contains `data`, for the input of ssh."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file
