"""Constants of onnxruntime on families of cores, with where they come from.

`Constants` has the efficiencies, rates and overheads that turn counted work into seconds. They are
fitted on measured rows or assumed from the kernels, and are uncertain by a factor `spread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.device import DeviceSpec

Arithmetic = Literal["fp32", "int8"]
CoreFamily = Literal["in-order", "narrow", "wide", "x86", "amx"]
CostVector = NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """Efficiency of one runtime on one family of cores.

    Attributes:
        fp32_efficiency: Share of the device's peak rate that float32 MatMuls with weights reach.
        int8_efficiency: The same for int8 MatMuls.
        attention_efficiency: The same for MatMuls of two activations.
        cache_bytes_per_cycle: Rate at which cached weights are read, per core.
        bandwidth_share: Share of the memory bandwidth at which other weights are read.
        moved_bytes_per_cycle: Rate of reading inputs and writing outputs, per core.
        heavy_cycles: Cycles per element of a transcendental function (Softmax, Gelu, ...).
        element_cycles: Cycles per element of any other element-wise operator.
        overhead_cycles: Cycles per node.
        call_cycles: Cycles per call.
        thread_cycles: Cycles per node for dividing its work among several threads.
        half_rows: Rows of a MatMul at which it reaches half of its efficiency.
        serial_share: Share of the element-wise work that more threads do not speed up.
        scaling_origin: Where `thread_cycles` and `serial_share` were measured; None if they are
            assumed, and the gain of int8 from more threads is then unknown.
        spread: High end of a latency band divided by its low end.
        spread_origin: Where the spread comes from, as reports print it.
        origin: Where the constants come from, as reports print it.
    """

    fp32_efficiency: float
    int8_efficiency: float
    attention_efficiency: float
    cache_bytes_per_cycle: float
    bandwidth_share: float
    moved_bytes_per_cycle: float
    heavy_cycles: float
    element_cycles: float
    overhead_cycles: float
    call_cycles: float
    thread_cycles: float
    half_rows: float
    serial_share: float
    scaling_origin: str | None
    spread: float
    spread_origin: str
    origin: str

    @property
    def unit_costs(self) -> CostVector:
        """Cost of one unit of each entry of `cost_terms`, in the order of `UNCERTAIN_FIELDS`."""
        rates = [getattr(self, name) for name in _RATE_FIELDS]
        costs = [getattr(self, name) for name in _CYCLE_FIELDS]
        return np.array([1 / rate for rate in rates] + costs)

    def with_unit_costs(self, unit_costs: Sequence[float] | CostVector) -> Constants:
        """Returns a copy with other `unit_costs`."""
        rates = [1 / cost for cost in unit_costs[: len(_RATE_FIELDS)]]
        values = [float(value) for value in [*rates, *unit_costs[len(_RATE_FIELDS) :]]]
        changes: dict[str, Any] = dict(zip(UNCERTAIN_FIELDS, values, strict=True))
        return replace(self, **changes)


# The constants that are uncertain and fitted: all fields before `half_rows`. The first six are
# rates and shares (a larger one is faster), the others are cycles (a larger one is slower).
UNCERTAIN_FIELDS = tuple(field.name for field in fields(Constants))[:11]
_RATE_FIELDS = UNCERTAIN_FIELDS[:6]
_CYCLE_FIELDS = UNCERTAIN_FIELDS[6:]

_ASSUMED = (
    "uncalibrated: assumed from instruction counts under emulation and from the kernels' loops; "
    "`profile --ssh HOST --calibrate` replaces them"
)
# An efficiency is a share of the device file's peak at its clock: a clock that is really higher
# shows as an efficiency above 1.
_FITTED = "fitted on seven encoders on one x86-64 server with AMX (benchmarks/cost_model.md)"
# About what one server with AMX needs, 5.4 µs at 2.7 GHz; for other cores it is an assumption.
_THREAD_CYCLES = 15_000
_SPREAD_ORIGIN = "leave one device out, benchmarks/cost_model.md"
_X86 = Constants(
    fp32_efficiency=0.755,
    int8_efficiency=0.70,
    attention_efficiency=1.07,
    cache_bytes_per_cycle=10.7,
    bandwidth_share=0.83,
    moved_bytes_per_cycle=8.3,
    heavy_cycles=1.9,
    element_cycles=0.24,
    overhead_cycles=4040,
    call_cycles=27700,
    thread_cycles=_THREAD_CYCLES,
    half_rows=0.0,
    serial_share=0.0,
    scaling_origin=None,
    spread=2.5,
    spread_origin=_SPREAD_ORIGIN,
    origin=_FITTED + ", int8 assumed",
)
ONNXRUNTIME_CONSTANTS: dict[CoreFamily, Constants] = {
    "in-order": Constants(
        fp32_efficiency=0.45,
        int8_efficiency=0.45,
        attention_efficiency=0.40,
        cache_bytes_per_cycle=1.5,
        bandwidth_share=0.8,
        moved_bytes_per_cycle=2.0,
        heavy_cycles=24.0,
        element_cycles=2.0,
        overhead_cycles=16000,
        call_cycles=80000,
        thread_cycles=_THREAD_CYCLES,
        half_rows=1.0,
        serial_share=0.0,
        scaling_origin=None,
        spread=4.0,
        spread_origin=_SPREAD_ORIGIN,
        origin=_ASSUMED,
    ),
    "narrow": Constants(
        fp32_efficiency=0.66,
        int8_efficiency=0.58,
        attention_efficiency=0.60,
        cache_bytes_per_cycle=3.0,
        bandwidth_share=0.8,
        moved_bytes_per_cycle=4.0,
        heavy_cycles=12.0,
        element_cycles=1.0,
        overhead_cycles=9000,
        call_cycles=50000,
        thread_cycles=_THREAD_CYCLES,
        half_rows=1.0,
        serial_share=0.0,
        scaling_origin=None,
        spread=3.0,
        spread_origin=_SPREAD_ORIGIN,
        origin=_ASSUMED,
    ),
    "wide": Constants(
        fp32_efficiency=0.72,
        int8_efficiency=0.52,
        attention_efficiency=0.65,
        cache_bytes_per_cycle=5.0,
        bandwidth_share=0.8,
        moved_bytes_per_cycle=8.0,
        heavy_cycles=6.0,
        element_cycles=0.6,
        overhead_cycles=7000,
        call_cycles=40000,
        thread_cycles=_THREAD_CYCLES,
        half_rows=1.0,
        serial_share=0.0,
        scaling_origin=None,
        spread=2.5,
        spread_origin=_SPREAD_ORIGIN,
        origin=_ASSUMED,
    ),
    "x86": _X86,
    # The share of AMX's much higher int8 peak is lower; everything else is the same cores'.
    "amx": replace(
        _X86,
        int8_efficiency=0.226,
        thread_cycles=14_560,
        serial_share=0.51,
        scaling_origin="ten profiles on one server with AMX, benchmarks/cost_model.md",
        origin=_FITTED,
    ),
}


# Share of the peak rate that one product of two 512x512 matrices reaches, which `devices probe`
# measures: fp32 and int8. x86: 15.0 and 60 of 16 and 64 on a Zen 4; AMX: 86 and 1,230 G a second of
# 86 and 2,765 (docs/log.md#amx-in-int8). ARM: assumed from the kernels' inner loops.
SQUARE_PRODUCT_SHARES: dict[CoreFamily, dict[Arithmetic, float]] = {
    "in-order": {"fp32": 0.9, "int8": 0.9},
    "narrow": {"fp32": 0.95, "int8": 0.95},
    "wide": {"fp32": 0.95, "int8": 0.95},
    "x86": {"fp32": 0.94, "int8": 0.94},
    "amx": {"fp32": 1.0, "int8": 0.445},
}


def core_family(spec: DeviceSpec) -> CoreFamily:
    """Returns the family of a device's first cluster, whose constants apply to it."""
    if spec.identity.machine == "x86_64":
        return "amx" if spec.isa.amx else "x86"
    if spec.in_order:
        return "in-order"
    # Cores with dot products are also those with two 128-bit pipelines.
    return "wide" if spec.isa.dot_product else "narrow"
