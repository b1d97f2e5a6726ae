"""Does it fit? Runs artefacts under a memory limit: in a cgroup of ours (v2, v1), else under RLIMIT_AS."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgedistil import console
from edgedistil.errors import InputError
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.messages import Case, Job, Reply
from edgedistil.profiling.rows import facts, memory_stats, rows_of
from edgedistil.profiling.targets.local import LocalTarget
from edgedistil.profiling.workload import Workload
from edgedistil.records import NotMeasured, ProfileRecord, ProfileRow, provenance

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
        raise InputError(f"--memory-limit {text}: Python and onnxruntime alone take more than {_LEAST // 2**20}M")
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
        yield Fence("RLIMIT_AS (no cgroup can be made here): counts addresses, not resident memory", (), None, True)
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
        group = _made(parent, {"memory.max": limit_bytes, "memory.swap.max": 0}, needed="memory.max")
        if group is not None:
            return Fence("cgroup v2", _entering(group), group)
    return None


def _cgroup_v1(limit_bytes: int) -> Fence | None:
    own = _own_group("memory")
    if own is None:
        return None
    for parent in (_GROUPS / "memory" / own.lstrip("/"), _GROUPS / "memory"):
        settings = {"memory.limit_in_bytes": limit_bytes, "memory.memsw.limit_in_bytes": limit_bytes}
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


def fit_within(limit_bytes: int, artefacts: Sequence[Artefact], work: Workload, *, threads: int) -> ProfileRecord:
    """A row an artefact: its peak under the limit, or that it does not fit, and where it ended.

    Conditions: a fresh process in a limit of its own, at the longest length; what the file cache takes can be
    reclaimed and does not count.
    """
    rows, notes = [], []
    longest = max(work.lengths)
    with (
        tempfile.TemporaryDirectory(prefix="edgedistil-fit-") as folder,
        console.progress("trying under the limit", len(artefacts), unit="artefacts") as bar,
    ):
        inputs = Path(folder) / "inputs.npz"
        work.save(inputs)
        for artefact in artefacts:
            row, note = _one(limit_bytes, artefact, work, longest, threads, inputs)
            rows.append(row)
            notes.append(note)
            bar.advance()
    return ProfileRecord(device="host", method="measured", rows=rows, claims=[], notes=notes, provenance=provenance())


def _one(
    limit_bytes: int, artefact: Artefact, work: Workload, length: int, threads: int, inputs: Path
) -> tuple[ProfileRow, str]:
    with fence(limit_bytes) as limit:
        job = Job(
            models={artefact.label: artefact.job_model()},
            cases=[Case(name=str(length), keys=work.lengths[length])],
            threads=threads,
            memory_limit_bytes=limit_bytes if limit.rlimit else None,
            timeout_seconds=600,
        )
        reply = LocalTarget(prefix=limit.prefix).run(job, {"inputs.npz": inputs, **artefact.job_files()})
        kills = limit.kills()
    mib = limit_bytes / 2**20
    told = {"memory limit": f"{mib:.0f} MiB, {limit.how}"}
    if reply.ok:
        row = rows_of(artefact, reply, device="host", method="measured", threads=threads, conditions=told)[0]
        peak = reply.models[artefact.label].memory.peak
        shown = f"peak {peak / 2**20:.0f} MiB" if peak is not None else "peak not told by this machine"
        return row, f"{artefact.label} fits in {mib:.0f} MiB: {shown} at {length} tokens ({limit.how})"
    reason = _why(reply, kills)
    return (
        _failed(artefact, reply, length, threads, f"does not fit in {mib:.0f} MiB: {reason}", told),
        f"{artefact.label} does not fit in {mib:.0f} MiB: {reason} ({limit.how})",
    )


def _why(reply: Reply, kills: int) -> str:
    error = reply.error
    phase = error.phase if error is not None else reply.phase
    if kills:
        return f"the kernel killed it (out of memory) in the phase '{phase}'"
    return f"{error.message if error is not None else 'it failed'} in the phase '{phase}'"


def _failed(
    artefact: Artefact, reply: Reply, length: int, threads: int, reason: str, told: dict[str, str]
) -> ProfileRow:
    absent = NotMeasured(not_measured=reason)
    answer = reply.models.get(artefact.label)
    return ProfileRow(
        **facts(artefact),
        device="host",
        method="measured",
        runtime=f"onnxruntime {reply.identity.onnxruntime or 'did not start'}",
        threads=threads,
        batch=1,
        length=length,
        latency_ms=absent,
        latency=absent,
        load_ms=absent,
        first_call_ms=absent,
        start_to_first_result_ms=absent,
        memory=memory_stats(answer.memory) if answer is not None else absent,
        peak_memory_bytes=absent,
        valid=False,
        invalid_reason=reason,
        conditions=told,
    )
