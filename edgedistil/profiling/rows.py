"""Turns a runner's reply into profile rows, operator times and layer times.

A row never has a figure that its method cannot give: an emulated row has memory and no times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedistil.core.profile_records import LatencyStats, MemoryStats, OpTime, ProfileRow
from edgedistil.core.records import Count, Figure, Method, NotMeasured
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import summarize
from edgedistil.profiling.layers import layer_of_nodes
from edgedistil.profiling.workload import PAIRS
from edgedistil.runtime.disturbance import case_disturbances
from edgedistil.runtime.machine_facts import Condition
from edgedistil.runtime.protocol import CaseTimes, Energy, ModelResult, NodeTime, PhaseMemory, Reply

NOT_REPORTED = "not reported by this machine"
EMULATED_LATENCY = NotMeasured(
    not_measured="an emulator's time says nothing about the device's time"
)
# Bits 0 to 3 of `vcgencmd get_throttled` are the present state, bits 16 to 19 what happened since
# the board started.
_THROTTLED_NOW = 0xF
_THROTTLED_BEFORE = 0xF0000


def rows_from_reply(
    artefact: Artefact,
    reply: Reply,
    *,
    device: str,
    method: Method,
    threads: int,
    tokens_per_pair: float | None = None,
    conditions: Mapping[str, str] | None = None,
) -> list[ProfileRow]:
    """Returns one row for each case of a successful job with this model only.

    Args:
        artefact: The model of the job.
        reply: The reply to the job.
        device: Name of the device.
        method: "measured" or "emulated"; an emulated row has no times.
        threads: Threads of the session.
        tokens_per_pair: Mean tokens of the sentence pairs.
        conditions: Added to the conditions that the reply reports (governor, clock, energy, ...).
    """
    result = reply.models[artefact.label]
    # A later source overrides an earlier one: a target knows more than the machine reports.
    all_conditions = {
        **describe_conditions(reply.before, reply.after),
        **_describe_cores(reply, method, threads),
        **reply.conditions,
        **(conditions or {}),
        **_describe_energy(result.energy),
    }
    return [
        ProfileRow(
            **artefact_fields(artefact),
            device=device,
            method=method,
            runtime=runtime_name(artefact, reply),
            form=artefact.form.words or None,
            threads=threads,
            batch=artefact.graph.batch,
            length="sentence-pairs" if name == PAIRS else int(name),
            tokens_per_pair=tokens_per_pair if name == PAIRS else None,
            **_case_fields(name, case, reply, method, threads),
            **_start_fields(result, method, name),
            memory=memory_stats(result.memory),
            peak_memory_bytes=_count(_peak(result.memory, name)),
            conditions={**all_conditions, **_describe_calls(case, method)},
        )
        for name, case in result.cases.items()
    ]


# --- fields of a row -----------------------------------------------------------------------------


def runtime_name(artefact: Artefact, reply: Reply) -> str:
    """Returns name and version of the runtime that ran an artefact."""
    version = getattr(reply.identity, artefact.form.runtime)
    return f"{artefact.form.title} {version}"


def artefact_fields(artefact: Artefact) -> dict[str, Any]:
    """Fields of a `ProfileRow` that describe the artefact."""
    return {
        "model": artefact.model,
        "role": artefact.role,
        "task": artefact.task,
        "precision": artefact.precision,
        "file_bytes": artefact.file_bytes,
        "parameters": artefact.parameters,
        "artefact_sha256": artefact.sha256,
    }


def _case_fields(
    name: str, case: CaseTimes, reply: Reply, method: Method, threads: int
) -> dict[str, Any]:
    """Fields of a row that describe its steady calls, and whether verdicts may use them."""
    # Throttling and interference are about times: an emulated row is valid without them.
    if method == "emulated":
        return {"latency_ms": EMULATED_LATENCY, "latency": EMULATED_LATENCY, "valid": True}
    latency = summarize(case.samples_ns)
    reason = invalid_reason(reply, latency)
    signs = case_disturbances(case, reply, threads=threads, one_length=name != PAIRS)
    return {
        "latency_ms": latency.p50_ms if isinstance(latency, LatencyStats) else latency,
        "latency": latency,
        "valid": reason is None,
        "invalid_reason": reason,
        "disturbed": "; ".join(signs) or None,
    }


def _start_fields(result: ModelResult, method: Method, case: str) -> dict[str, Figure]:
    """Fields of a row that describe the start of its process."""
    first_case = next(iter(result.cases))
    first_call = _milliseconds(result.first_call_ns, method)
    first_result = _milliseconds(result.start_to_first_result_ns, method)
    # The process made its first call for the first case; the others have none.
    if case != first_case:
        absent = NotMeasured(not_measured=f"the process's first call was at {first_case} tokens")
        first_call = first_result = absent
    return {
        "load_ms": _milliseconds(result.load_ns, method),
        "first_call_ms": first_call,
        "start_to_first_result_ms": first_result,
    }


# --- validity and conditions ---------------------------------------------------------------------


def invalid_reason(reply: Reply, latency: LatencyStats | NotMeasured) -> str | None:
    """Reason why a row is invalid: throttling, or no samples; None if valid.

    Args:
        reply: The reply with the machine's conditions before and after the job.
        latency: Statistics of the row's calls.
    """
    reason = throttling(reply.before, reply.after)
    if reason is not None:
        return reason
    return latency.not_measured if isinstance(latency, NotMeasured) else None


def throttling(before: Condition, after: Condition | None) -> str | None:
    """Describes throttling, as a Raspberry Pi reports it or as x86 counts it; None without."""
    states = [before] if after is None else [before, after]
    for state in states:
        if (state.throttled_bits or 0) & _THROTTLED_NOW:
            return (
                f"the machine is throttling (get_throttled 0x{state.throttled_bits:x}): "
                "cool it, and check its power supply"
            )
    if after is None:
        return None
    # It began and ended between the two readings: only its trace is new.
    new_bits = (after.throttled_bits or 0) & ~(before.throttled_bits or 0) & _THROTTLED_BEFORE
    if before.throttled_bits is not None and new_bits:
        return (
            f"the machine throttled during the measurement (get_throttled "
            f"0x{before.throttled_bits:x} → 0x{after.throttled_bits:x}): "
            "cool it, and check its power supply"
        )
    if before.throttle_count is not None and after.throttle_count is not None:
        events = after.throttle_count - before.throttle_count
        if events > 0:
            return f"the processor throttled {events} times during the measurement"
    return None


def describe_conditions(before: Condition, after: Condition | None) -> dict[str, str]:
    """Describes governor, clock, temperature and load as the machine reported them.

    Args:
        before: State before the measurement.
        after: State after it; None if the job ended early.
    """
    conditions = dict.fromkeys(("governor", "clock", "temperature"), NOT_REPORTED)
    if before.governor:
        conditions["governor"] = before.governor
    # After the job if possible: before it, idle cores may be at a low clock.
    clocks = (after or before).clock_mhz
    if clocks:
        conditions["clock"] = f"{min(clocks):.0f} to {max(clocks):.0f} MHz"
    if before.temperature_c and after and after.temperature_c:
        hottest_before = max(before.temperature_c.values())
        hottest_after = max(after.temperature_c.values())
        conditions["temperature"] = f"{hottest_before:.0f} °C → {hottest_after:.0f} °C"
    if before.load_1min is not None:
        conditions["load before"] = f"{before.load_1min:.2f}"
    if after and after.throttled_bits is not None:
        conditions["throttled"] = f"0x{after.throttled_bits:x}"
        # These bits stay until the next start, so they cannot show a second time.
        if (before.throttled_bits or 0) & _THROTTLED_BEFORE:
            conditions["throttled"] += "; it throttled before the measurement, since its start"
    return conditions


def _describe_cores(reply: Reply, method: Method, threads: int) -> dict[str, str]:
    """Describes the cores that the threads ran on, and the load before the calls."""
    # Under an emulator these are the emulator's.
    if method == "emulated":
        return {}
    identity = reply.identity
    cores = f"{identity.cores_allowed or '?'} of {identity.cores or '?'}"
    if reply.pinned_cores:
        numbers = ", ".join(str(number) for number in reply.pinned_cores)
        cores += f", pinned to {numbers}: the fastest ones"
    if identity.cpu_quota is not None:
        cores += f", quota of {identity.cpu_quota:g}"
    conditions = {"cores": cores}
    # Sessions that take turns stop spinning after each call.
    if threads > 1:
        conditions["spinning"] = "on: threads keep waiting for work between calls"
    if reply.other_load is not None:
        conditions["other tasks before"] = f"{reply.other_load:.2f}"
    return conditions


def _describe_calls(case: CaseTimes, method: Method) -> dict[str, str]:
    """Processor time and page faults of a case, and whether it ended early."""
    # Under an emulator these are the emulator's.
    if method == "emulated" or not case.samples_ns:
        return {}
    calls = len(case.samples_ns)
    faults = case.faults
    conditions = {
        "cpu time a call": f"{case.cpu_ns / calls / 1e6:.3f} ms",
        "page faults": f"{faults.minor} minor, {faults.major} major in {calls} calls",
    }
    if case.truncated:
        conditions["ended early"] = f"after {calls} calls, below the minimum: time limit reached"
    return conditions


def _describe_energy(energy: Energy | None) -> dict[str, str]:
    if energy is None:
        return {}
    if energy.joules is None or not energy.calls:
        return {"energy": f"not measured: {energy.absent or 'no reading'}"}
    millijoules = energy.joules / energy.calls * 1000
    # The counters measure the machine, not this process.
    return {"energy": f"{millijoules:.2f} mJ a call ({energy.counter}, complete machine)"}


# --- units ---------------------------------------------------------------------------------------


def memory_stats(memory: PhaseMemory) -> MemoryStats:
    """Returns the resident bytes after import, loading and running, and the peak."""
    # A job without steady calls has no phase `run`: its first call is the run.
    return MemoryStats(
        after_import_bytes=_count(memory.imported),
        after_load_bytes=_count(memory.load),
        after_run_bytes=_count(memory.run if memory.run is not None else memory.first_call),
        peak_bytes=_count(memory.peak),
        anonymous_bytes=_count(memory.anonymous),
        file_bytes=_count(memory.file),
        pss_bytes=_count(memory.pss),
    )


def _peak(memory: PhaseMemory, case: str) -> int | None:
    """Peak up to the end of a case: a pass comes last, and not every artefact has one."""
    if case != PAIRS and memory.peak_before_pass is not None:
        return memory.peak_before_pass
    return memory.peak


def _count(value: int | None) -> Count:
    return NotMeasured(not_measured=NOT_REPORTED) if value is None else value


def _milliseconds(nanoseconds: int | None, method: Method) -> Figure:
    if method == "emulated":
        return EMULATED_LATENCY
    if nanoseconds is None:
        return NotMeasured(not_measured="not reported by the runner")
    return nanoseconds / 1e6


# --- operators and layers ------------------------------------------------------------------------


def op_times(nodes: Sequence[NodeTime]) -> list[OpTime]:
    """Sums the nodes' times by kind of operator, longest first."""
    times = _sum_times([(node.op, node) for node in nodes])
    return sorted(times, key=lambda time: -time.total_ms)


def layer_times(artefact: Artefact, nodes: Sequence[NodeTime]) -> list[OpTime]:
    """Sums the nodes' times by layer of the model, in the order of execution."""
    layers = layer_of_nodes(artefact.path, [node.node for node in nodes])
    return _sum_times(list(zip(layers, nodes, strict=True)))


def _sum_times(named_nodes: Sequence[tuple[str, NodeTime]]) -> list[OpTime]:
    """Sums calls and times by name, in the order in which the names appear."""
    # All times may round to zero in a very small graph.
    total_us = sum(node.total_us for _, node in named_nodes) or 1
    calls: dict[str, int] = {}
    microseconds: dict[str, int] = {}
    for name, node in named_nodes:
        calls[name] = calls.get(name, 0) + node.calls
        microseconds[name] = microseconds.get(name, 0) + node.total_us
    return [
        OpTime(
            name=name,
            calls=calls[name],
            total_ms=microseconds[name] / 1000,
            share=microseconds[name] / total_us,
        )
        for name in calls
    ]
