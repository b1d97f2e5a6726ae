"""Artefacts on a board, real or emulated: chooses the device, and leaves the records in the run directory."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil import console
from edgedistil.device import HOST, DeviceSpec, load_device
from edgedistil.errors import InputError
from edgedistil.parity.gate import require_parity
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.emulation import emulate, run_probes
from edgedistil.profiling.measure import DEFAULT_EFFORT, Effort, measure
from edgedistil.profiling.messages import Identity
from edgedistil.profiling.targets.ssh import SshTarget
from edgedistil.profiling.workload import Workload
from edgedistil.records import ProfileRecord, write_record
from edgedistil.rundir import RunDir


def emulate_device(
    run: RunDir | None,
    artefacts: Sequence[Artefact],
    work: Workload,
    *,
    device: str,
    lengths: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
) -> ProfileRecord:
    """The emulated record of a device, written together with the parity records under its kernels.

    Raises:
        InputError: No device was named, or it cannot be emulated.
        TargetError: Nothing starts there.
        ParityError: An artefact's outputs fail the gate under those kernels (the records are written all the same).
    """
    if device == HOST:
        raise InputError(
            "--emulate needs a device", hint="name the board: --device rpi4 (edgedistil devices lists them)"
        )
    spec = load_device(device)
    done = emulate(
        spec, artefacts, work, lengths=lengths, memory_limit_bytes=memory_limit_bytes, probes_of=run_probes(run)
    )
    if run is not None:
        write_record(run.profile(spec.name, "emulated"), done.record)
        for parity in done.parities.values():
            write_record(run.parity_on(spec.name, parity.model, parity.task, parity.precision), parity)
    for row in done.record.rows:
        if not row.valid:
            console.warn(f"{row.model} {row.task} {row.precision} on {spec.name}: {row.invalid_reason}")
    for parity in done.parities.values():
        require_parity(parity)
    return done.record


def measure_board(
    run: RunDir | None,
    artefacts: Sequence[Artefact],
    work: Workload,
    *,
    destination: str,
    device: str = HOST,
    threads: Sequence[int] | None = None,
    bootstrap: bool = False,
    effort: Effort = DEFAULT_EFFORT,
) -> ProfileRecord:
    """The measured record of the board behind an ssh destination.

    Args:
        device: Whose name the record gets; found by the board's own name if it is `host`.
        threads: 1 and all that the board lets a process use, if not given.
    Raises:
        TargetError: Not reached, it lacks something, or a job failed there.
        InputError: The destination is none, or the device is unknown.
    """
    spec = None if device == HOST else load_device(device)
    with SshTarget(destination, bootstrap=bootstrap, spec=spec) as target:
        identity = target.probe()
        if spec is not None:
            _warn_of_another(spec, identity, destination)
        counts = threads or sorted({1, identity.cores_allowed or identity.cores or 1})
        record = measure(
            target,
            artefacts,
            work,
            device=target.name,
            threads=counts,
            effort=effort,
            conditions=board_conditions(identity, destination),
        )
    if run is not None:
        write_record(run.profile(target.name, "measured"), record)
    return record


def board_conditions(identity: Identity, destination: str) -> dict[str, str]:
    """Who the board says it is, for the rows."""
    told = {
        "board": identity.board or identity.cpu,
        "reached by": f"ssh {destination}",
        "system": " ".join(part for part in (identity.system, identity.kernel, identity.machine) if part),
        "python": identity.python,
        "memory": f"{identity.memory_bytes / 2**20:.0f} MiB" if identity.memory_bytes else None,
        "memory free before": (
            f"{identity.memory_available_bytes / 2**20:.0f} MiB" if identity.memory_available_bytes else None
        ),
        "swap in use before": f"{identity.swap_used_bytes / 2**20:.0f} MiB" if identity.swap_used_bytes else None,
    }
    return {key: value for key, value in told.items() if value}


def _warn_of_another(spec: DeviceSpec, identity: Identity, destination: str) -> None:
    told = identity.board or "a machine that does not tell its board"
    if not any(told.startswith(name) for name in spec.identity.boards):
        console.warn(f"{destination} is {told}, not a {spec.title}: the record is called {spec.name} all the same")
