"""One ssh connection through the `ssh` binary: the user's config, agent, jump hosts and known hosts work as always.

A master process of our own holds the connection (its control socket in a private folder); every command goes through
it, so that a failure to connect and a failure of a command cannot be mistaken for each other. Nothing reaches a shell
unquoted: commands are composed with `shlex.quote`, and the destination is checked and stands behind `--`.
"""

from __future__ import annotations

import os
import re
import secrets
import selectors
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgedistil.core.errors import InputError, TargetError

Tick = Callable[[], None]

CONNECT_TIMEOUT_S = 15
_AUTHENTICATE_TIMEOUT_S = 45.0
_SOCKET_PATH_LIMIT = (
    80  # a unix socket's path has 108 bytes, and ssh appends some of its own while it binds
)
_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]"
_DESTINATION = re.compile(rf"(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT_S),
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "12",  # a board that swaps may not answer for a minute
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
# What ssh prints → what it means and what to do. The first that fits counts.
_REASONS = (
    (
        "Could not resolve hostname",
        "its name is not known",
        "check the spelling, or name an address",
    ),
    (
        "Connection refused",
        "nothing listens there",
        "start the ssh server on the board, or name its port: host:2222",
    ),
    ("No route to host", "it cannot be reached", "is it on, and on this network?"),
    ("Network is unreachable", "it cannot be reached", "is this machine on a network?"),
    ("timed out", "it does not answer", "is it on, and on this network?"),
    (
        "IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "if the board was set up anew: ssh-keygen -R HOST, then connect once by hand; else someone may be in between",
    ),
    (
        "Host key verification failed",
        "its host key is not known here",
        "connect once by hand with ssh, compare the fingerprint, and accept it",
    ),
    (
        "Permission denied",
        "it does not accept this user's key",
        "no password can be asked for here: ssh-copy-id puts a key on the board; `ssh -v` shows which ones are tried",
    ),
    (
        "Too many authentication failures",
        "it was offered too many keys",
        "set IdentitiesOnly and IdentityFile for it",
    ),
)


@dataclass(frozen=True)
class Destination:
    """Where to connect to, checked: it cannot be mistaken for an option, nor hold anything for a shell."""

    user: str | None
    host: str
    port: int | None

    def arguments(self) -> list[str]:
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, "--", self.host if self.user is None else f"{self.user}@{self.host}"]

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}@"
        return user + (self.host if self.port is None else f"{self.host}:{self.port}")


def parse_destination(text: str) -> Destination:
    """A checked destination: `host`, `user@host`, `user@host:port`, `user@[address]:port`.

    Raises:
        InputError: It is none; nothing was started.
    """
    found = _DESTINATION.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise InputError(
            f"--ssh {text!r} is no destination: expected host, user@host or user@host:port, of letters, digits and ._-",
            hint="for anything else (jump hosts, other keys), give the board a name in your ssh config",
        )
    return Destination(found["user"], found["host"].strip("[]"), port)


@dataclass(frozen=True)
class CommandResult:
    """What a remote command printed, and the status that its shell told."""

    status: int
    stdout: bytes
    stderr: str


class Connection:
    """An open connection. Use it as a context manager, or close it."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._ssh = shutil.which("ssh") or ""
        if not self._ssh:
            raise TargetError(
                "--ssh needs the ssh program, which is not installed",
                hint="apt-get install openssh-client",
            )
        self._folder = _short_folder()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the connection
        try:
            self._master = self._connect()
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        """Ends the connection; harmless when it has ended already."""
        if self._master.poll() is None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        self._forget()

    def run(
        self,
        script: str,
        *,
        stdin: IO[bytes] | None = None,
        timeout_s: float,
        limit_bytes: int = 2**20,
        tick: Tick | None = None,
    ) -> CommandResult:
        """What a POSIX shell script says there.

        Args:
            script: For `sh`; the caller has quoted what it put in.
            stdin: A stream for its input; nothing if not given.
            timeout_s: The local end: what runs there has to have a bound of its own.
            limit_bytes: More than this on stdout is an error, and reading stops there.
            tick: Called about five times a second while it runs.
        Raises:
            TargetError: The connection was lost, the command did not end, or it says too much.
        """
        # What a login script prints comes before the mark, and ssh's own status 255 cannot be told from the script's.
        mark = f"edgedistil-{secrets.token_hex(8)}"
        wrapped = f"printf '\\n%s\\n' {mark}; ( {script}\n); printf '\\n%s %s\\n' {mark} $?"
        with self._started(f"exec sh -c {shlex.quote(wrapped)}", stdin) as (process, stderr):
            data = self._read(process, timeout_s, limit_bytes, tick)
            stderr.seek(0)
            said = printable(stderr.read(2**16).decode("utf-8", "replace"))
        return self._answer(data, mark, said)

    def _answer(self, data: bytes, mark: str, said: str) -> CommandResult:
        _, _, rest = data.partition(f"\n{mark}\n".encode())
        body, end, status = rest.rpartition(f"\n{mark} ".encode())
        if not end or not status.strip().isdigit():
            last = (said.strip().splitlines() or ["no reason was told"])[-1]
            raise TargetError(
                f"the connection to {self.destination} ended in the middle of an answer: {last}",
                hint="the board may have been switched off, restarted, or run out of memory; try again",
            )
        return CommandResult(int(status), body, said)

    @contextmanager
    def _started(
        self, command: str, stdin: IO[bytes] | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(  # noqa: S603 - checked destination, quoted command, no shell here
                [*self._base(), "-o", "ControlMaster=no", *self.destination.arguments(), command],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is ours: we end the remote side before we end ssh
            )
            try:
                yield process, stderr
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()

    def _read(
        self,
        process: subprocess.Popen[bytes],
        timeout_s: float,
        limit_bytes: int,
        tick: Tick | None,
    ) -> bytes:
        assert process.stdout is not None
        descriptor, deadline, size = process.stdout.fileno(), time.monotonic() + timeout_s, 0
        parts: list[bytes] = []
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while True:
                if tick is not None:
                    tick()
                if time.monotonic() > deadline:
                    raise TargetError(f"{self.destination} did not answer within {timeout_s:.0f} s")
                if not ready.select(timeout=0.2):
                    continue
                part = os.read(descriptor, 2**16)
                if not part:
                    return b"".join(parts)
                parts.append(part)
                size += len(part)
                if size > limit_bytes + 2**16:  # room for what a login script prints
                    raise TargetError(
                        f"{self.destination} sent more than the {limit_bytes} bytes expected; the rest was not read"
                    )

    # --- the master ---------------------------------------------------------------------------------

    def _base(self) -> list[str]:
        options = [part for key, value in _OPTIONS.items() for part in ("-o", f"{key}={value}")]
        return [self._ssh, *options, "-S", str(self._folder / "s")]

    def _connect(self) -> subprocess.Popen[bytes]:
        master = subprocess.Popen(  # noqa: S603 - checked destination, no shell
            [
                *self._base(),
                "-o",
                "ControlMaster=yes",
                "-o",
                "ControlPersist=no",
                "-N",
                *self.destination.arguments(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )
        deadline = time.monotonic() + CONNECT_TIMEOUT_S + _AUTHENTICATE_TIMEOUT_S
        try:
            while not (self._folder / "s").exists():
                if master.poll() is not None:
                    raise self._refusal()
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"cannot connect to {self.destination}: no answer to the login"
                    )
                time.sleep(0.02)
        except BaseException:
            master.kill()
            master.wait()
            raise
        return master

    def _refusal(self) -> TargetError:
        self._stderr.seek(0)
        said = printable(self._stderr.read(2**16).decode("utf-8", "replace"))
        lines = [
            line
            for line in said.splitlines()
            if line.strip() and not line.startswith("Warning: Permanently")
        ]
        told = lines[-1].strip().removeprefix("ssh: ") if lines else "ssh ended without a word"
        for sign, meaning, advice in _REASONS:
            if sign in said:
                return TargetError(
                    f"cannot connect to {self.destination}: {meaning} (ssh: {told})", hint=advice
                )
        return TargetError(
            f"cannot connect to {self.destination}: {told}",
            hint="does `ssh` connect when run by hand?",
        )

    def _forget(self) -> None:
        self._stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def printable(text: str) -> str:
    """Text of another machine without the control characters that could move or colour this terminal."""
    lines = text.replace(
        "\r\n", "\n"
    )  # ssh ends its own lines as a terminal in raw mode wants them
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in lines)


def _short_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgedistil-ssh-"))
    if len(str(folder)) <= _SOCKET_PATH_LIMIT:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="edgedistil-ssh-", dir="/tmp"))
