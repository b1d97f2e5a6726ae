"""One ssh connection through the `ssh` program.

The user's config, agent, jump hosts and known hosts apply as usual. A master process of our own
holds the connection, with its control socket in a private folder, and every command goes through
it: so a failure to connect cannot be confused with a failure of a command
(docs/decisions.md#the-ssh-binary-with-a-master-process-of-our-own). Nothing reaches a shell
unquoted: commands are built with `shlex.quote`, and the destination is validated and follows `--`.
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
from typing import IO, NamedTuple

from edgedistil.core.echo import printable
from edgedistil.core.errors import InputError, TargetError

Tick = Callable[[], None]

CONNECT_TIMEOUT_S = 15
# Key exchange and login on a slow, busy board take longer than the TCP connection.
_AUTHENTICATE_TIMEOUT_S = 45.0
# The path of a unix socket has at most 108 bytes, and ssh appends some while it binds.
_SOCKET_PATH_LIMIT = 80
# A login script may print this much on top of a command's expected output.
_LOGIN_OUTPUT_BYTES = 2**16
_STDERR_BYTES = 2**16
_READ_BYTES = 2**16
# Bounds the delay of a timeout and of the progress bar while nothing arrives.
_POLL_S = 0.2

_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]"
_DESTINATION = re.compile(rf"(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_OPTIONS = {
    # No terminal to ask for a password: ssh must fail instead of waiting for one.
    "BatchMode": "yes",
    "ConnectTimeout": str(CONNECT_TIMEOUT_S),
    # Two minutes without an answer: a board that swaps may need one of them.
    "ServerAliveInterval": "10",
    "ServerAliveCountMax": "12",
    # The user's config may ask for these; they would be side effects of a measurement.
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}


class ConnectFailure(NamedTuple):
    """A message of ssh, with its meaning and what to do.

    Attributes:
        pattern: Text that ssh prints.
        meaning: Continues "cannot connect to HOST: ".
        advice: Hint of the error.
    """

    pattern: str
    meaning: str
    advice: str


# In this order: the first pattern that occurs decides. A changed host key also ends in "Host key
# verification failed", so it is checked first.
_CONNECT_FAILURES = (
    ConnectFailure(
        "Could not resolve hostname",
        "the host name cannot be resolved",
        "check the spelling, or use an IP address",
    ),
    ConnectFailure(
        "Connection refused",
        "no ssh server listens on this port",
        "start the ssh server on the board, or give its port: host:2222",
    ),
    ConnectFailure(
        "No route to host",
        "the host is unreachable",
        "check that it is switched on and on this network",
    ),
    ConnectFailure(
        "Network is unreachable",
        "the network is unreachable",
        "check that this machine has a network",
    ),
    ConnectFailure(
        "timed out",
        "the host does not respond",
        "check that it is switched on and on this network",
    ),
    ConnectFailure(
        "IDENTIFICATION HAS CHANGED",
        "its host key differs from the known one",
        "If the board was reinstalled, run ssh-keygen -R HOST and connect once manually; "
        "otherwise this may be a man-in-the-middle attack.",
    ),
    ConnectFailure(
        "Host key verification failed",
        "its host key is unknown",
        "connect once manually with ssh, compare the fingerprint, and accept it",
    ),
    ConnectFailure(
        "Permission denied",
        "it does not accept this user's key",
        "passwords are not supported: copy a key to the board with ssh-copy-id; "
        "`ssh -v` shows which keys are tried",
    ),
    ConnectFailure(
        "Too many authentication failures",
        "ssh offered it too many keys",
        "set IdentitiesOnly and IdentityFile for it in your ssh config",
    ),
)


@dataclass(frozen=True)
class Destination:
    """A validated ssh destination, safe for ssh and a shell."""

    user: str | None
    host: str
    port: int | None

    def arguments(self) -> list[str]:
        """Returns the arguments of ssh that select it."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, "--", self._user_prefix() + self.host]

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return self._user_prefix() + self.host + port

    def _user_prefix(self) -> str:
        return "" if self.user is None else f"{self.user}@"


def parse_destination(text: str) -> Destination:
    """Parses `host`, `user@host`, `user@host:port` or `user@[address]:port`.

    Raises:
        InputError: It is something else; nothing was started.
    """
    match = _DESTINATION.fullmatch(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 0 < port < 65536):
        raise InputError(
            f"--ssh {text!r} is not a valid destination: expected host, user@host or "
            f"user@host:port, of letters, digits and ._-",
            hint="for anything else (jump hosts, other keys), give the board a name in your ssh "
            "config",
        )
    return Destination(match["user"], match["host"].strip("[]"), port)


@dataclass(frozen=True)
class CommandResult:
    """Output and exit status of a remote command."""

    status: int
    stdout: bytes
    stderr: str


class Connection:
    """An open ssh connection; call `close` at the end.

    Raises:
        TargetError: ssh is not installed, or the board cannot be reached.
    """

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self._ssh = shutil.which("ssh") or ""
        if not self._ssh:
            raise TargetError(
                "--ssh needs the ssh program, which is not installed",
                hint="on Debian and Ubuntu: apt-get install openssh-client",
            )
        self._folder = _short_folder()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _clean_up
        try:
            self._master = self._connect()
        except BaseException:
            self._clean_up()
            raise

    def close(self) -> None:
        """Ends the connection; does no harm if it has already ended."""
        if self._master.poll() is None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        self._clean_up()

    def run(
        self,
        script: str,
        *,
        stdin: IO[bytes] | None = None,
        timeout_s: float,
        limit_bytes: int = 2**20,
        tick: Tick | None = None,
    ) -> CommandResult:
        """Runs a POSIX shell script on the board.

        Args:
            script: For `sh`; the caller has quoted every value in it.
            stdin: Its input; empty if missing.
            timeout_s: When to stop waiting here; what runs there needs a limit of its own.
            limit_bytes: More output than this is an error, and the rest is not read.
            tick: Called about five times a second while it runs.
        Raises:
            TargetError: The connection was lost, or the command exceeded its time or output limit.
        """
        # The output is between two marks and the status follows the second one: a login script
        # prints before the first, and ssh's own status 255 may also be the script's.
        mark = f"edgedistil-{secrets.token_hex(8)}"
        marked = f"printf '\\n%s\\n' {mark}; ( {script}\n); printf '\\n%s %s\\n' {mark} $?"
        with self._start(f"exec sh -c {shlex.quote(marked)}", stdin) as (process, stderr):
            data = self._read(process, timeout_s, limit_bytes, tick)
            stderr.seek(0)
            messages = printable(stderr.read(_STDERR_BYTES).decode("utf-8", "replace"))
        return self._parse_output(data, mark, messages)

    def _parse_output(self, data: bytes, mark: str, messages: str) -> CommandResult:
        _, _, rest = data.partition(f"\n{mark}\n".encode())
        stdout, end, status = rest.rpartition(f"\n{mark} ".encode())
        # Without the second mark the output is incomplete.
        if not end or not status.strip().isdigit():
            lines = messages.strip().splitlines()
            reason = lines[-1] if lines else "ssh gave no reason"
            raise TargetError(
                f"the connection to {self.destination} was lost during a command: {reason}",
                hint="the board may have been switched off or restarted, or it ran out of memory; "
                "try again",
            )
        return CommandResult(int(status), stdout, messages)

    @contextmanager
    def _start(
        self, command: str, stdin: IO[bytes] | None
    ) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """Starts a command through the master; yields process and stderr file."""
        arguments = [*self._ssh_command(), "-o", "ControlMaster=no"]
        # A file, because stderr is read only after the command has ended.
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(  # noqa: S603 - checked destination, quoted command
                [*arguments, *self.destination.arguments(), command],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # Ctrl-C must not reach ssh: we end the remote process before the connection.
                start_new_session=True,
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
        """Reads the output until its end, within the limits."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        parts: list[bytes] = []
        size = 0
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while True:
                if tick is not None:
                    tick()
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"{self.destination} did not respond within {timeout_s:.0f} s"
                    )
                if not selector.select(timeout=_POLL_S):
                    continue
                part = os.read(descriptor, _READ_BYTES)
                if not part:
                    return b"".join(parts)
                parts.append(part)
                size += len(part)
                if size > limit_bytes + _LOGIN_OUTPUT_BYTES:
                    raise TargetError(
                        f"{self.destination} sent more than the expected {limit_bytes} bytes; "
                        f"the rest was not read"
                    )

    # --- the master ------------------------------------------------------------------------------

    def _ssh_command(self) -> list[str]:
        command = [self._ssh]
        for key, value in _OPTIONS.items():
            command += ["-o", f"{key}={value}"]
        return [*command, "-S", str(self._socket)]

    @property
    def _socket(self) -> Path:
        return self._folder / "s"

    def _connect(self) -> subprocess.Popen[bytes]:
        """Starts the master and waits until its control socket exists."""
        # ControlPersist would leave a process behind that outlives this one.
        options = ["-o", "ControlMaster=yes", "-o", "ControlPersist=no", "-N"]
        master = subprocess.Popen(  # noqa: S603 - checked destination, no shell
            [*self._ssh_command(), *options, *self.destination.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )
        deadline = time.monotonic() + CONNECT_TIMEOUT_S + _AUTHENTICATE_TIMEOUT_S
        try:
            # ssh creates the socket after the login succeeded.
            while not self._socket.exists():
                if master.poll() is not None:
                    raise self._connect_error()
                if time.monotonic() > deadline:
                    raise TargetError(
                        f"cannot connect to {self.destination}: the login did not complete"
                    )
                time.sleep(0.02)
        except BaseException:
            master.kill()
            master.wait()
            raise
        return master

    def _connect_error(self) -> TargetError:
        """Translates what ssh printed into an error."""
        self._stderr.seek(0)
        messages = printable(self._stderr.read(_STDERR_BYTES).decode("utf-8", "replace"))
        # ssh reports every newly accepted host key; that is not the reason of a failure.
        ignored = "Warning: Permanently"
        lines = [line.strip() for line in messages.splitlines() if not line.startswith(ignored)]
        lines = [line for line in lines if line]
        last_line = lines[-1].removeprefix("ssh: ") if lines else "ssh printed no reason"
        for failure in _CONNECT_FAILURES:
            if failure.pattern in messages:
                return TargetError(
                    f"cannot connect to {self.destination}: {failure.meaning} (ssh: {last_line})",
                    hint=failure.advice,
                )
        return TargetError(
            f"cannot connect to {self.destination}: {last_line}",
            hint="check that `ssh` connects when it is run manually",
        )

    def _clean_up(self) -> None:
        self._stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _short_folder() -> Path:
    """Creates a private folder with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="edgedistil-ssh-"))
    if len(str(folder)) <= _SOCKET_PATH_LIMIT:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="edgedistil-ssh-", dir="/tmp"))
