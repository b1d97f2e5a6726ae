"""Does it fit? Runs artefacts under a memory limit: in a cgroup of ours (v2, v1), else under RLIMIT_AS."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.device import HOST
from edgedistil.core.errors import InputError
from edgedistil.core.records import MemoryFit, Method, NotMeasured, ProfileRecord, provenance
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.workload import Workload
from edgedistil.runtime.local import LocalTarget
from edgedistil.runtime.protocol import Case, Job, Reply

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_LEAST = 32 * 2**20
_GROUPS = Path("/sys/fs/cgroup")


def parse_bytes(text: str) -> int:
    """Bytes in "512M", "1.5G" or "536870912".

    Raises:
        InputError: It is none of these, or too small for a Python process.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"--memory-limit {text}: expected a size such as 512M or 1.5G")
    value = int(float(match[1]) * _UNITS[match[2].upper()])
    if value < _LEAST:
        raise InputError(
            f"--memory-limit {text}: Python and onnxruntime alone take more than {_LEAST // 2**20}M"
        )
    return value


@dataclass(frozen=True)
class Fence:
    """A limit that is in force: how, the command prefix that enters it, and how often it killed."""

    how: str
    prefix: tuple[str, ...]
    group: Path | None
    rlimit: bool = False

    def kills(self) -> int:
        """Processes that the kernel killed in it."""
        if self.group is None:
            return 0
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
def fence(limit_bytes: int) -> Iterator[Fence]:
    """A memory limit for processes that are started with its prefix; the group is removed at the end."""
    found = _cgroup_v2(limit_bytes) or _cgroup_v1(limit_bytes)
    if found is None:
        yield Fence(
            "RLIMIT_AS (no cgroup can be made here): counts addresses, not resident memory",
            (),
            None,
            True,
        )
        return
    try:
        yield found
    finally:
        if found.group is not None:
            try:
                found.group.rmdir()
            except OSError as error:
                console.warn(f"cannot remove {found.group}: {error.strerror}")


def _own_group(controller: str) -> str | None:
    """Path of this process's group in a hierarchy: "memory" in v1, "" is the unified one."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _cgroup_v2(limit_bytes: int) -> Fence | None:
    own = _own_group("")
    if own is None or not (_GROUPS / "cgroup.controllers").is_file():
        return None
    for parent in (_GROUPS / own.lstrip("/"), (_GROUPS / own.lstrip("/")).parent):
        group = _made(
            parent, {"memory.max": limit_bytes, "memory.swap.max": 0}, needed="memory.max"
        )
        if group is not None:
            return Fence("cgroup v2", _entering(group), group)
    return None


def _cgroup_v1(limit_bytes: int) -> Fence | None:
    own = _own_group("memory")
    if own is None:
        return None
    for parent in (_GROUPS / "memory" / own.lstrip("/"), _GROUPS / "memory"):
        settings = {
            "memory.limit_in_bytes": limit_bytes,
            "memory.memsw.limit_in_bytes": limit_bytes,
        }
        group = _made(parent, settings, needed="memory.limit_in_bytes")
        if group is not None:
            return Fence("cgroup v1", _entering(group), group)
    return None


def _made(parent: Path, settings: dict[str, int], *, needed: str) -> Path | None:
    try:
        group = Path(tempfile.mkdtemp(prefix="edgedistil-", dir=parent))
    except OSError:
        return None
    try:
        (group / needed).write_text(str(settings[needed]), encoding="ascii")
    except OSError:
        group.rmdir()
        return None
    for name in settings.keys() - {needed}:
        try:
            (group / name).write_text(str(settings[name]), encoding="ascii")
        except OSError:
            continue  # no swap accounting in this kernel: then swap, if there is any, is not limited
    if not os.access(group / "cgroup.procs", os.W_OK):
        group.rmdir()
        return None
    return group


def _entering(group: Path) -> tuple[str, ...]:
    """A command prefix: the shell enters the group, then becomes the command. Paths travel as arguments, unparsed."""
    return ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))


def fit_within(
    limit_bytes: int, artefacts: Sequence[Artefact], work: Workload, *, threads: int
) -> ProfileRecord:
    """Which artefacts fit: each one's peak under the limit, or where it ended. No row: nothing is timed under a limit.

    Conditions: a fresh process in a limit of its own, at the longest length; what the file cache takes can be
    reclaimed and does not count.
    """
    found = []
    longest = max(work.lengths)
    with (
        tempfile.TemporaryDirectory(prefix="edgedistil-fit-") as folder,
        console.progress("trying under the limit", len(artefacts), unit="artefacts") as bar,
    ):
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)
        for artefact in artefacts:
            bar.note(artefact.label)
            found.append(_one(limit_bytes, artefact, work, longest, threads, inputs))
            bar.advance()
    notes = [f"workload: {work.source}", *(tell_fit(each) for each in found)]
    return ProfileRecord(
        device=HOST,
        method="measured",
        rows=[],
        claims=[],
        fits=found,
        notes=notes,
        provenance=provenance(),
    )


def _one(
    limit_bytes: int, artefact: Artefact, work: Workload, length: int, threads: int, inputs: Path
) -> MemoryFit:
    with fence(limit_bytes) as limit:
        job = Job(
            models={artefact.label: artefact.job_model()},
            cases=[Case(name=str(length), keys=work.lengths[length])],
            threads=threads,
            memory_limit_bytes=limit_bytes if limit.rlimit else None,
            timeout_seconds=600,
        )
        reply = LocalTarget(prefix=limit.prefix).run(
            job, {"inputs.npz": inputs, **artefact.job_files()}
        )
        ended = None if reply.ok else _ending(reply, limit.kills())
    return memory_fit(
        artefact,
        reply,
        device=HOST,
        limit_bytes=limit_bytes,
        how=limit.how,
        length=length,
        threads=threads,
        ended=ended,
    )


def memory_fit(
    artefact: Artefact,
    reply: Reply,
    *,
    device: str,
    limit_bytes: int,
    how: str,
    length: int,
    threads: int = 1,
    method: Method = "measured",
    ended: str | None,
) -> MemoryFit:
    """What a reply to a job under a limit says about the artefact; `ended` is None when it fits."""
    answer = reply.models.get(artefact.label)
    peak = answer.memory.peak if answer is not None else None
    return MemoryFit(
        model=artefact.model,
        role=artefact.role,
        task=artefact.task,
        precision=artefact.precision,
        artefact_sha256=artefact.sha256,
        device=device,
        method=method,
        limit_bytes=limit_bytes,
        enforced_by=how,
        threads=threads,
        length=length,
        fits=ended is None,
        peak_memory_bytes=NotMeasured(not_measured=ended or "this machine does not tell it")
        if peak is None
        else peak,
        ended=ended,
    )


def tell_fit(fit: MemoryFit) -> str:
    """The outcome in a line."""
    who, limit = f"{fit.model} {fit.task} {fit.precision}", f"{fit.limit_bytes / 2**20:.0f} MiB"
    if not fit.fits:
        return f"{who} does not fit in {limit}: {fit.ended} ({fit.enforced_by})"
    told = fit.peak_memory_bytes
    peak = (
        "peak not told by this machine"
        if isinstance(told, NotMeasured)
        else f"peak {told / 2**20:.0f} MiB"
    )
    return f"{who} fits in {limit}: {peak} at {fit.length} tokens ({fit.enforced_by})"


def _ending(reply: Reply, kills: int) -> str:
    error = reply.error
    phase = error.phase if error is not None else reply.phase
    if kills:
        return f"the kernel killed it (out of memory) in the phase '{phase}'"
    return f"{error.message if error is not None else 'it failed'} in the phase '{phase}'"
