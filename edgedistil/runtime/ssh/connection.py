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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from edgedistil.core.echo import printable
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.processes import ending_with_this_process
from edgedistil.core.scratch import scratch_folder
from edgedistil.runtime.ssh.output import MarkedOutput

Tick = Callable[[], None]

CONNECT_TIMEOUT_S = 15
# Key exchange and login on a slow, busy board take longer than the TCP connection.
_AUTHENTICATE_TIMEOUT_S = 45.0
# The path of a unix socket has at most 108 bytes, and ssh appends some while it binds.
_SOCKET_PATH_LIMIT = 80
# For the guard on the board to remove what is there.
_GUARD_S = 5.0
_STDERR_BYTES = 2**16
_READ_BYTES = 2**16
# Bounds the delay of a timeout and of the progress bar while nothing arrives.
_POLL_S = 0.2

_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]"
_DESTINATION = re.compile(rf"(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
# A host name has at most 253 characters, a user name on Linux 32.
_DESTINATION_LIMIT = 300
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
    is_valid = match is not None and len(text) <= _DESTINATION_LIMIT
    if match is None or not is_valid or (port is not None and not 0 < port < 65536):
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
        self._cleanup = ExitStack()
        self._guards: list[subprocess.Popen[bytes]] = []
        try:
            self._folder = self._cleanup.enter_context(scratch_folder("ssh", parent=_parent()))
            stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the stack
            self._stderr: IO[bytes] = self._cleanup.enter_context(stderr)
            self._master = self._connect()
        except BaseException:
            self._cleanup.close()
            raise

    def close(self) -> None:
        """Ends the connection; does no harm if it has already ended."""
        for guard in self._guards:
            _end_guard(guard)
        if self._master.poll() is None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        self._cleanup.close()

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
        output = MarkedOutput(mark, limit_bytes, str(self.destination))
        with self._start(f"exec sh -c {shlex.quote(marked)}", stdin) as (process, stderr):
            self._read(process, timeout_s, output, tick)
            stderr.seek(0)
            messages = printable(stderr.read(_STDERR_BYTES).decode("utf-8", "replace"))
        return self._parse_output(output.content(), mark, messages)

    def run_when_this_ends(self, script: str) -> None:
        """Starts a script on the board that waits for the end of this process, then runs.

        It also runs when the connection is lost, or this process is killed: then nothing here could
        ask the board for it.

        Args:
            script: For `sh`; the caller has quoted every value in it. Its output is lost.
        """
        # Its input is a pipe that ends with this process: closed by `close`, or by the kernel.
        waiting = f"{{ cat; {script}\n}} >/dev/null 2>&1"
        guard = subprocess.Popen(  # noqa: S603 - checked destination, quoted command
            self._client_command(f"exec sh -c {shlex.quote(waiting)}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._guards.append(guard)

    def _parse_output(self, data: bytes, mark: str, messages: str) -> CommandResult:
        stdout, end, status = data.rpartition(f"\n{mark} ".encode())
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
        # A file, because stderr is read only after the command has ended.
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(  # noqa: S603 - checked destination, quoted command
                self._client_command(command),
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
        output: MarkedOutput,
        tick: Tick | None,
    ) -> None:
        """Reads the output until its end, within the limits."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
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
                    return
                output.add(part)

    # --- the master ------------------------------------------------------------------------------

    def _client_command(self, command: str) -> list[str]:
        """Returns the command line of a client that runs `command` through the master."""
        options = [*self._ssh_command(), "-o", "ControlMaster=no"]
        return [*options, *self.destination.arguments(), command]

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
        command = [*self._ssh_command(), *options, *self.destination.arguments()]
        master = subprocess.Popen(  # noqa: S603 - checked destination, no shell
            ending_with_this_process(command),
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


def _end_guard(guard: subprocess.Popen[bytes]) -> None:
    """Lets a script that waits for the end run, and waits for it."""
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(_GUARD_S)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _parent() -> Path | None:
    """Returns where the folder of the control socket goes; None for TMPDIR."""
    # A path in TMPDIR may be too long for a socket.
    longest = len(tempfile.gettempdir()) + len("/edgedistil-tmp-ssh-12345678")
    return None if longest <= _SOCKET_PATH_LIMIT else Path("/tmp")  # noqa: S108 - a folder of ours
