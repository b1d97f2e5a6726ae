"""Measures calls with many texts: throughput, memory, and the gain of sorting texts by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from edgedistil.core import console
from edgedistil.core.bulk_records import BatchRow, SortingGain
from edgedistil.core.errors import InputError
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured, provenance
from edgedistil.core.session import SessionOptions
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import median_of
from edgedistil.profiling.limits import private_memory_bytes, require_success
from edgedistil.profiling.measured import DEFAULT_BUDGET, MeasurementBudget
from edgedistil.profiling.rows import describe_conditions, memory_stats, throttling
from edgedistil.profiling.workload import Feeds, Workload, Workloads
from edgedistil.runtime.disturbance import case_disturbances
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.protocol import Case, CaseTimes, Job, Reply
from edgedistil.runtime.target import Target

# The first call of a shape plans its memory and the second one takes it: peaks are seen after both.
_WARMUP_CALLS = 2
# Passes over the sentence pairs in either order, in turns: the gain is the median of neighbours.
_PASSES = 3
# Batches of a pass, so that an order has long and short texts in most of them.
_PASS_BATCHES = 8
# Far above the slowest case: only a hung process ends here.
_TIMEOUT_SECONDS = 3600
# Input name → array of shape (B, L).
Batch = dict[str, Any]


@dataclass(frozen=True)
class BatchSetting:
    """What is measured of every artefact.

    Attributes:
        batches: Texts of a call.
        threads: Threads of the session.
        conditions: Added to the conditions of every row.
        budget: How long a case is measured.
    """

    batches: Sequence[int]
    threads: int
    conditions: Mapping[str, str]
    budget: MeasurementBudget = DEFAULT_BUDGET


def measure_batches(
    target: Target, artefacts: Sequence[Artefact], workloads: Workloads, setting: BatchSetting
) -> ProfileRecord:
    """Returns throughput and memory of calls with many texts.

    Args:
        target: The machine.
        artefacts: What to run; teachers, which are not deployed, are left out.
        workloads: The inputs: texts at each length, and sentence pairs for the gain of sorting.
        setting: Batches and threads.
    Conditions:
        Every artefact, length, batch and arena setting has a fresh process, so that a peak is its
        own. Disturbed cases are measured once more.
    Raises:
        InputError: A graph takes a fixed number of texts.
        TargetError: A job failed there for another reason than memory.
    """
    deployed = [artefact for artefact in artefacts if artefact.role != "teacher"]
    for artefact in deployed:
        check_free_batch(artefact)
    # Fail before the first process starts, not after minutes.
    lengths = sorted(workloads.first.lengths)
    rows: list[BatchRow] = []
    sorting: list[SortingGain] = []
    jobs = len(deployed) * (2 * len(lengths) * len(setting.batches) + 1)
    with console.progress(f"measuring batches on {target.name}", jobs, unit="processes") as bar:
        for artefact in deployed:
            run = _ArtefactRun(target, artefact, workloads.of(artefact), setting)
            for length in lengths:
                for batch in setting.batches:
                    bar.note(f"{artefact.label}, {batch} texts of {length} tokens")
                    for arena in (True, False):
                        rows.append(run.row(length, batch, arena=arena))
                        bar.advance()
            # The gain of sorting is measured once, at the largest batch.
            gain = run.sorting_gain(max(setting.batches))
            sorting += [] if gain is None else [gain]
            bar.advance()
    return ProfileRecord(
        device=target.name,
        method=target.method,
        rows=[],
        claims=[],
        batches=rows,
        sorting=sorting,
        notes=[f"workload: {workloads.first.source}"],
        provenance=provenance(),
    )


def check_free_batch(artefact: Artefact) -> None:
    """Raises InputError for a graph that takes a fixed number of texts."""
    if artefact.graph.batch != 1:
        raise InputError(
            f"--batch: {artefact.path} takes {artefact.graph.batch} texts a call and no other "
            "number",
            hint="export the graph with a free batch axis, or leave out --batch",
        )


# --- inputs --------------------------------------------------------------------------------------


def full_batch(inputs: Feeds, keys: Sequence[str], batch: int) -> Batch:
    """Returns a batch of texts of one length; they repeat if there are fewer."""
    rows = [inputs[keys[number % len(keys)]] for number in range(batch)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def padded_batch(inputs: Feeds, keys: Sequence[str]) -> Batch:
    """Returns a batch of texts of several lengths, padded with zeros that the mask hides."""
    rows = [inputs[key] for key in keys]
    longest = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        # Any id will do: it costs as much as the tokenizer's own.
        array_BL = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            array_BL[number, : row[name].shape[1]] = row[name][0]
        batch[name] = array_BL
    return batch


def as_inputs(batches: Mapping[str, Batch]) -> NpzInputs:
    """Returns batches by key as the inputs of a job."""
    arrays: dict[str, Any] = {}
    for key, batch in batches.items():
        arrays |= {f"{key}/{name}": array for name, array in batch.items()}
    return NpzInputs(arrays)


# --- one artefact --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ArtefactRun:
    """Jobs of one artefact."""

    target: Target
    artefact: Artefact
    workload: Workload
    setting: BatchSetting

    def row(self, length: int, batch: int, *, arena: bool) -> BatchRow:
        """Measures one shape, and once more if that was disturbed."""
        row = self._measure(length, batch, arena=arena)
        if row.disturbed is None:
            return row
        again = self._measure(length, batch, arena=arena)
        first = f"disturbed: {row.disturbed}"
        conditions = {**again.conditions, "first measurement": first}
        return again.model_copy(update={"conditions": conditions})

    def _measure(self, length: int, batch: int, *, arena: bool) -> BatchRow:
        name = f"{batch}x{length}"
        texts = full_batch(self.workload.inputs, self.workload.lengths[length], batch)
        cases = [Case(name=name, keys=[name])]
        reply = self._run({name: texts}, cases, positions=(batch, length), arena=arena)
        result = reply.models.get(self.artefact.label)
        case = result.cases.get(name) if result is not None else None
        common = {
            **self._fields(),
            "method": self.target.method,
            "runtime": f"onnxruntime {reply.identity.onnxruntime}",
            "batch": batch,
            "length": length,
            "arena": arena,
            "conditions": {
                **describe_conditions(reply.before, reply.after),
                **self.setting.conditions,
            },
        }
        # A process that ran out of memory leaves a row without figures.
        if result is None or case is None or not reply.ok:
            return _without_figures(common, reply)
        # Time and memory of the same process.
        samples_ms = [nanoseconds / 1e6 for nanoseconds in case.samples_ns]
        latency = median_of(samples_ms)
        memory = memory_stats(result.memory)
        invalid = throttling(reply.before, reply.after)
        return BatchRow(
            **common,
            latency_ms=latency,
            samples_ms=samples_ms,
            peak_memory_bytes=memory.peak_bytes,
            after_memory_bytes=memory.after_run_bytes,
            valid=invalid is None,
            invalid_reason=invalid,
            disturbed=self._disturbances([case], reply, one_length=True),
        )

    def sorting_gain(self, batch: int) -> SortingGain | None:
        """Measures sentence pairs in batches as they come, and by length; None without pairs."""
        keys = self.workload.pairs[: _PASS_BATCHES * batch]
        if batch == 1 or len(keys) < 2 * batch:
            return None
        lengths = dict(zip(self.workload.pairs, self.workload.pair_lengths(), strict=True))
        orders = {
            "unsorted": keys,
            "sorted": sorted(keys, key=lambda key: -lengths[key]),
        }
        batches: dict[str, Batch] = {}
        names: dict[str, list[str]] = {}
        for order, ordered in orders.items():
            parts = [ordered[start : start + batch] for start in range(0, len(ordered), batch)]
            padded = {
                f"{order}{number}": padded_batch(self.workload.inputs, part)
                for number, part in enumerate(parts)
            }
            names[order] = list(padded)
            batches |= padded
        # In turns: a change of the machine reaches both orders.
        cases = [
            Case(name=f"{order} {number}", keys=names[order], mode="pass")
            for number in range(_PASSES)
            for order in orders
        ]
        longest = max(lengths[key] for key in keys)
        reply = self._run(batches, cases, positions=(batch, longest), arena=True)
        require_success(self.target, reply, [self.artefact])
        return self._gain(reply, batch, [lengths[key] for key in keys], batches)

    def _gain(
        self, reply: Reply, batch: int, lengths: Sequence[int], batches: Mapping[str, Batch]
    ) -> SortingGain:
        times = reply.models[self.artefact.label].cases
        seconds = {
            order: [sum(times[f"{order} {n}"].samples_ns) / 1e9 for n in range(_PASSES)]
            for order in ("unsorted", "sorted")
        }
        gains = [
            before / after
            for before, after in zip(seconds["unsorted"], seconds["sorted"], strict=True)
        ]
        invalid = throttling(reply.before, reply.after)
        return SortingGain(
            **self._fields(),
            texts=len(lengths),
            tokens=sum(lengths),
            batch=batch,
            padding_unsorted=_padding(batches, "unsorted"),
            padding_sorted=_padding(batches, "sorted"),
            unsorted_texts_per_s=len(lengths) / median(seconds["unsorted"]),
            sorted_texts_per_s=len(lengths) / median(seconds["sorted"]),
            gain=median(gains),
            low=min(gains),
            high=max(gains),
            valid=invalid is None,
            invalid_reason=invalid,
            disturbed=self._disturbances(list(times.values()), reply, one_length=False),
        )

    def _run(
        self,
        batches: Mapping[str, Batch],
        cases: list[Case],
        *,
        positions: tuple[int, int],
        arena: bool,
    ) -> Reply:
        """Runs a job; a failure for want of memory is a reply, any other one an error."""
        artefact, setting = self.artefact, self.setting
        batch, longest = positions
        session = SessionOptions(arena=arena)
        model = artefact.job_model().model_copy(update={"session": session})
        job = Job(
            models={artefact.label: model},
            cases=cases,
            threads=setting.threads,
            warmup_calls=_WARMUP_CALLS,
            min_calls=setting.budget.min_calls,
            min_seconds=setting.budget.min_seconds,
            max_seconds=setting.budget.max_seconds,
            timeout_seconds=_TIMEOUT_SECONDS,
            first_result_seconds=_TIMEOUT_SECONDS,
            private_memory_bytes=self._private_memory(batch, longest),
        )
        reply = run_job(self.target, [artefact], job, as_inputs(batches), check=False)
        if not is_out_of_memory(reply):
            require_success(self.target, reply, [artefact])
        return reply

    def _private_memory(self, batch: int, longest: int) -> int:
        """Memory that a job may take: no more than the machine has free, or others would end."""
        needed = private_memory_bytes(
            [self.artefact], longest=longest, threads=self.setting.threads, batch=batch
        )
        available = self.target.identify().memory_available_bytes
        return needed if available is None else min(needed, available)

    def _fields(self) -> dict[str, Any]:
        artefact = self.artefact
        return {
            "model": artefact.model,
            "role": artefact.role,
            "task": artefact.task,
            "precision": artefact.precision,
            "artefact_sha256": artefact.sha256,
            "device": self.target.name,
            "threads": self.setting.threads,
        }

    def _disturbances(
        self, cases: Sequence[CaseTimes], reply: Reply, *, one_length: bool
    ) -> str | None:
        signs = []
        for case in cases:
            signs += case_disturbances(
                case, reply, threads=self.setting.threads, one_length=one_length
            )
        return "; ".join(dict.fromkeys(signs)) or None


def is_out_of_memory(reply: Reply) -> bool:
    """Whether a job ended because memory was refused, or the kernel killed it."""
    error = reply.error
    return error is not None and (error.kind == "memory" or error.signal == "SIGKILL")


def _without_figures(common: Mapping[str, Any], reply: Reply) -> BatchRow:
    """Returns the row of a job that memory did not suffice for."""
    reason = "not enough memory"
    if reply.error is not None:
        reason = f"not enough memory: {reply.error.message}"
    absent = NotMeasured(not_measured=reason)
    return BatchRow(
        **common,
        latency_ms=absent,
        peak_memory_bytes=absent,
        after_memory_bytes=absent,
        valid=False,
        invalid_reason=reason,
    )


def _padding(batches: Mapping[str, Batch], order: str) -> float:
    """Returns the share of the positions of an order's batches that are padding."""
    masks = [batch["attention_mask"] for key, batch in batches.items() if key.startswith(order)]
    tokens = sum(int(mask.sum()) for mask in masks)
    return 1 - tokens / sum(int(mask.size) for mask in masks)
