"""A board's instruction set on this machine: the real aarch64 onnxruntime under qemu-user, with the board's own `-cpu`.

What this may claim: that a model starts there, what it answers there, which int8 kernels ran, and how much memory the
guest held. What it may not: any latency (an emulated A72 makes int8 look six times as fast as fp32, where 1.4 to 1.7
is likely). `rows.py` gives an emulated row none, whatever the reply holds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import InputError, TargetError
from edgedistil.core.records import Method
from edgedistil.core.rundir import sha256_file
from edgedistil.runtime.compatibility import check_runtime_compatible
from edgedistil.runtime.protocol import (
    RUNNER,
    Condition,
    Failure,
    Job,
    MachineIdentity,
    Reply,
    parse_reply,
)
from edgedistil.runtime.qemu.guest import build_guest_root, emulated_cpu, usable_memory_bytes
from edgedistil.runtime.qemu.kernels import describe_kernels, read_translation
from edgedistil.runtime.qemu.memory import GUEST_RANGE, MemoryWatch
from edgedistil.runtime.qemu.sysroot import Site, Sysroot, ensure_site, ensure_sysroot

QEMU = "qemu-aarch64"
_TRACED = (
    "0x4000000000..0x8000000000"  # where qemu maps the libraries of a 64-bit guest, 7.2 and newer
)
_LIBRARY = "onnxruntime_pybind11_state"
_NO_REPLY_TIMEOUT_S = 3600.0
_PROBE_TIMEOUT_S = 120.0
_PROBE = """
import json, runpy, sys
found = runpy.run_path(sys.argv[1])["read_identity"]()
import numpy, onnxruntime
print(json.dumps({**found, "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}))
"""


@dataclass(frozen=True)
class Guest:
    """An emulated Python: what to start, and with which environment."""

    qemu: str
    cpu: str
    root: Path
    sysroot: Sysroot
    site: Site

    def command(
        self, *arguments: str, options: tuple[str, ...] = (), name: str = "/usr/bin/python3"
    ) -> list[str]:
        """The command line that runs the guest's Python with `arguments`; `name` is its sys.executable."""
        emulator = [self.qemu, "-L", str(self.root), "-cpu", self.cpu, *options, "-0", name]
        return [*emulator, str(self.sysroot.interpreter), "-s", "-S", *arguments]

    def environment(self) -> dict[str, str]:
        """Nothing of the host's environment reaches the guest: no library paths, no programs."""
        return {
            "PATH": "/nonexistent",
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            "TMPDIR": tempfile.gettempdir(),
            "PYTHONHOME": str(self.sysroot.home),
            "PYTHONPATH": str(self.site.path),
            "PYTHONPYCACHEPREFIX": str(self.site.path.parent / "pycache"),
        }


@contextmanager
def open_guest(spec: DeviceSpec, *, onnxruntime: str | None = None) -> Iterator[Guest]:
    """An emulated Python that sees `spec` in /proc and /sys; its tiny root is gone at the end.

    Raises:
        TargetError: qemu-aarch64 is missing, or does not know the device's core.
        InputError: The device is no 64-bit ARM board.
        OfflineError: The sysroot or the wheels are not cached and cannot be fetched.
    """
    cpu = emulated_cpu(spec)
    qemu = find_qemu(cpu)
    sysroot = ensure_sysroot()
    site = ensure_site(sysroot.python, onnxruntime=onnxruntime)
    with tempfile.TemporaryDirectory(prefix="edgedistil-guest-") as folder:
        yield Guest(qemu, cpu, build_guest_root(Path(folder), sysroot, spec), sysroot, site)


def find_qemu(cpu: str) -> str:
    """Path of qemu-aarch64.

    Raises:
        TargetError: It is not installed, or does not know `cpu`.
    """
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise TargetError(
            f"emulation needs {QEMU}, which is not installed",
            hint="on Debian and Ubuntu: apt-get install qemu-user",
        )
    told = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, check=False)  # noqa: S603
    if cpu not in told.stdout.split():
        raise TargetError(
            f"this {QEMU} does not know -cpu {cpu}",
            hint="a newer qemu may; or name a core of the same architecture level in the device file",
        )
    return qemu


@dataclass(frozen=True)
class EmulatedTarget:
    """A device under emulation. Its memory is applied: a guest that holds more than the device can give is killed."""

    spec: DeviceSpec
    onnxruntime: str | None = field(default=None)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def method(self) -> Method:
        return "emulated"

    @property
    def source(self) -> str:
        return f"{QEMU} -cpu {emulated_cpu(self.spec)} ({self.spec.name})"

    def identify(self) -> MachineIdentity:
        """What the guest says of itself. A runtime that would crash there is refused without starting it.

        Raises:
            TargetError: The version is refused on this device, or Python or onnxruntime does not start.
        """
        with open_guest(self.spec, onnxruntime=self.onnxruntime) as guest:
            expected = MachineIdentity(machine="aarch64", onnxruntime=guest.site.onnxruntime)
            check_runtime_compatible(expected, self.spec, source=self.source)
            return self._identity(guest)

    def _identity(self, guest: Guest) -> MachineIdentity:
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                guest.command("-c", _PROBE, str(RUNNER)),
                env=guest.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_PROBE_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"{self.source}: Python did not answer within {_PROBE_TIMEOUT_S:.0f} s"
            ) from error
        if done.returncode != 0:
            raise TargetError(
                f"{self.source}: onnxruntime {guest.site.onnxruntime} does not start: {_ending(done.returncode)}"
                f"{_last_line(done.stderr)}",
                hint="this onnxruntime uses instructions that the core lacks: name another version in the device file",
            )
        return MachineIdentity.model_validate(json.loads(done.stdout))

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """The reply to `job`; its memory limit, or the device's memory, is held against the guest's resident memory."""
        limit = job.memory_limit_bytes or usable_memory_bytes(self.spec)
        with (
            open_guest(self.spec, onnxruntime=self.onnxruntime) as guest,
            tempfile.TemporaryDirectory(prefix="edgedistil-emulated-") as scratch,
        ):
            folder = Path(scratch)
            (folder / "job.json").write_text(_for_guest(job, files).to_json(), encoding="utf-8")
            running = _Running(guest, folder, limit)
            running.wait(job.timeout_seconds or _NO_REPLY_TIMEOUT_S, source=self.source)
            reply = self._reply(running, folder, limit)
            if outputs_to is not None and reply.outputs is not None:
                shutil.move(folder / reply.outputs.file, outputs_to)
            # The guest reads the host's clock, heat and load: they say nothing about the device.
            untold = {"before": Condition(), "after": None}
            return reply.model_copy(
                update={**untold, "conditions": self._conditions(guest, running, limit)}
            )

    def _reply(self, running: _Running, folder: Path, limit: int) -> Reply:
        path = folder / "reply.json"
        if path.is_file():
            reply = parse_reply(path.read_bytes(), source=self.source)
        elif running.status < 0 or running.memory.killed:
            reply = Reply(format=1, ok=True, phase="start", runner_sha256=sha256_file(RUNNER))
        else:
            raise TargetError(
                f"{self.source} left no reply ({_ending(running.status)}){_last_line(running.stderr)}",
            )
        reply = running.memory.fill_in(reply)
        failure = _failure(running, reply.phase, limit)
        return (
            reply if failure is None else reply.model_copy(update={"ok": False, "error": failure})
        )

    def _conditions(self, guest: Guest, running: _Running, limit: int) -> dict[str, str]:
        return {
            "emulator": f"{_version(guest.qemu)}, -cpu {guest.cpu}",
            "sysroot": guest.sysroot.description,
            "int8 kernels": describe_kernels(running.found, running.instructions),
            "int8 kernels by": "instructions that the emulator translated inside onnxruntime: each ran at least once",
            "memory": f"resident memory in the guest's address range, {running.memory.how}; about ±10%",
            "memory limit": f"{limit / 2**20:.0f} MiB of resident memory in the guest",
        }


def _for_guest(job: Job, files: Mapping[str, Path]) -> Job:
    """The job with absolute paths, in one process (a guest cannot start another one), counting the guest's memory."""
    where = {name: str(path.resolve()) for name, path in files.items()}
    try:
        models = {
            label: each.model_copy(update={"file": where[each.file]})
            for label, each in job.models.items()
        }
        inputs = where[job.inputs]
    except KeyError as error:
        raise InputError(
            f"the job names {error.args[0]!r}, which is not among its files: {', '.join(files)}"
        ) from error
    changes = {"models": models, "inputs": inputs, "isolate": False, "memory_limit_bytes": None}
    return job.model_copy(update={**changes, "guest_range": GUEST_RANGE})


class _Running:
    """The emulator at work, with a reader of its translation log and a watch on its memory."""

    def __init__(self, guest: Guest, folder: Path, limit: int) -> None:
        self.found: set[str] = set()
        self.instructions = 0
        self.status = 0
        self._library: list[tuple[int, int]] = []
        self.stderr = b""
        reading, writing = os.pipe()
        options = ("-d", "in_asm", "-D", f"/dev/fd/{writing}", "-dfilter", _TRACED)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `wait`
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            guest.command(str(RUNNER), "job.json", "reply.json", options=options),
            cwd=folder,
            env=guest.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            pass_fds=(writing,),
            start_new_session=True,  # Ctrl-C comes to us first, and we end it
        )
        os.close(writing)
        self.memory = MemoryWatch(
            self._process.pid, folder / "reply.json", limit=limit, emulator=guest.qemu
        )
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    def wait(self, timeout_seconds: float, *, source: str) -> None:
        """Returns when it has ended, by itself or because the memory limit was passed.

        Raises:
            TargetError: It was still at work after `timeout_seconds`; it was killed.
        """
        try:
            self.status = self.memory.watch(self._process, timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"{source} was still at work after {timeout_seconds:.0f} s and was stopped",
                hint="emulation is slow: fewer or shorter sequences, or a smaller model",
            ) from error
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._reader.join()
            self._said.seek(0)
            self.stderr = self._said.read()
            self._said.close()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as lines:
            self.found, self.instructions = read_translation(lines, self._inside)

    def _inside(self, address: int) -> bool:
        """Whether an address lies in the guest's onnxruntime."""
        if not any(begin <= address < end for begin, end in self._library):
            self._library = library_ranges(self._process.pid) or self._library
        return any(begin <= address < end for begin, end in self._library)


def library_ranges(pid: int) -> list[tuple[int, int]]:
    """Where a process has mapped onnxruntime's library; nothing when it has not yet, or has ended."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    spans = [line.split(None, 1)[0].split("-") for line in maps.splitlines() if _LIBRARY in line]
    return [(int(begin, 16), int(end, 16)) for begin, end in spans]


def _failure(running: _Running, phase: str, limit: int) -> Failure | None:
    if running.memory.killed:
        message = (
            f"its resident memory passed the limit ({running.memory.peak / 2**20:.0f} of {limit / 2**20:.0f} MiB): "
            f"it was killed, as the board's kernel would"
        )
        return Failure(kind="memory", phase=phase, message=message)
    said = running.stderr.decode("utf-8", "replace").strip()[-2000:]
    if running.status < 0:
        name = _signal_name(-running.status)
        return Failure(
            kind="signal", phase=phase, message=f"it died of {name}", details=said, signal=name
        )
    if running.status > 0:
        message = f"it ended with status {running.status}"
        return Failure(
            kind="exit", phase=phase, message=message, details=said, status=running.status
        )
    return None


def _ending(status: int) -> str:
    return f"it died of {_signal_name(-status)}" if status < 0 else f"status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _version(qemu: str) -> str:
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    return told.stdout.splitlines()[0].partition(" (")[0] if told.stdout else QEMU
