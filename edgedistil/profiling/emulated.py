"""Artefacts under a board's instruction set: do they start there, are the answers right there, what do they hold?

One guest process an artefact: it loads the graph, makes one call a length, and then answers the probes that PyTorch
answered when the artefact was made. Memory is read before those answers are gathered. No row has a latency.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core import console
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import TargetError
from edgedistil.core.records import (
    MemoryFit,
    MemoryStats,
    NotMeasured,
    ParityFigures,
    ParityRecord,
    ProfileRecord,
    ProfileRow,
    provenance,
)
from edgedistil.core.rundir import RunDir, artefact_sha256
from edgedistil.parity.compare import compare
from edgedistil.parity.gate import format_failure, judge
from edgedistil.parity.probes import Probes
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.memory_limit import memory_fit
from edgedistil.profiling.rows import EMULATED_LATENCY, facts, memory_stats, rows_of
from edgedistil.profiling.workload import Workload
from edgedistil.runtime.protocol import Case, Job, Reply
from edgedistil.runtime.qemu.guest import usable_memory_bytes
from edgedistil.runtime.qemu.target import EmulatedTarget
from edgedistil.runtime.target import Target, raise_failure

_LENGTH = 128
_OUTPUTS = "outputs.npz"
# An emulated core does roughly 0.2 G multiply-adds a second in fp32: a minute or two an artefact.
_PROBE_WORK = 1.5e10
_LEAST_TOKENS, _MOST_TOKENS = 256, 2048

ProbesOf = Callable[[Artefact], Probes | None]


@dataclass(frozen=True)
class Emulation:
    """What came of it: rows without latency, and a parity record for every artefact that has probes."""

    record: ProfileRecord
    parities: dict[str, ParityRecord]


def emulate(
    spec: DeviceSpec,
    artefacts: Sequence[Artefact],
    work: Workload,
    *,
    lengths: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
    probes_of: ProbesOf = lambda _: None,
    target: Target | None = None,
) -> Emulation:
    """Every artefact on an emulated device, one thread.

    Args:
        work: Where the inputs of the calls are from.
        lengths: Of the calls; about 128 tokens if not given.
        memory_limit_bytes: Instead of what the device has to give.
        probes_of: The probes of an artefact; None when there are none.
        target: Instead of an emulator of `spec`.
    Raises:
        TargetError: No emulator, a runtime that is refused there, or no artefact that starts.
        InputError: The device is no 64-bit ARM board.
    """
    machine = target or EmulatedTarget(spec)
    identity = machine.identify()
    console.say(
        f"{machine.source}: onnxruntime {identity.onnxruntime} starts, {spec.memory.size_gib.value:g} GiB"
    )
    rows: list[ProfileRow] = []
    fits: list[MemoryFit] = []
    parities: dict[str, ParityRecord] = {}
    with console.progress(f"emulating {spec.name}", len(artefacts), unit="artefacts") as bar:
        for artefact in artefacts:
            bar.note(artefact.label)
            visit = _Visit(
                spec,
                artefact,
                work,
                _chosen(work, lengths),
                probes_of(artefact),
                memory_limit_bytes,
            )
            found, parity, fit = visit.to(machine)
            rows += found
            fits += fit
            if parity is not None:
                parities[artefact.label] = parity
            bar.advance()
    if not any(row.valid for row in rows):
        raise TargetError(f"{machine.source}: nothing runs there: {rows[0].invalid_reason}")
    invalid = [
        f"{row.model} {row.task} {row.precision}: {row.invalid_reason}"
        for row in rows
        if not row.valid
    ]
    for each in invalid:
        console.warn(f"{spec.name}: {each}")
    record = ProfileRecord(
        device=spec.name,
        method="emulated",
        rows=rows,
        claims=[],
        fits=fits,
        notes=[*_notes(work), *(_tell(row) for row in rows if row.valid), *invalid],
        provenance=provenance(),
    )
    return Emulation(record, parities)


@dataclass(frozen=True)
class _Visit:
    """One artefact's way through the emulator."""

    spec: DeviceSpec
    artefact: Artefact
    work: Workload
    lengths: list[int]
    probes: Probes | None
    memory_limit_bytes: int | None

    def to(self, machine: Target) -> tuple[list[ProfileRow], ParityRecord | None, list[MemoryFit]]:
        few = None if self.probes is None else few_probes(self.probes, self.artefact.parameters)
        with tempfile.TemporaryDirectory(prefix="edgedistil-emulation-") as scratch:
            inputs, outputs = Path(scratch) / "inputs.npz", Path(scratch) / _OUTPUTS
            np.savez(inputs, **self._inputs(few))
            reply = machine.run(
                self._job(few),
                {"inputs.npz": inputs, **self.artefact.job_files()},
                outputs_to=outputs,
            )
            fit = self._fit(machine, reply)
            if not reply.ok:
                return [self._failed(machine, reply)], None, fit
            rows = rows_of(self.artefact, reply, device=machine.name, method="emulated", threads=1)
            if few is None:
                return (
                    [
                        _with(row, "parity", "not checked: no probes of this artefact")
                        for row in rows
                    ],
                    None,
                    fit,
                )
            parity = self._judge(few, outputs, machine, reply)
        return [_with(row, "parity", tell_parity(parity)) for row in rows], parity, fit

    def _fit(self, machine: Target, reply: Reply) -> list[MemoryFit]:
        """Whether it fits into what the device can give; nothing when it ended for another reason."""
        if reply.error is not None and reply.error.kind != "memory":
            return []
        ended = (
            None
            if reply.error is None
            else f"{reply.error.message}, in the phase '{reply.error.phase}'"
        )
        return [
            memory_fit(
                self.artefact,
                reply,
                device=machine.name,
                limit_bytes=self.memory_limit_bytes or usable_memory_bytes(self.spec),
                how="a watch on the guest's resident memory",
                length=max(self.lengths),
                method="emulated",
                ended=ended,
            )
        ]

    def _inputs(self, probes: Probes | None) -> dict[str, Any]:
        found = {}
        for length in self.lengths:
            key = self.work.lengths[length][0]
            found.update({f"{key}/{name}": array for name, array in self.work.inputs[key].items()})
        for index, batch in enumerate(probes or ()):
            feeds = batch.feeds()
            feeds.setdefault(
                "token_type_ids", feeds["input_ids"] * 0
            )  # what a model that takes them adds itself
            found.update({f"{_key(index)}/{name}": array for name, array in feeds.items()})
        return found

    def _job(self, probes: Probes | None) -> Job:
        return Job(
            models={self.artefact.label: self.artefact.job_model()},
            cases=[
                Case(name=str(length), keys=self.work.lengths[length][:1])
                for length in self.lengths
            ],
            phases=["steady"] if probes is None else ["steady", "outputs"],
            outputs=None if probes is None else _OUTPUTS,
            output_keys=None
            if probes is None
            else [_key(index) for index in range(len(probes.batches))],
            threads=1,
            warmup_calls=0,
            min_calls=1,
            min_seconds=0,
            memory_limit_bytes=self.memory_limit_bytes,
        )

    def _judge(self, probes: Probes, outputs: Path, machine: Target, reply: Reply) -> ParityRecord:
        return judge(
            compare(probes, _answers(outputs, self.artefact.label, probes)),
            precision=self.artefact.precision,
            model=self.artefact.model,
            task=self.artefact.task,
            artefact_sha256=artefact_sha256(self.artefact.path),
            runtime=f"onnxruntime {reply.identity.onnxruntime} under {machine.source}",
            method="emulated",
            device=machine.name,
        )

    def _failed(self, machine: Target, reply: Reply) -> ProfileRow:
        """A row that says why there is nothing to say."""
        try:
            raise_failure(reply, source=machine.source)
            raise AssertionError("an ok reply is no failure")
        except TargetError as error:
            reason = error.message
        answer = reply.models.get(self.artefact.label)
        absent = NotMeasured(not_measured=reason)
        memory: MemoryStats | NotMeasured = (
            absent if answer is None else memory_stats(answer.memory)
        )
        return ProfileRow(
            **facts(self.artefact),
            device=machine.name,
            method="emulated",
            runtime=f"onnxruntime {reply.identity.onnxruntime or 'did not start'}",
            threads=1,
            batch=1,
            length=self.lengths[0],
            latency_ms=EMULATED_LATENCY,
            latency=EMULATED_LATENCY,
            load_ms=EMULATED_LATENCY,
            first_call_ms=EMULATED_LATENCY,
            start_to_first_result_ms=EMULATED_LATENCY,
            memory=memory,
            peak_memory_bytes=memory.peak_bytes if isinstance(memory, MemoryStats) else absent,
            valid=False,
            invalid_reason=reason,
            conditions=dict(reply.conditions),
        )


def few_probes(probes: Probes, parameters: int) -> Probes:
    """As many probes as an emulator can answer in a minute or two, the smallest calls first; at least one."""
    budget = min(_MOST_TOKENS, max(_LEAST_TOKENS, int(_PROBE_WORK / max(parameters, 1))))
    by_size = sorted(probes.batches, key=lambda batch: int(batch.input_ids_BL.size))
    kept, tokens = by_size[:1], int(by_size[0].input_ids_BL.size)
    for batch in by_size[1:]:
        tokens += int(batch.input_ids_BL.size)
        if tokens > budget:
            break
        kept.append(batch)
    return replace(probes, batches=tuple(kept))


def tell_parity(parity: ParityRecord) -> str:
    """The gate's verdict in words, with the figures."""
    figures: ParityFigures = parity.overall
    told = f"{figures.sequences} sequences, largest error {figures.max_abs:.2g}"
    if isinstance(figures.agreement, float):
        told += f", agreement {figures.agreement:.1%}"
    if parity.passed:
        return f"passed under these kernels: {told}"
    failed = "; ".join(format_failure(result) for result in parity.results if not result.holds)
    return f"FAILED under these kernels: {told}: {failed}"


def run_probes(run: RunDir | None) -> ProbesOf:
    """The probes that the export left in a run; none for a file that no run knows."""

    def find(artefact: Artefact) -> Probes | None:
        if run is None or not run.probes(artefact.model, artefact.task).is_file():
            return None
        return Probes.load(run.probes(artefact.model, artefact.task))

    return find


def _answers(outputs: Path, label: str, probes: Probes) -> Iterator[Mapping[str, Any]]:
    """The outputs of each probe call, one call in memory at a time."""
    with np.load(outputs, allow_pickle=False) as stored:
        for index in range(len(probes.batches)):
            prefix = f"{label}/{_key(index)}/"
            yield {
                name.removeprefix(prefix): stored[name]
                for name in stored.files
                if name.startswith(prefix)
            }


def _chosen(work: Workload, lengths: Sequence[int] | None) -> list[int]:
    if lengths:
        return sorted(lengths)
    fitting = [length for length in work.lengths if length <= _LENGTH]
    return [max(fitting) if fitting else min(work.lengths)]


def _notes(work: Workload) -> list[str]:
    return [f"workload: {work.source}", "an emulator's time is worth nothing: no row has a latency"]


def _tell(row: ProfileRow) -> str:
    """What emulation is for, in a line: kernels, gate, memory."""
    told = f"{row.model} {row.task} {row.precision}: it starts"
    if isinstance(row.memory, MemoryStats):
        sizes = (row.memory.after_load_bytes, row.memory.after_run_bytes)
        load, run = (
            f"{each / 2**20:.0f} MiB" if isinstance(each, int) else "untold" for each in sizes
        )
        told += f", holds {load} after loading and {run} after a run"
    return f"{told}; int8 kernels: {row.conditions.get('int8 kernels', 'not told')}; parity {row.conditions['parity']}"


def _key(index: int) -> str:
    return f"probe{index}"


def _with(row: ProfileRow, key: str, value: str) -> ProfileRow:
    return row.model_copy(update={"conditions": {**row.conditions, key: value}})
