"""Runs artefacts under a board's instruction set, and checks outputs and memory.

Each artefact has a guest process of its own: it loads the graph, makes one call per length, and
then runs the probes that the export stored together with PyTorch's outputs. Memory is read before
the outputs are collected. No row has a latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import TargetError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.format import artefact_name
from edgedistil.core.profile_records import MemoryFit, MemoryStats, ProfileRecord, ProfileRow
from edgedistil.core.records import Count, NotMeasured, provenance
from edgedistil.core.scratch import scratch_folder
from edgedistil.parity.probes import Probes
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.device_parity import (
    OUTPUTS_FILE,
    ProbesOf,
    check_outputs,
    describe_parity,
    probe_arrays,
    probe_keys,
    select_probes,
)
from edgedistil.profiling.memory_limit import FitSetting, memory_fit
from edgedistil.profiling.rows import (
    EMULATED_LATENCY,
    NOT_REPORTED,
    artefact_fields,
    memory_stats,
    rows_from_reply,
)
from edgedistil.profiling.workload import Workload, Workloads
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.protocol import Case, Job, Reply
from edgedistil.runtime.qemu.guest import usable_memory_bytes
from edgedistil.runtime.qemu.target import EmulatedTarget
from edgedistil.runtime.target import Target, raise_failure

# One call at about this length: each takes seconds (docs/log.md#cost-of-an-emulated-call).
_DEFAULT_LENGTH = 128


@dataclass(frozen=True)
class Emulation:
    """Result of emulating several artefacts.

    Attributes:
        record: Rows without latency.
        parities: Artefact label → parity check under the device's kernels, where there are probes.
    """

    record: ProfileRecord
    parities: dict[str, ParityRecord]


@dataclass(frozen=True)
class EmulatedRun:
    """One artefact on an emulated device: what is sent there.

    Attributes:
        spec: The device.
        artefact: The artefact.
        workload: Inputs of the calls at `lengths`.
        lengths: Sequence lengths in tokens, one call each.
        probes: Text with PyTorch's outputs; None if the artefact has none.
        memory_limit_bytes: Limit on the guest's memory; None for what the device has.
    """

    spec: DeviceSpec
    artefact: Artefact
    workload: Workload
    lengths: Sequence[int]
    probes: Probes | None
    memory_limit_bytes: int | None

    def arrays(self) -> dict[str, Any]:
        """Returns the inputs of the calls and of the probes, named KEY/INPUT."""
        arrays = probe_arrays(self.probes or ())
        for length in self.lengths:
            key = self.workload.lengths[length][0]
            for name, array in self.workload.inputs[key].items():
                arrays[f"{key}/{name}"] = array
        return arrays

    def job(self) -> Job:
        """Returns a job with one call per length, followed by the probes."""
        keys_by_length = self.workload.lengths
        cases = [Case(name=str(n), keys=keys_by_length[n][:1]) for n in self.lengths]
        job = Job(
            models={self.artefact.label: self.artefact.job_model()},
            cases=cases,
            phases=["steady"],
            threads=1,
            # A single call: its time means nothing, and each takes seconds.
            warmup_calls=0,
            warmup_seconds=0,
            # The guest's cores are described in its own /sys.
            pin_unlike_cores=False,
            min_calls=1,
            min_seconds=0,
            memory_limit_bytes=self.memory_limit_bytes,
        )
        if self.probes is None:
            return job
        return job.model_copy(
            update={
                "phases": ["steady", "outputs"],
                "outputs": OUTPUTS_FILE,
                "output_keys": probe_keys(self.probes),
            }
        )


# --- all artefacts -------------------------------------------------------------------------------


def emulate(
    spec: DeviceSpec,
    artefacts: Sequence[Artefact],
    workloads: Workloads,
    *,
    lengths: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
    probes_of: ProbesOf = lambda _: None,
    target: Target | None = None,
) -> Emulation:
    """Runs every artefact on an emulated device, with one thread.

    Args:
        spec: The device.
        artefacts: What to run.
        workloads: Inputs of the calls.
        lengths: Sequence lengths in tokens; None for one of about 128 tokens.
        memory_limit_bytes: Limit on a guest's memory; None for what the device has.
        probes_of: Returns the probes of an artefact, or None if it has none.
        target: Used instead of an emulator of `spec`.
    Raises:
        TargetError: qemu is missing, onnxruntime does not run on the device, or no artefact starts.
        InputError: The device is not a 64-bit ARM board.
    """
    machine = target or EmulatedTarget(spec)
    # onnxruntime is started before any artefact: a runtime that crashes there is an error of its
    # own (docs/log.md#onnxruntime-121-on-armv80).
    identity = machine.identify()
    console.say(
        f"{machine.source}: onnxruntime {identity.onnxruntime} starts, "
        f"{spec.memory.size_gib.value:g} GiB"
    )
    rows: list[ProfileRow] = []
    fits: list[MemoryFit] = []
    parities: dict[str, ParityRecord] = {}
    with console.progress(f"emulating {spec.name}", len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            bar.note(artefact.label)
            run = EmulatedRun(
                spec=spec,
                artefact=artefact,
                workload=workloads.of(artefact),
                lengths=_select_lengths(workloads.first, lengths),
                probes=select_probes(probes_of(artefact), artefact.parameters),
                memory_limit_bytes=memory_limit_bytes,
            )
            run_rows, parity, fit = _run_artefact(run, machine)
            rows += run_rows
            if parity is not None:
                parities[artefact.label] = parity
            if fit is not None:
                fits.append(fit)
            bar.advance()
    # One artefact that fails is a row with a reason; if all fail, the device is the problem.
    if not any(row.valid for row in rows):
        raise TargetError(f"{machine.source}: no artefact runs there: {rows[0].invalid_reason}")
    record = ProfileRecord(
        device=spec.name,
        method="emulated",
        rows=rows,
        claims=[],
        fits=fits,
        notes=_notes(workloads.first, rows),
        provenance=provenance(),
    )
    for row in rows:
        if not row.valid:
            console.warn(f"{spec.name}: {artefact_name(row)}: {row.invalid_reason}")
    return Emulation(record, parities)


def _notes(workload: Workload, rows: Sequence[ProfileRow]) -> list[str]:
    """Describes the workload, then each artefact that ran, then each that failed."""
    notes = [
        f"workload: {workload.source}",
        "no row has a latency: an emulator's time says nothing about the device's",
    ]
    notes += [_describe_row(row) for row in rows if row.valid]
    notes += [f"{artefact_name(row)}: {row.invalid_reason}" for row in rows if not row.valid]
    return notes


def _select_lengths(workload: Workload, lengths: Sequence[int] | None) -> list[int]:
    if lengths:
        return sorted(lengths)
    # The longest length that an emulator computes in seconds.
    short = [length for length in workload.lengths if length <= _DEFAULT_LENGTH]
    return [max(short) if short else min(workload.lengths)]


def _describe_row(row: ProfileRow) -> str:
    """Describes what an emulated artefact did in one line: memory, kernels, parity check."""
    memory = ""
    if isinstance(row.memory, MemoryStats):
        after_load = _mebibytes(row.memory.after_load_bytes)
        after_run = _mebibytes(row.memory.after_run_bytes)
        memory = f", holds {after_load} after loading and {after_run} after a run"
    kernels = row.conditions.get("int8 kernels", NOT_REPORTED)
    return (
        f"{artefact_name(row)}: it starts{memory}; "
        f"int8 kernels: {kernels}; parity {row.conditions['parity']}"
    )


def _mebibytes(count: Count) -> str:
    return f"{count / 2**20:.0f} MiB" if isinstance(count, int) else "an unknown amount"


# --- one artefact --------------------------------------------------------------------------------


def _run_artefact(
    run: EmulatedRun, machine: Target
) -> tuple[list[ProfileRow], ParityRecord | None, MemoryFit | None]:
    """Runs one artefact; returns its rows, its parity check and its memory fit."""
    with scratch_folder("outputs") as folder:
        outputs = folder / OUTPUTS_FILE
        inputs = NpzInputs(run.arrays())
        # A job that fails there is a row with a reason, not an error.
        reply = run_job(machine, [run.artefact], run.job(), inputs, outputs_to=outputs, check=False)
        fit = _check_fit(run, machine, reply)
        if not reply.ok:
            return [_failed_row(run, machine, reply)], None, fit
        parity = None
        if run.probes is not None:
            runtime = f"onnxruntime {reply.identity.onnxruntime} under {machine.source}"
            parity = check_outputs(run.artefact, run.probes, outputs, machine, runtime)
    rows = rows_from_reply(
        run.artefact,
        reply,
        device=machine.name,
        method="emulated",
        threads=1,
        conditions={"parity": describe_parity(parity)},
    )
    return rows, parity, fit


def _check_fit(run: EmulatedRun, machine: Target, reply: Reply) -> MemoryFit | None:
    """Returns whether the artefact fits in the device's memory; None if it failed otherwise."""
    ended = None
    if reply.error is not None:
        # A crash says nothing about memory.
        if reply.error.kind != "memory":
            return None
        ended = f"{reply.error.message}, in the phase '{reply.error.phase}'"
    setting = FitSetting(
        device=machine.name,
        limit_bytes=run.memory_limit_bytes or usable_memory_bytes(run.spec),
        enforced_by="a watch on the guest's resident memory",
        length=max(run.lengths),
        method="emulated",
    )
    return memory_fit(run.artefact, reply, setting, ended=ended)


def _failed_row(run: EmulatedRun, machine: Target, reply: Reply) -> ProfileRow:
    """Returns an invalid row that says why the artefact did not run."""
    reason = _failure_reason(machine, reply)
    absent = NotMeasured(not_measured=reason)
    # A process that was killed may have reported memory of its earlier phases.
    result = reply.models.get(run.artefact.label)
    memory: MemoryStats | NotMeasured = absent
    peak: Count = absent
    if result is not None:
        memory = memory_stats(result.memory)
        peak = memory.peak_bytes
    return ProfileRow(
        **artefact_fields(run.artefact),
        device=machine.name,
        method="emulated",
        runtime=f"onnxruntime {reply.identity.onnxruntime or 'did not start'}",
        threads=1,
        batch=run.artefact.graph.batch,
        length=run.lengths[0],
        latency_ms=EMULATED_LATENCY,
        latency=EMULATED_LATENCY,
        load_ms=EMULATED_LATENCY,
        first_call_ms=EMULATED_LATENCY,
        start_to_first_result_ms=EMULATED_LATENCY,
        memory=memory,
        peak_memory_bytes=peak,
        valid=False,
        invalid_reason=reason,
        conditions=reply.conditions,
    )


def _failure_reason(machine: Target, reply: Reply) -> str:
    """Returns the message of a failed reply, without its hint."""
    try:
        raise_failure(reply, source=machine.source)
    except TargetError as error:
        return error.message
    raise AssertionError("a reply that is ok has no failure")
