"""Runs artefacts under a memory limit: in a cgroup (v2, then v1), or else under RLIMIT_AS."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.device import HOST
from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.format import artefact_name, mebibytes
from edgedistil.core.profile_records import MemoryFit, ProfileRecord
from edgedistil.core.records import Count, Method, NotMeasured, provenance
from edgedistil.core.scratch import scratch_errors, scratch_folder
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.rows import NOT_REPORTED
from edgedistil.profiling.workload import Workload, Workloads
from edgedistil.runtime.jobs import run_job
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job, Reply

# Digits of a size: a petabyte in bytes has 16.
_LONGEST_NUMBER = 20
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
# Python, numpy and onnxruntime alone take more than this (docs/log.md#only-guest-addresses-count).
_MIN_LIMIT = 32 * 2**20
# Where Linux mounts cgroups, of either version.
_CGROUP_ROOT = Path("/sys/fs/cgroup")
# Far above one load and a few calls: only a hung process ends here.
_TIMEOUT_SECONDS = 600


def parse_bytes(text: str) -> int:
    """Parses a size such as "512M", "1.5G" or "536870912".

    Raises:
        InputError: The text is not a size, or the size is too small for a Python process.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"--memory-limit {echo(text)}: expected a size such as 512M or 1.5G")
    # Before the conversion: thousands of digits are an infinite float.
    if len(match[1]) > _LONGEST_NUMBER:
        raise InputError(f"--memory-limit {echo(text)}: expected a size such as 512M or 1.5G")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if size < _MIN_LIMIT:
        raise InputError(
            f"--memory-limit {echo(text)}: expected at least {_MIN_LIMIT // 2**20}M, "
            "because Python and onnxruntime alone take more"
        )
    return size


# --- limits --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryLimit:
    """A memory limit that is in force.

    Attributes:
        mechanism: What enforces it, for reports.
        prefix: Command prefix that starts a process under the limit.
        group: Folder of the cgroup; None without one.
        uses_rlimit: Whether the process has to set RLIMIT_AS itself.
    """

    mechanism: str
    prefix: tuple[str, ...] = ()
    group: Path | None = None
    uses_rlimit: bool = False

    def count_kills(self) -> int:
        """Number of processes that the kernel killed for exceeding the limit."""
        if self.group is None:
            return 0
        # cgroup v2 counts in memory.events, v1 in memory.oom_control.
        for name in ("memory.events", "memory.oom_control"):
            try:
                text = (self.group / name).read_text(encoding="ascii")
            except OSError:
                continue
            match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
            if match:
                return int(match[1])
        return 0


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[MemoryLimit]:
    """Provides a memory limit for processes that are started with its prefix.

    Its cgroup is removed at the end.
    """
    limit = _limit_with_cgroup_v2(limit_bytes) or _limit_with_cgroup_v1(limit_bytes)
    if limit is None:
        # Containers and most user sessions may not create cgroups.
        yield MemoryLimit(
            "RLIMIT_AS (cgroups are not available here): counts addresses, not resident memory",
            uses_rlimit=True,
        )
        return
    try:
        yield limit
    finally:
        if limit.group is not None:
            try:
                limit.group.rmdir()
            except OSError as error:
                console.warn(f"cannot remove {limit.group}: {error.strerror}")


def _own_cgroup(controller: str) -> str | None:
    """Path of this process's cgroup in one hierarchy; None if the system lacks it.

    Args:
        controller: "memory" for v1; "" for the unified hierarchy of v2.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        # A line is `hierarchy:controllers:path`; a path may contain colons.
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _limit_with_cgroup_v2(limit_bytes: int) -> MemoryLimit | None:
    own = _own_cgroup("")
    if own is None or not (_CGROUP_ROOT / "cgroup.controllers").is_file():
        return None
    # In v2 a group with processes has no children with controllers: then its parent is tried.
    folder = _CGROUP_ROOT / own.lstrip("/")
    for parent in (folder, folder.parent):
        # Without swap: an artefact that swaps does not fit.
        settings = {"memory.max": limit_bytes, "memory.swap.max": 0}
        group = _create_cgroup(parent, settings, required="memory.max")
        if group is not None:
            return MemoryLimit("cgroup v2", _enter_command(group), group)
    return None


def _limit_with_cgroup_v1(limit_bytes: int) -> MemoryLimit | None:
    own = _own_cgroup("memory")
    if own is None:
        return None
    # In a container the path may be that of the host, and only the root of the mount is there.
    for parent in (_CGROUP_ROOT / "memory" / own.lstrip("/"), _CGROUP_ROOT / "memory"):
        # v1 limits memory and swap together, so the same value leaves no swap.
        settings = {
            "memory.limit_in_bytes": limit_bytes,
            "memory.memsw.limit_in_bytes": limit_bytes,
        }
        group = _create_cgroup(parent, settings, required="memory.limit_in_bytes")
        if group is not None:
            return MemoryLimit("cgroup v1", _enter_command(group), group)
    return None


def _create_cgroup(parent: Path, settings: Mapping[str, int], *, required: str) -> Path | None:
    """Creates a cgroup with `settings`; None where that is not possible.

    Args:
        parent: Folder of the parent group.
        settings: Interface file → value.
        required: The setting without which the group is useless.
    """
    try:
        group = Path(tempfile.mkdtemp(prefix="edgedistil-", dir=parent))
    except OSError:
        return None
    # A kernel without swap accounting has no such file: swap, if there is any, is not limited.
    written = {name: _write_setting(group / name, value) for name, value in settings.items()}
    # Without the right to write `cgroup.procs`, no process can enter the group.
    if not written[required] or not os.access(group / "cgroup.procs", os.W_OK):
        group.rmdir()
        return None
    return group


def _write_setting(path: Path, value: int) -> bool:
    """Writes an interface file of a cgroup; False where the kernel does not allow it."""
    try:
        path.write_text(str(value), encoding="ascii")
    except OSError:
        return False
    return True


def _enter_command(group: Path) -> tuple[str, ...]:
    """Returns a command prefix: the shell enters the cgroup, then becomes the command.

    Paths are passed as arguments and never parsed by the shell.
    """
    return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))


# --- artefacts under a limit ---------------------------------------------------------------------


@dataclass(frozen=True)
class FitSetting:
    """The limit under which an artefact ran, and how it ran.

    Attributes:
        device: Name of the device.
        limit_bytes: The limit.
        enforced_by: What enforces the limit.
        length: Sequence length in tokens.
        threads: Threads of the session.
        method: "measured" or "emulated".
    """

    device: str
    limit_bytes: int
    enforced_by: str
    length: int
    threads: int = 1
    method: Method = "measured"


def measure_fits(
    limit_bytes: int, artefacts: Sequence[Artefact], workloads: Workloads, *, threads: int
) -> ProfileRecord:
    """Returns a record that says which artefacts fit within a limit on this host.

    The record has no rows, because nothing is timed under a limit.

    Args:
        limit_bytes: The limit.
        artefacts: What to run.
        workloads: The inputs; the longest ones are used.
        threads: Threads of the session.
    Conditions:
        Every artefact runs twice in fresh processes, without a limit and then with a limit of its
        own. In a cgroup it runs as copies that no process has read before: pages of a file are
        charged to the group that read them first.
    """
    fits = []
    with console.progress("running under the limit", len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            bar.note(artefact.label)
            fits.append(_measure_fit(limit_bytes, artefact, workloads.of(artefact), threads))
            bar.advance()
    # The record is read without its artefacts, so each fit is described.
    notes = [f"workload: {workloads.first.source}"]
    notes += [describe_fit(fit) for fit in fits]
    return ProfileRecord(
        device=HOST,
        method="measured",
        rows=[],
        claims=[],
        fits=fits,
        notes=notes,
        provenance=provenance(),
    )


def _measure_fit(
    limit_bytes: int, artefact: Artefact, workload: Workload, threads: int
) -> MemoryFit:
    length = max(workload.lengths)
    job = Job(
        models={artefact.label: artefact.job_model()},
        cases=[Case(name=str(length), keys=workload.lengths[length])],
        threads=threads,
        # Nothing is timed.
        warmup_seconds=0,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    # A job that is killed, or fails, is a result here, not an error.
    unlimited = run_job(LocalTarget(), [artefact], job, workload, check=False)
    with memory_limit(limit_bytes) as limit:
        if limit.uses_rlimit:
            job = job.model_copy(update={"memory_limit_bytes": limit_bytes})
        target = LocalTarget(prefix=limit.prefix)
        with _unread_copies(artefact) as copies:
            reply = run_job(target, [copies], job, workload, check=False)
        # Read while the cgroup exists.
        ended = None if reply.ok else _describe_end(reply, limit.count_kills())
    setting = FitSetting(HOST, limit_bytes, limit.mechanism, length, threads)
    fit = memory_fit(artefact, reply, setting, ended=ended)
    needed = unlimited.models.get(artefact.label)
    # RLIMIT_AS counts addresses: nothing is dropped.
    if limit.uses_rlimit or needed is None or needed.memory.peak is None:
        return fit
    return fit.model_copy(update={"needed_bytes": needed.memory.peak})


@dataclass(frozen=True)
class _Files:
    """Copies of an artefact's files.

    Attributes:
        paths: Name in a job's folder → copy.
    """

    paths: Mapping[str, Path]

    def job_files(self) -> Mapping[str, Path]:
        """Returns name in the job's folder → copy."""
        return self.paths


@contextmanager
def _unread_copies(artefact: Artefact) -> Iterator[_Files]:
    """Provides copies of an artefact's files that are not in the page cache."""
    with scratch_folder("copies") as folder:
        paths = {}
        for name, path in artefact.job_files().items():
            copy = folder / name
            with scratch_errors():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                _drop_pages(copy)
            paths[name] = copy
        yield _Files(paths)


def _drop_pages(path: Path) -> None:
    """Removes a file's pages from the page cache, so that the next reader is charged for them."""
    with path.open("rb") as file:
        # Only pages that are on disk can be dropped.
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _describe_end(reply: Reply, kills: int) -> str:
    """Says in which phase a job failed, and why."""
    error = reply.error
    if kills:
        phase = error.phase if error is not None else reply.phase
        return f"the kernel killed it (out of memory) in the phase '{phase}'"
    if error is None:
        return f"it failed in the phase '{reply.phase}'"
    return f"{error.message} in the phase '{error.phase}'"


def memory_fit(
    artefact: Artefact, reply: Reply, setting: FitSetting, *, ended: str | None
) -> MemoryFit:
    """Returns what a job under a limit says about its artefact.

    Args:
        artefact: The model of the job.
        reply: The reply; it may be a failure.
        setting: The limit.
        ended: How the job failed; None if the artefact fits.
    """
    # A process that was killed may have reported memory of its earlier phases.
    result = reply.models.get(artefact.label)
    peak: Count = NotMeasured(not_measured=ended or NOT_REPORTED)
    if result is not None and result.memory.peak is not None:
        peak = result.memory.peak
    return MemoryFit(
        model=artefact.model,
        role=artefact.role,
        task=artefact.task,
        precision=artefact.precision,
        artefact_sha256=artefact.sha256,
        device=setting.device,
        method=setting.method,
        limit_bytes=setting.limit_bytes,
        enforced_by=setting.enforced_by,
        threads=setting.threads,
        length=setting.length,
        fits=ended is None,
        peak_memory_bytes=peak,
        ended=ended,
    )


def describe_fit(fit: MemoryFit) -> str:
    """Describes an outcome in one line."""
    name = artefact_name(fit)
    limit = f"{fit.limit_bytes / 2**20:.0f} MiB"
    if not fit.fits:
        return f"{name} does not fit in {limit}: {fit.ended} ({fit.enforced_by})"
    if fit.dropped_bytes:
        return (
            f"{name} fits in {limit}, by dropping {mebibytes(fit.dropped_bytes)} MiB of file "
            f"pages: without a limit it has a peak of {mebibytes(fit.needed_bytes)} MiB at "
            f"{fit.length} tokens ({fit.enforced_by})"
        )
    peak = f"peak {NOT_REPORTED}"
    if isinstance(fit.peak_memory_bytes, int):
        peak = f"peak {fit.peak_memory_bytes / 2**20:.0f} MiB"
    return f"{name} fits in {limit}: {peak} at {fit.length} tokens ({fit.enforced_by})"
