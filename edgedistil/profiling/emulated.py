"""Runs artefacts under a board's instruction set, and checks outputs and memory.

Each artefact has a guest process of its own: it loads the graph, makes one call per length, and
then runs the probes that the export stored together with PyTorch's outputs. Memory is read before
the outputs are collected. No row has a latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import TargetError
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.format import artefact_name
from edgedistil.core.profile_records import MemoryFit, MemoryStats, ProfileRecord, ProfileRow
from edgedistil.core.records import Count, NotMeasured, provenance
from edgedistil.core.rundir import RunDir, artefact_sha256
from edgedistil.core.scratch import scratch_folder
from edgedistil.parity.compare import compare
from edgedistil.parity.gate import format_failure, judge
from edgedistil.parity.probes import Probes
from edgedistil.profiling.artefacts import Artefact
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
# Name of the file with the probes' outputs in a job's folder.
_OUTPUTS = "outputs.npz"
# Multiply-adds that the probes of an artefact may cost. An emulated core computes about 0.2 G of
# them a second in fp32, so this takes a minute or two (docs/log.md#cost-of-an-emulated-call).
_PROBE_MACS = 1.5e10
# Bounds on the probes' tokens: enough to find a wrong kernel, and no more than a small model needs.
_MIN_PROBE_TOKENS = 256
_MAX_PROBE_TOKENS = 2048

# Finds the probes of an artefact; None if it has none.
ProbesOf = Callable[[Artefact], Probes | None]


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
        feeds_by_key: dict[str, dict[str, Any]] = {}
        for length in self.lengths:
            key = self.workload.lengths[length][0]
            feeds_by_key[key] = self.workload.inputs[key]
        for index, batch in enumerate(self.probes or ()):
            feeds = batch.feeds()
            # Probes without token types mean zeros: PyTorch's model adds them itself.
            feeds.setdefault("token_type_ids", feeds["input_ids"] * 0)
            feeds_by_key[_probe_key(index)] = feeds

        arrays = {}
        for key, feeds in feeds_by_key.items():
            for name, array in feeds.items():
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
        keys = [_probe_key(index) for index in range(len(self.probes.batches))]
        return job.model_copy(
            update={"phases": ["steady", "outputs"], "outputs": _OUTPUTS, "output_keys": keys}
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
        outputs = folder / _OUTPUTS
        inputs = NpzInputs(run.arrays())
        # A job that fails there is a row with a reason, not an error.
        reply = run_job(machine, [run.artefact], run.job(), inputs, outputs_to=outputs, check=False)
        fit = _check_fit(run, machine, reply)
        if not reply.ok:
            return [_failed_row(run, machine, reply)], None, fit
        parity = _check_parity(run, machine, reply, outputs)
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


# --- parity --------------------------------------------------------------------------------------


def _check_parity(
    run: EmulatedRun, machine: Target, reply: Reply, outputs: Path
) -> ParityRecord | None:
    """Compares the outputs under the device's kernels with PyTorch's; None without probes."""
    if run.probes is None:
        return None
    return judge(
        compare(
            run.probes,
            _read_outputs(outputs, run.artefact.label, run.probes),
            precision=run.artefact.precision,
        ),
        precision=run.artefact.precision,
        model=run.artefact.model,
        task=run.artefact.task,
        artefact_sha256=artefact_sha256(run.artefact.path),
        runtime=f"onnxruntime {reply.identity.onnxruntime} under {machine.source}",
        method="emulated",
        device=machine.name,
    )


def _read_outputs(outputs: Path, label: str, probes: Probes) -> Iterator[Mapping[str, Any]]:
    """Yields output name → array of each probe call, one call at a time."""
    with np.load(outputs, allow_pickle=False) as stored:
        for index in range(len(probes.batches)):
            prefix = f"{label}/{_probe_key(index)}/"
            arrays = {}
            for name in stored.files:
                if name.startswith(prefix):
                    arrays[name.removeprefix(prefix)] = stored[name]
            yield arrays


def run_probes(run: RunDir | None) -> ProbesOf:
    """Returns a function that loads an artefact's probes from a run."""

    def load_probes(artefact: Artefact) -> Probes | None:
        if run is None or not run.probes(artefact.model, artefact.task).is_file():
            return None
        return Probes.load(run.probes(artefact.model, artefact.task))

    return load_probes


def select_probes(probes: Probes | None, parameters: int) -> Probes | None:
    """Returns the smallest probes, as many as an emulator computes in minutes; at least one.

    Args:
        probes: All probes of the artefact; None if it has none.
        parameters: Parameters of the artefact; a token costs about as many multiply-adds.
    """
    if probes is None:
        return None
    affordable = int(_PROBE_MACS / max(parameters, 1))
    budget = min(_MAX_PROBE_TOKENS, max(_MIN_PROBE_TOKENS, affordable))
    # Small calls first: they cover more texts for the same number of tokens.
    sizes = [int(batch.input_ids_BL.size) for batch in probes]
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    selected: list[int] = []
    tokens = 0
    for index in by_size:
        tokens += sizes[index]
        if selected and tokens > budget:
            break
        selected.append(index)
    return probes.select(selected)


def describe_parity(parity: ParityRecord | None) -> str:
    """Describes the outcome of a parity check in one line, with its figures."""
    if parity is None:
        return "not checked: no probes of this artefact"
    overall = parity.overall
    figures = f"{overall.sequences} sequences, largest error {overall.max_abs:.2g}"
    if isinstance(overall.agreement, float):
        figures += f", agreement {overall.agreement:.1%}"
    if parity.passed:
        return f"passed under these kernels: {figures}"
    failures = [format_failure(result) for result in parity.results if not result.holds]
    return f"FAILED under these kernels: {figures}: {'; '.join(failures)}"


def _probe_key(index: int) -> str:
    return f"probe{index}"
