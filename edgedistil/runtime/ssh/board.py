"""A folder of ours on a board, over a connection: what the board says of itself, files by sha256, jobs, then gone.

Every script here is for `sh`, and every value in it is quoted. Nothing stays behind: the folder is removed at the end,
what runs in it is killed first, and folders that a lost connection left are removed on a later visit.
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
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime.protocol import RUNNER
from edgedistil.runtime.ssh.connection import CommandResult, Connection, printable

OLDEST_PYTHON = (3, 9)
_SHORT_S = 120.0
_SLOWEST_BYTES_PER_S = 50_000  # a transfer below this is called stuck
_KILL_AFTER_S = 10
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_HELLO = """
umask 077
for program in timeout sha256sum mktemp find; do
  command -v $program >/dev/null 2>&1 || echo "lacks=$program"
done
find "$HOME" /var/tmp -maxdepth 1 -type d \\( -name '.edgedistil.??????' -o -name 'edgedistil.??????' \\) \
  -user "$(id -un)" -mmin +1440 -exec rm -rf {} + 2>/dev/null
folder=$(mktemp -d "$HOME/.edgedistil.XXXXXX" 2>/dev/null || mktemp -d /var/tmp/edgedistil.XXXXXX) || exit 1
mkdir "$folder/files" "$folder/scratch"
echo "folder=$folder"
command -v python3 >/dev/null 2>&1 && echo "python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
exit 0
"""

_TELL = """
import importlib.util, json, platform, re, runpy, sys
found = runpy.run_path(sys.argv[1])["read_identity"]()
def version(module, names):
    # without importing it: a version that does not fit this processor dies when it is imported
    from importlib import metadata
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        return None
    told = re.search(r"__version__\\s*=\\s*[\\"']([^\\"']+)", open(spec.origin, encoding="utf-8").read())
    return told.group(1) if told else "of an untold version"
found["numpy"] = version("numpy", ["numpy"])
found["onnxruntime"] = version("onnxruntime", ["onnxruntime", "onnxruntime-gpu"])
found["libc"] = " ".join(platform.libc_ver())
print(json.dumps(found))
"""


@dataclass
class Board:
    """A board that answered: our folder there, and what has been sent to it."""

    connection: Connection
    folder: str
    python: str
    environment: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0
    _sent: set[str] = field(default_factory=set)

    @property
    def source(self) -> str:
        return str(self.connection.destination)

    # --- what it says of itself -----------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """MachineIdentity, and the versions of numpy and onnxruntime, found without importing them."""
        runner = self.place(RUNNER)
        answer = self._sh(f"{self._python()} -c {quote(_TELL)} {quote(runner)}")
        try:
            found = json.loads(answer.stdout.decode("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise TargetError(
                f"{self.source}: Python {self.python} there could not say what the board is: {_last(answer)}"
            ) from error
        return {
            key: printable(value) if isinstance(value, str) else value
            for key, value in found.items()
        }

    def check_import(self, versions: str) -> None:
        """Returns if numpy and onnxruntime can be imported there.

        Raises:
            TargetError: They cannot; says of what it died.
        """
        answer = self._sh(f"{self._python()} -c {quote('import numpy, onnxruntime')}")
        if answer.status != 0:
            raise TargetError(
                f"{self.source}: {versions} cannot be imported there: {_ending(answer)}",
                hint="install another version there, or let --bootstrap send one",
            )

    # --- files ------------------------------------------------------------------------------------------

    def place(self, file: Path) -> str:
        """Where a local file lies there; it is sent unless it was before, and takes its name only if it came whole.

        Raises:
            TargetError: It did not come whole, or there is no room for it.
        """
        sha256 = sha256_file(file)
        there = f"{self.folder}/files/{sha256}"
        if sha256 not in self._sent:
            self._send(file, sha256, there)
            self._sent.add(sha256)
        return there

    def _send(self, file: Path, sha256: str, there: str) -> None:
        size, part = file.stat().st_size, quote(there + ".part")
        script = (
            f"umask 077; cat > {part} || {{ rm -f {part}; exit 3; }}\n"
            f'told=$(sha256sum < {part}); if [ "${{told%% *}}" != {sha256} ]; then rm -f {part}; exit 4; fi\n'
            f"mv -f {part} {quote(there)}"
        )
        with (
            file.open("rb") as stream,
            console.progress(f"sending {file.name}", size, unit="bytes") as bar,
        ):
            timeout = _SHORT_S + size / _SLOWEST_BYTES_PER_S
            answer = self.connection.run(
                script, stdin=stream, timeout_s=timeout, tick=_advance(bar, stream)
            )
        if answer.status == 4:
            raise TargetError(
                f"{self.source}: {file.name} did not arrive whole (sha256 differs); try again"
            )
        if answer.status != 0:
            raise TargetError(
                f"{self.source} cannot store {file.name} ({size} bytes): {_last(answer)}",
                hint="is there room on its disk? the model has to fit there",
            )
        self.sent_bytes += size

    def unpack(self, archives: list[str], name: str) -> str:
        """A folder there with the contents of zip files (wheels) that were placed before."""
        into = f"{self.folder}/{name}"
        for archive in archives:
            answer = self._sh(
                f"python3 -m zipfile -e {quote(archive)} {quote(into)}", timeout_s=600
            )
            if answer.status != 0:
                raise TargetError(
                    f"{self.source} cannot unpack {name}: {_last(answer)}",
                    hint="is there room on its disk?",
                )
        return into

    # --- one job ------------------------------------------------------------------------------------------

    def start(self, job: bytes, files: dict[str, str], *, timeout_s: float) -> Ending:
        """Runs the runner on a job in a fresh folder until it ends; `timeout_s` is enforced there, a bit later here.

        Args:
            files: Name in the job's folder → where it was placed.
        """
        place = f"{self.folder}/job"
        names = [check_name(name) for name in files]
        folders = sorted({f"{place}/{name.rpartition('/')[0]}" for name in names})
        links = [
            f"ln -f {quote(files[name])} {quote(f'{place}/{name}')} || exit 3" for name in names
        ]
        with _stream(job) as stream:
            answer = self.connection.run(
                "\n".join(
                    [
                        f"umask 077; rm -rf {quote(place)}; mkdir -p {' '.join(map(quote, folders))} || exit 3",
                        *links,
                        f"cat > {quote(place)}/job.json",
                    ]
                ),
                stdin=stream,
                timeout_s=_SHORT_S,
            )
        if answer.status != 0:
            raise TargetError(f"{self.source} cannot prepare the job: {_last(answer)}")
        runner = quote(self.place(RUNNER))
        answer = self.connection.run(
            f"""cd {quote(place)} || exit 3
timeout -k {_KILL_AFTER_S} {int(timeout_s)} {self._python()} {runner} job.json reply.json </dev/null >/dev/null 2>said &
echo $! > ../pid
wait $!
echo "status=$?"
rm -f ../pid
[ -f reply.json ] && echo "bytes=$(wc -c < reply.json)" && echo "sha256=$(sha256sum < reply.json)"
tail -c 2000 said >&2
exit 0""",
            timeout_s=timeout_s + 2 * _KILL_AFTER_S + _SHORT_S,
        )
        told = _lines(answer)
        if not told.get("status", "").isdigit():
            raise TargetError(f"{self.source} did not say how the job ended: {_last(answer)}")
        size = told.get("bytes", "").strip()
        sha256 = told.get("sha256", "")[:64]
        return Ending(
            int(told["status"]),
            int(size) if size.isdigit() else None,
            sha256,
            answer.stderr.strip(),
        )

    def fetch(self, name: str, *, limit_bytes: int, sha256: str) -> bytes:
        """A file of the job's folder, checked.

        Raises:
            TargetError: It is larger than the limit, or did not come whole.
        """
        there = quote(f"{self.folder}/job/{check_name(name)}")
        answer = self.connection.run(
            f"cat {there}",
            timeout_s=_SHORT_S + limit_bytes / _SLOWEST_BYTES_PER_S,
            limit_bytes=limit_bytes,
        )
        if answer.status != 0:
            raise TargetError(f"{self.source} cannot read {name}: {_last(answer)}")
        check_whole(answer.stdout, sha256, name=name, source=self.source)
        return answer.stdout

    # --- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends what runs there, and removes our folder; says so when it cannot."""
        folder = quote(self.folder)
        script = (
            f"if pid=$(cat {folder}/pid 2>/dev/null); then\n"
            f'  kill -s TERM "$pid" 2>/dev/null; sleep 0.5; kill -s KILL -- "-$pid" 2>/dev/null\n'
            f"fi\nrm -rf {folder}"
        )
        try:
            answer = self.connection.run(script, timeout_s=_SHORT_S)
            failed = _last(answer) if answer.status != 0 else None
        except TargetError as error:
            failed = error.message
        if failed is not None:
            console.warn(f"{self.folder} could not be removed on {self.source}: {failed}")

    def _python(self) -> str:
        # onnxruntime keeps a device id and a database of its own in the cache folder: it must not stay behind.
        scratch = self.folder + "/scratch"
        given = {"TMPDIR": scratch, "XDG_CACHE_HOME": scratch, **self.environment}
        return " ".join(
            ["env", *(f"{name}={quote(value)}" for name, value in given.items()), "python3"]
        )

    def _sh(self, script: str, *, timeout_s: float = _SHORT_S) -> CommandResult:
        return self.connection.run(script, timeout_s=timeout_s)


@dataclass(frozen=True)
class Ending:
    """How a job ended there, and what it left."""

    status: int
    reply_bytes: int | None
    reply_sha256: str
    said: str


def open_board(connection: Connection) -> Board:
    """A board with a folder of ours.

    Raises:
        TargetError: It lacks Python 3.9 or newer, or a program that every Linux has.
    """
    source = str(connection.destination)
    told = _lines(connection.run(_HELLO, timeout_s=_SHORT_S))
    folder = told.get("folder", "")
    if not folder.startswith("/"):
        raise TargetError(
            f"{source} has no folder to work in: neither its home nor /var/tmp can be written"
        )
    board = Board(connection, folder, told.get("python", ""))
    try:
        _check_greeting(told, source)
    except BaseException:
        board.close()
        raise
    return board


def _check_greeting(told: dict[str, str], source: str) -> None:
    if "lacks" in told:
        raise TargetError(
            f"{source} lacks the program {told['lacks']}",
            hint="install coreutils and findutils there",
        )
    if "python" not in told:
        raise TargetError(
            f"{source} has no python3", hint="install it there: sudo apt install python3"
        )
    version = re.fullmatch(r"(\d+)\.(\d+)", told["python"])
    if version is None:
        raise TargetError(f"{source}: python3 does not work there")
    if (int(version[1]), int(version[2])) < OLDEST_PYTHON:
        raise TargetError(f"{source} has Python {told['python']}; the runner needs 3.9 or newer")


def check_name(name: str) -> str:
    """A file name in a job's folder, at most one folder deep.

    Raises:
        InputError: It is none.
    """
    if not _NAME.fullmatch(name) or ".." in name.split("/"):
        raise InputError(
            f"{name!r} cannot name a file of a job: expected letters, digits and ._-, at most one folder"
        )
    return name


def check_whole(data: bytes, sha256: str, *, name: str, source: str) -> None:
    """Returns if `data` has that digest.

    Raises:
        TargetError: It has not: half a file came.
    """
    if not _SHA256.fullmatch(sha256) or hashlib.sha256(data).hexdigest() != sha256:
        raise TargetError(
            f"{source}: {name} came in half ({len(data)} bytes whose sha256 is not the one told there)",
            hint="the connection or the disk there ended early: try again",
        )


def signal_of(status: int) -> str | None:
    """Name of the signal that a shell's status stands for, if it is one (128 + number)."""
    try:
        return signal.Signals(status - 128).name if status > 128 else None
    except ValueError:
        return f"signal {status - 128}"


def _ending(answer: CommandResult) -> str:
    died = signal_of(answer.status)
    return f"it dies of {died}" if died else _last(answer)


def _last(answer: CommandResult) -> str:
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {answer.status}"


def _lines(answer: CommandResult) -> dict[str, str]:
    """Lines of `key=value`; what a key says first counts."""
    found: dict[str, str] = {}
    for line in printable(answer.stdout.decode("utf-8", "replace")).splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, value)
    return found


def _advance(bar: console.Bar, stream: IO[bytes]) -> Callable[[], None]:
    """Moves a bar by what ssh has read: it reads through the same open file, so the position is shared."""
    done = 0

    def tick() -> None:
        nonlocal done
        at = os.lseek(stream.fileno(), 0, os.SEEK_CUR)
        bar.advance(at - done)
        done = at

    return tick


@contextmanager
def _stream(data: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file
