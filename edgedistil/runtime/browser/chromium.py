"""A headless Chromium that one page runs in, driven through its pipe for DevTools.

The browser listens on no port. It ends when the pipe is closed, when this process ends, and at the
end of the `with` block; its profile is a scratch folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgedistil.core.errors import TargetError
from edgedistil.core.processes import ending_with_this_process
from edgedistil.core.scratch import scratch_folder

# Names of the program in Debian, Ubuntu and Google's own package.
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
INSTALL_HINT = "install it: Debian: apt-get install --no-install-recommends chromium"
# A busy machine starts it in a few seconds.
_START_S = 120.0
_END_S = 10.0
_READ_BYTES = 2**16
# Above the numbers that the browser expects its pipe at.
_LOWEST_FD = 10
# Puts the ends of the pipe where the browser expects them, then becomes the browser.
_SCRIPT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Nothing is downloaded, no other page is prepared, and timers run as in a page that is seen.
_ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=SpareRendererForSitePerProcess,MediaRouter,OptimizationHints",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    # Memory is measured at once, not when the browser finds time for it.
    "--enable-blink-features=ForceEagerMeasureMemory",
    "--password-store=basic",
    "--use-mock-keychain",
    "--disable-dev-shm-usage",
)
CPU_ONLY = ("--disable-gpu",)
# Characters of the longest folder for the browser's files: it names a socket below them, and the
# path of a socket has 107 at most.
_LONGEST_TEMPORARY = 29
_SHORT_TEMPORARY = Path("/tmp")  # noqa: S108 - the folder below it has a random name
# Where the browser writes besides its profile.
_FOLDER_VARIABLES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def find_chromium() -> str:
    """Returns the program.

    Raises:
        TargetError: No browser is installed.
    """
    for name in PROGRAMS:
        program = shutil.which(name)
        if program is not None:
            return program
    names = ", ".join(PROGRAMS)
    raise TargetError(f"no browser is installed: looked for {names}", hint=INSTALL_HINT)


def chromium_version(program: str) -> str:
    """Returns the version of a browser, such as 156.0.8078.108."""
    done = subprocess.run(  # noqa: S603 - our own arguments
        [program, "--version"], capture_output=True, text=True, check=False
    )
    words = [word for word in done.stdout.split() if word[:1].isdigit()]
    if not words:
        raise TargetError(f"{program} --version printed no version", hint=INSTALL_HINT)
    return words[0]


class Page:
    """One page of a running browser.

    Attributes:
        group: Process group of the browser.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], to_browser: int, from_browser: int
    ) -> None:
        self.group = process.pid
        self._process = process
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def open(self, url: str) -> None:
        """Loads a page, in place of the one before.

        Raises:
            TargetError: The browser ended, or cannot load it.
        """
        if self._session is None:
            target = self._command("Target.createTarget", {"url": "about:blank"}, _START_S)
            arguments = {"targetId": target["targetId"], "flatten": True}
            attached = self._command("Target.attachToTarget", arguments, _START_S)
            self._session = attached["sessionId"]
            self._command("Inspector.enable", {}, _START_S)
            self._command("Page.enable", {}, _START_S)
        loaded = self._command("Page.navigate", {"url": url}, _START_S)
        if "errorText" in loaded:
            raise TargetError(f"the browser cannot open {url}: {loaded['errorText']}")
        self._wait_for("Page.loadEventFired", _START_S)

    def evaluate(self, expression: str, *, timeout_s: float) -> Any:
        """Returns the value of a JavaScript expression, awaited if it is a promise.

        Raises:
            TargetError: It throws, the page crashed, or the time is over.
        """
        arguments = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._command("Runtime.evaluate", arguments, timeout_s)
        details = answer.get("exceptionDetails")
        if details is not None:
            thrown = details.get("exception", {}).get("description") or details.get("text")
            raise TargetError(f"the page failed: {str(thrown).splitlines()[0]}")
        return answer["result"].get("value")

    def _command(self, method: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        except BrokenPipeError as error:
            raise TargetError("the browser ended unexpectedly") from error
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._receive(deadline, method)
            if answer.get("id") != self._number:
                continue
            if "error" in answer:
                raise TargetError(f"the browser refused {method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def _wait_for(self, event: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._receive(deadline, event).get("method") != event:
            pass

    def _receive(self, deadline: float, waiting_for: str) -> dict[str, Any]:
        """Returns the next message; raises TargetError if none comes, or the page crashed."""
        while b"\0" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._from_browser], [], [], remaining)[0]:
                raise TargetError(f"the browser did not answer {waiting_for} in time")
            data = os.read(self._from_browser, _READ_BYTES)
            if not data:
                raise TargetError("the browser ended unexpectedly")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Inspector.targetCrashed":
            raise TargetError(
                "the page crashed",
                hint="it ran out of memory: try the int8 model or a shorter length",
            )
        return message


@contextmanager
def chromium(program: str, arguments: Sequence[str] = CPU_ONLY) -> Iterator[Page]:
    """Runs a browser; ends it with all its processes and removes its profile.

    Args:
        program: Path of the browser.
        arguments: Arguments beyond those for a page without a window.
    Raises:
        TargetError: It does not start.
    """
    with scratch_folder("chromium", parent=_parent()) as folder, contextlib.ExitStack() as stack:
        from_us, to_browser = _pipe(stack)
        from_browser, to_us = _pipe(stack)
        command = [program, *_ARGUMENTS, *arguments, f"--user-data-dir={folder}"]
        # The sandbox of a page of ours needs a user of its own.
        if os.geteuid() == 0:
            command.append("--no-sandbox")
        python = [sys.executable, "-I", "-S", "-c", _SCRIPT, str(from_us), str(to_us)]
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            ending_with_this_process([*python, *command, "about:blank"]),
            pass_fds=(from_us, to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # It leaves files in TMPDIR, too.
            env={**os.environ, **dict.fromkeys(_FOLDER_VARIABLES, str(folder))},
            start_new_session=True,
        )
        os.close(from_us)
        os.close(to_us)
        try:
            yield Page(process, to_browser, from_browser)
        finally:
            _end(process)


def _parent() -> Path | None:
    """Where the browser's files go: None for TMPDIR, if it is short enough."""
    return None if len(tempfile.gettempdir()) <= _LONGEST_TEMPORARY else _SHORT_TEMPORARY


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Returns both ends of a pipe, with numbers that the browser does not use."""
    ends = []
    for low in os.pipe():
        ends.append(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD))
        os.close(low)
        stack.callback(_close, ends[-1])
    return ends[0], ends[1]


def _close(descriptor: int) -> None:
    # The browser's ends are closed as soon as it has them.
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a browser and its processes, which are in one group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    deadline = time.monotonic() + _END_S
    # Its helpers write into the profile until they are gone.
    while group_processes(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def group_processes(group: int) -> list[int]:
    """Returns the processes of a group that are not zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                members.append(int(entry.name))
    return members
