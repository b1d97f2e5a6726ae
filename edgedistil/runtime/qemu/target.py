"""A board's instruction set as a target: onnxruntime in qemu-user.

With the board's own `-cpu`. A run shows that a model starts there, what its outputs are, which int8
kernels ran and how much memory the guest held. It shows no latency: an emulated Cortex-A72 makes
int8 look six times as fast as fp32, where 1.4 to 1.7 is likely. `profiling/rows.py` gives an
emulated row no latency, whatever the reply contains.
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
from edgedistil.core.errors import TargetError
from edgedistil.core.processes import ending_with_this_process
from edgedistil.core.records import Method
from edgedistil.core.rundir import sha256_file
from edgedistil.core.scratch import scratch_folder
from edgedistil.runtime.compatibility import check_runtime_compatible
from edgedistil.runtime.local import with_local_paths
from edgedistil.runtime.machine_facts import Condition, MachineIdentity
from edgedistil.runtime.protocol import RUNNER, Failure, Job, Reply
from edgedistil.runtime.qemu.guest import build_guest_root, emulated_cpu, usable_memory_bytes
from edgedistil.runtime.qemu.kernels import describe_kernels, read_translation
from edgedistil.runtime.qemu.memory import GUEST_RANGE, MemoryWatch
from edgedistil.runtime.qemu.sysroot import Site, Sysroot, ensure_site, ensure_sysroot
from edgedistil.runtime.reply import parse_identity, parse_reply

QEMU = "qemu-aarch64"
# Where qemu 7.2 and newer map the libraries of a 64-bit guest: the log has only these addresses.
_TRACED = "0x4000000000..0x8000000000"
_LIBRARY = "onnxruntime_pybind11_state"
# A job without a timeout of its own gets this one.
_DEFAULT_TIMEOUT_S = 3600.0
# Limit of loading a model and its first call, which take seconds for a small model and minutes for
# a large one (docs/log.md#cost-of-an-emulated-call).
_FIRST_RESULT_S = 900.0
# The imports take half a second with compiled modules and 2.6 s without them
# (docs/log.md#compiled-modules-under-emulation); the rest is room for a loaded machine.
_IDENTIFY_TIMEOUT_S = 120.0
_IDENTIFY_SCRIPT = """
import json, runpy, sys
facts = runpy.run_path(sys.argv[1])["read_identity"]()
import numpy, onnxruntime
print(json.dumps({**facts, "numpy": numpy.__version__, "onnxruntime": onnxruntime.__version__}))
"""
# Of stderr, its end: enough for a Python traceback.
_MESSAGE_CHARACTERS = 2000


# --- the guest -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guest:
    """An emulated Python.

    Attributes:
        qemu: Path of qemu-aarch64.
        cpu: Its `-cpu`.
        root: Folder with the device's /proc and /sys.
        sysroot: Root file system with Python.
        site: Folder with numpy and onnxruntime.
    """

    qemu: str
    cpu: str
    root: Path
    sysroot: Sysroot
    site: Site

    def command(
        self, *arguments: str, options: tuple[str, ...] = (), name: str = "/usr/bin/python3"
    ) -> list[str]:
        """Returns the command line that runs the guest's Python.

        Args:
            arguments: Arguments of Python.
            options: Options of qemu.
            name: The guest's `sys.executable`.
        """
        emulator = [self.qemu, "-L", str(self.root), "-cpu", self.cpu, *options, "-0", name]
        # No site module: packages come from PYTHONPATH only.
        return [*emulator, str(self.sysroot.interpreter), "-s", "-S", *arguments]

    def environment(self) -> dict[str, str]:
        """Returns the guest's environment, without any variable of the host."""
        return {
            "PATH": "/nonexistent",
            "HOME": "/nonexistent",
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONHOME": str(self.sysroot.home),
            "PYTHONPATH": str(self.site.path),
            # docs/log.md#compiled-modules-under-emulation
            "PYTHONPYCACHEPREFIX": str(self.site.path.parent / "pycache"),
        }


@contextmanager
def open_guest(spec: DeviceSpec, *, onnxruntime: str | None = None) -> Iterator[Guest]:
    """Yields an emulated Python that sees a device in /proc and /sys.

    Args:
        spec: The device.
        onnxruntime: Version of onnxruntime; the newest pinned one if missing.
    Raises:
        TargetError: qemu-aarch64 is missing, or does not know the device's core.
        InputError: The device is not a 64-bit ARM board.
        OfflineError: The sysroot or the wheels are not cached and cannot be downloaded.
    """
    cpu = emulated_cpu(spec)
    qemu = find_qemu(cpu)
    sysroot = ensure_sysroot()
    site = ensure_site(sysroot.python, onnxruntime=onnxruntime)
    with scratch_folder("guest") as folder:
        (folder / "tmp").mkdir()
        yield Guest(qemu, cpu, build_guest_root(folder, sysroot, spec), sysroot, site)


def find_qemu(cpu: str) -> str:
    """Returns the path of qemu-aarch64.

    Raises:
        TargetError: It is not installed, or does not know `cpu`.
    """
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise TargetError(
            f"emulation needs {QEMU}, which is not installed",
            hint="on Debian and Ubuntu: apt-get install qemu-user",
        )
    cpus = subprocess.run(  # noqa: S603 - our own arguments
        [qemu, "-cpu", "help"], capture_output=True, text=True, check=False
    )
    if cpu not in cpus.stdout.split():
        raise TargetError(
            f"this {QEMU} does not know -cpu {cpu}",
            hint="install a newer qemu, or name a core of the same architecture level in the "
            "device file",
        )
    return qemu


# --- the target ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmulatedTarget:
    """A device under emulation.

    A guest that holds more memory than the device has for one process is killed.
    """

    spec: DeviceSpec
    onnxruntime: str | None = field(default=None)

    @property
    def name(self) -> str:
        """Device name in rows."""
        return self.spec.name

    @property
    def method(self) -> Method:
        """Figures of a guest are emulated."""
        return "emulated"

    @property
    def source(self) -> str:
        """Name in messages."""
        return f"{QEMU} -cpu {emulated_cpu(self.spec)} ({self.spec.name})"

    def identify(self) -> MachineIdentity:
        """Describes the guest; rejects a runtime that would crash there.

        Raises:
            TargetError: The version is excluded on this device, or Python or onnxruntime does not
                start.
        """
        with open_guest(self.spec, onnxruntime=self.onnxruntime) as guest:
            expected = MachineIdentity(machine="aarch64", onnxruntime=guest.site.onnxruntime)
            check_runtime_compatible(expected, self.spec, source=self.source)
            return self._identify(guest)

    def _identify(self, guest: Guest) -> MachineIdentity:
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments, no shell
                guest.command("-c", _IDENTIFY_SCRIPT, str(RUNNER)),
                env=guest.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_IDENTIFY_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"{self.source}: Python did not start within {_IDENTIFY_TIMEOUT_S:.0f} s"
            ) from error
        # A version that is not known to be incompatible may crash all the same.
        if done.returncode != 0:
            raise TargetError(
                f"{self.source}: onnxruntime {guest.site.onnxruntime} does not start: "
                f"{_format_status(done.returncode)}{_last_line(done.stderr)}",
                hint="this onnxruntime uses instructions that the core lacks: name another version "
                "in the device file",
            )
        return parse_identity(json.loads(done.stdout), source=self.source)

    def run(self, job: Job, files: Mapping[str, Path], *, outputs_to: Path | None = None) -> Reply:
        """Runs a job under its memory limit, or the device's."""
        limit = job.memory_limit_bytes or usable_memory_bytes(self.spec)
        with (
            open_guest(self.spec, onnxruntime=self.onnxruntime) as guest,
            scratch_folder("emulated") as folder,
        ):
            guest_job = _for_guest(with_local_paths(job, files))
            (folder / "job.json").write_text(guest_job.to_json(), encoding="utf-8")
            process = GuestProcess(guest, folder, limit)
            process.wait(job.timeout_seconds or _DEFAULT_TIMEOUT_S, source=self.source)
            reply = self._read_reply(process, folder, limit)
            if outputs_to is not None and reply.outputs is not None:
                shutil.move(folder / reply.outputs.file, outputs_to)
        # The guest reads the host's clock, temperature and load: they are not the device's.
        conditions = _conditions(guest, process, limit)
        return reply.model_copy(
            update={"before": Condition(), "after": None, "conditions": conditions}
        )

    def _read_reply(self, process: GuestProcess, folder: Path, limit: int) -> Reply:
        path = folder / "reply.json"
        if path.is_file():
            reply = parse_reply(path.read_bytes(), source=self.source)
        elif process.status < 0 or process.memory.killed:
            # It died before the first phase.
            reply = Reply(format=1, ok=True, phase="start", runner_sha256=sha256_file(RUNNER))
        else:
            raise TargetError(
                f"{self.source} wrote no reply ({_format_status(process.status)})"
                f"{_last_line(process.stderr)}",
            )
        reply = process.memory.fill_in(reply)
        # Without a supervisor the reply does not know how its process ended.
        failure = _find_failure(process, reply.phase, limit)
        if failure is None:
            return reply
        return reply.model_copy(update={"ok": False, "error": failure})


def _for_guest(job: Job) -> Job:
    """Returns the job for one process that counts the guest's memory only."""
    changes = {
        # Without binfmt a guest cannot start another emulated process.
        "isolate": False,
        # qemu-user ignores RLIMIT_AS; `MemoryWatch` enforces the limit.
        "memory_limit_bytes": None,
        "guest_range": GUEST_RANGE,
        "first_result_seconds": job.first_result_seconds or _FIRST_RESULT_S,
    }
    return job.model_copy(update=changes)


def _conditions(guest: Guest, process: GuestProcess, limit: int) -> dict[str, str]:
    """Returns the conditions of a row, in words."""
    return {
        "emulator": f"{_qemu_version(guest.qemu)}, -cpu {guest.cpu}",
        "sysroot": guest.sysroot.description,
        "int8 kernels": describe_kernels(process.instruction_names, process.instructions),
        "int8 kernels by": "instructions that the emulator translated inside onnxruntime: each ran "
        "at least once",
        "memory": f"resident memory in the guest's address range, {process.memory.source}; "
        "about ±10%",
        "memory limit": f"{limit / 2**20:.0f} MiB of resident memory in the guest",
    }


# --- a run ---------------------------------------------------------------------------------------


class GuestProcess:
    """The emulator running a job.

    A thread reads its translation log, and `memory` samples its memory.

    Attributes:
        status: Exit status after `wait`, negative for a signal.
        stderr: What it printed, after `wait`.
        instruction_names: 8-bit multiplications that ran inside onnxruntime, after `wait`.
        instructions: Number of instructions in the log, after `wait`.
        memory: Samples of the guest's memory.
    """

    def __init__(self, guest: Guest, folder: Path, limit: int) -> None:
        self.status = 0
        self.stderr = b""
        self.instruction_names: set[str] = set()
        self.instructions = 0
        self._library: list[tuple[int, int]] = []
        # The log has 33 to 47 MB even for a tiny model: it goes through a pipe, not to disk
        # (docs/log.md#cost-of-the-translation-log).
        reading, writing = os.pipe()
        options = ("-d", "in_asm", "-D", f"/dev/fd/{writing}", "-dfilter", _TRACED)
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `wait`
        command = guest.command(str(RUNNER), "job.json", "reply.json", options=options)
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            ending_with_this_process(command),
            cwd=folder,
            env=guest.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            pass_fds=(writing,),
            # Ctrl-C reaches only this process, which then ends the emulator.
            start_new_session=True,
        )
        # Our copy of the writing end must be closed, or the reading end never ends.
        os.close(writing)
        self.memory = MemoryWatch(
            self._process.pid, folder / "reply.json", limit=limit, emulator=guest.qemu
        )
        self._reader = threading.Thread(target=self._read_log, args=(reading,), daemon=True)
        self._reader.start()

    def wait(self, timeout_seconds: float, *, source: str) -> None:
        """Waits until it ends; kills it after a timeout.

        Args:
            timeout_seconds: When to kill it.
            source: Name of the target in messages.
        Raises:
            TargetError: It did not finish in time; it was killed.
        """
        try:
            self.status = self.memory.watch(self._process, timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise TargetError(
                f"{source} did not finish within {timeout_seconds:.0f} s and was stopped",
                hint="emulation is slow: use fewer or shorter sequences, or a smaller model",
            ) from error
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._reader.join()
            self._output.seek(0)
            self.stderr = self._output.read()
            self._output.close()

    def _read_log(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as log:
            self.instruction_names, self.instructions = read_translation(log, self._is_inside)

    def _is_inside(self, address: int) -> bool:
        """Whether an address is in the guest's onnxruntime."""
        # The library is not mapped from the beginning: look again until it contains the address.
        if not _contains(self._library, address):
            self._library = library_ranges(self._process.pid) or self._library
        return _contains(self._library, address)


def _contains(ranges: list[tuple[int, int]], address: int) -> bool:
    return any(begin <= address < end for begin, end in ranges)


def library_ranges(pid: int) -> list[tuple[int, int]]:
    """Returns where a process has mapped onnxruntime's library; empty before and after."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    ranges = []
    for line in maps.splitlines():
        if _LIBRARY in line:
            begin, end = line.split(None, 1)[0].split("-")
            ranges.append((int(begin, 16), int(end, 16)))
    return ranges


def _find_failure(process: GuestProcess, phase: str, limit: int) -> Failure | None:
    """Describes how the emulator failed; None if it ended normally."""
    if process.memory.killed:
        peak_mib, limit_mib = process.memory.peak / 2**20, limit / 2**20
        message = (
            f"its resident memory exceeded the limit ({peak_mib:.0f} of {limit_mib:.0f} MiB): "
            f"it was killed, as the board's kernel would"
        )
        return Failure(kind="memory", phase=phase, message=message)
    details = process.stderr.decode("utf-8", "replace").strip()[-_MESSAGE_CHARACTERS:]
    message = _format_status(process.status)
    if process.status == -signal.SIGALRM:
        message = "no result of the first call within its limit"
        return Failure(kind="timeout", phase=phase, message=message, details=details)
    if process.status < 0:
        name = _signal_name(-process.status)
        return Failure(kind="signal", phase=phase, message=message, details=details, signal=name)
    if process.status > 0:
        status = process.status
        return Failure(kind="exit", phase=phase, message=message, details=details, status=status)
    return None


def _format_status(status: int) -> str:
    if status < 0:
        return f"it was terminated by {_signal_name(-status)}"
    return f"it exited with status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _qemu_version(qemu: str) -> str:
    """Returns "qemu-aarch64 version 7.2.22", without the distribution's suffix."""
    done = subprocess.run(  # noqa: S603 - our own arguments
        [qemu, "--version"], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    return lines[0].partition(" (")[0] if lines else QEMU
