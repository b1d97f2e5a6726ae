"""Replies → rows and tables of operators. Refuses what a method may not claim: an emulated row has no latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedistil.core.records import (
    Count,
    Figure,
    LatencyStats,
    MemoryStats,
    Method,
    NotMeasured,
    OpTime,
    ProfileRow,
)
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import summarize
from edgedistil.profiling.layers import layer_of_nodes
from edgedistil.profiling.workload import PAIRS
from edgedistil.runtime.protocol import CaseTimes, Condition, Energy, NodeTime, PhaseMemory, Reply

EMULATED_LATENCY = NotMeasured(not_measured="an emulator's time says nothing about the device's")
_THROTTLED_NOW = 0b1111
_MAX_DRIFT = 0.15


def rows_of(
    artefact: Artefact,
    reply: Reply,
    *,
    device: str,
    method: Method,
    threads: int,
    conditions: dict[str, str] | None = None,
) -> list[ProfileRow]:
    """One row a case of an ok reply to a job with this one model.

    Args:
        method: "measured" or "emulated"; an emulated row keeps memory and loses every time.
        conditions: In words, beside what the reply itself tells (governor, clock, temperature, energy …).
    """
    answer = reply.models[artefact.label]
    runtime = f"onnxruntime {reply.identity.onnxruntime}"
    told = {**conditions_of(reply.before, reply.after), **reply.conditions, **(conditions or {})}
    told.update(_energy(answer.energy))
    first = next(iter(answer.cases), "")
    rows = []
    for name, case in answer.cases.items():
        stats: LatencyStats | NotMeasured = (
            EMULATED_LATENCY if method == "emulated" else summarize(case.samples_ns)
        )
        invalid = None if method == "emulated" else invalid_reason(reply, stats)
        rows.append(
            ProfileRow(
                **facts(artefact),
                device=device,
                method=method,
                runtime=runtime,
                threads=threads,
                batch=1,
                length="sentence-pairs" if name == PAIRS else int(name),
                latency_ms=stats.p50_ms if isinstance(stats, LatencyStats) else stats,
                latency=stats,
                load_ms=_ms(answer.load_ns, method),
                first_call_ms=_ms(answer.first_call_ns, method)
                if name == first
                else _of_another_length(first),
                start_to_first_result_ms=(
                    _ms(answer.start_to_first_result_ns, method)
                    if name == first
                    else _of_another_length(first)
                ),
                memory=memory_stats(answer.memory),
                peak_memory_bytes=_count(answer.memory.peak),
                valid=invalid is None,
                invalid_reason=invalid,
                conditions={**told, **_call_costs(case, method)},
            )
        )
    return rows


def facts(artefact: Artefact) -> dict[str, Any]:
    return {
        "model": artefact.model,
        "role": artefact.role,
        "task": artefact.task,
        "precision": artefact.precision,
        "file_bytes": artefact.file_bytes,
        "parameters": artefact.parameters,
        "artefact_sha256": artefact.sha256,
    }


def invalid_reason(reply: Reply, stats: LatencyStats | NotMeasured) -> str | None:
    """Why the figures must not be used, if so: throttled, or slowing down while it was measured."""
    if reply.after is not None and (reply.after.throttled_bits or 0) & _THROTTLED_NOW:
        bits = f"get_throttled 0x{reply.after.throttled_bits:x}"
        return f"the machine throttles now ({bits}): cool it, check its power supply"
    before, after = reply.before.throttle_count, reply.after.throttle_count if reply.after else None
    if before is not None and after is not None and after > before:
        return f"the processor throttled {after - before} times while it was measured"
    if isinstance(stats, NotMeasured):
        return stats.not_measured
    hot = reply.before.temperature_c and reply.after and reply.after.temperature_c
    if hot and isinstance(stats.drift, float) and stats.drift > _MAX_DRIFT:
        return f"calls became {stats.drift:.0%} slower while it was measured: it is not at a steady state"
    return None


def conditions_of(before: Condition, after: Condition | None) -> dict[str, str]:
    """Governor, clock, temperature and load, as read; what the machine does not tell is named as such."""
    found = {"governor": before.governor or "not told by this machine"}
    clocks = (after or before).clock_mhz
    found["clock"] = (
        f"{min(clocks):.0f} to {max(clocks):.0f} MHz" if clocks else "not told by this machine"
    )
    if before.temperature_c and after and after.temperature_c:
        found["temperature"] = (
            f"{max(before.temperature_c.values()):.0f} °C → {max(after.temperature_c.values()):.0f} °C"
        )
    else:
        found["temperature"] = "not told by this machine"
    if before.load_1min is not None:
        found["load before"] = f"{before.load_1min:.2f}"
    if after and after.throttled_bits is not None:
        found["throttled"] = f"0x{after.throttled_bits:x}"
    return found


def _call_costs(case: CaseTimes, method: Method) -> dict[str, str]:
    if method == "emulated" or not case.samples_ns:
        return {}
    calls = len(case.samples_ns)
    costs = {
        "cpu time a call": f"{case.cpu_ns / calls / 1e6:.3f} ms",
        "page faults": f"{case.faults.minor} minor, {case.faults.major} major in {calls} calls",
    }
    if case.truncated:
        costs["ended early"] = f"after {calls} calls: its time was over before the minimum count"
    return costs


def _energy(energy: Energy | None) -> dict[str, str]:
    if energy is None:
        return {}
    if energy.joules is None or not energy.calls:
        return {"energy": f"not measured: {energy.absent or 'no reading'}"}
    return {
        "energy": f"{energy.joules / energy.calls * 1000:.2f} mJ a call ({energy.counter}, whole machine)"
    }


def memory_stats(memory: PhaseMemory) -> MemoryStats:
    return MemoryStats(
        after_import_bytes=_count(memory.imported),
        after_load_bytes=_count(memory.load),
        after_run_bytes=_count(memory.run if memory.run is not None else memory.first_call),
        peak_bytes=_count(memory.peak),
    )


def _count(value: int | None) -> Count:
    return NotMeasured(not_measured="this machine does not tell it") if value is None else value


def _ms(value: int | None, method: Method) -> Figure:
    if method == "emulated":
        return EMULATED_LATENCY
    return NotMeasured(not_measured="the runner did not tell it") if value is None else value / 1e6


def _of_another_length(first: str) -> NotMeasured:
    return NotMeasured(not_measured=f"the process's first call was at {first} tokens")


# --- operators and layers ---------------------------------------------------------------------------------


def op_times(nodes: Sequence[NodeTime]) -> list[OpTime]:
    """Times by kind of operator, the longest first."""
    return _shares([(node.op, node) for node in nodes])


def layer_times(artefact: Artefact, nodes: Sequence[NodeTime]) -> list[OpTime]:
    """Times by layer of the model, in the order of execution."""
    layers = layer_of_nodes(artefact.path, [node.node for node in nodes])
    return _shares(
        [(layer, node) for layer, node in zip(layers, nodes, strict=True)], in_order=True
    )


def _shares(named: Sequence[tuple[str, NodeTime]], *, in_order: bool = False) -> list[OpTime]:
    total = sum(node.total_us for _, node in named) or 1
    sums: dict[str, list[int]] = {}
    for name, node in named:
        entry = sums.setdefault(name, [0, 0])
        entry[0] += node.calls
        entry[1] += node.total_us
    found = [
        OpTime(name=name, calls=calls, total_ms=microseconds / 1000, share=microseconds / total)
        for name, (calls, microseconds) in sums.items()
    ]
    return found if in_order else sorted(found, key=lambda each: -each.total_ms)
