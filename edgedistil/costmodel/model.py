"""Work × device → seconds, with a band. Costs add up over the nodes; constants say where they are from.

    node = multiply-adds / (peak · efficiency · fill) + weights / fetch rate + moved bytes / rate
           + elements + overhead;   a call = its nodes + what every call costs

The peak, the clock, the bandwidth and the thread scaling are the device's; the rest are properties of a runtime on a
family of cores (`Constants`). They are uncertain by `spread`: a time's band has that factor between its ends, and a
ratio of two models' times moves each constant alone, for both models together, because the same error in both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from edgedistil.core.device import DeviceSpec
from edgedistil.core.records import Band
from edgedistil.costmodel.workload import Work

Family = Literal["in-order", "narrow", "wide", "x86", "amx"]

# What shared constants do not cancel: two graphs differ in shapes, and a kernel is not equally good at all of them.
_RATIO_RESIDUAL = 0.04
# Weights are read in a circle: once they and the largest activation do not fit, a cache soon holds none of them.
_NONE_LEFT = 1.5


@dataclass(frozen=True)
class Constants:
    """How well a runtime uses a family of cores. `spread` is high / low of a time's band."""

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
    half_rows: float
    spread: float
    origin: str

    @property
    def weights(self) -> Any:
        """What a unit of each of `features` costs, in seconds."""
        return np.array(
            [
                *(
                    1 / self.fp32_efficiency,
                    1 / self.int8_efficiency,
                    1 / self.attention_efficiency,
                ),
                *(
                    1 / self.cache_bytes_per_cycle,
                    1 / self.bandwidth_share,
                    1 / self.moved_bytes_per_cycle,
                ),
                *(self.heavy_cycles, self.element_cycles, self.overhead_cycles, self.call_cycles),
            ]
        )

    def with_weights(self, weights: Sequence[float]) -> Constants:
        """The same with other `weights`."""
        values = [1 / each for each in weights[:_RATES]] + list(weights[_RATES:])
        named: dict[str, Any] = dict(zip(UNCERTAIN, map(float, values), strict=True))
        return replace(self, **named)


_RATES = 6  # the first ones are rates and shares, the rest are costs
UNCERTAIN = tuple(each.name for each in fields(Constants))[:10]

_ASSUMED = (
    "uncalibrated: assumed from instruction counts under emulation and from the kernels' loops; "
    "`profile --ssh HOST --calibrate` replaces them"
)
# An efficiency is of the device file's peak at its clock: a clock that is really higher shows as more than 1.
_FITTED = "fitted on seven encoders on one x86-64 server with AMX (benchmarks/cost_model.md)"
ONNXRUNTIME: dict[Family, Constants] = {
    "in-order": Constants(
        0.45, 0.45, 0.40, 1.5, 0.8, 2.0, 24.0, 2.0, 16000, 80000, 1.0, 3.0, _ASSUMED
    ),
    "narrow": Constants(
        0.66, 0.58, 0.60, 3.0, 0.8, 4.0, 12.0, 1.0, 9000, 50000, 1.0, 2.0, _ASSUMED
    ),
    "wide": Constants(0.72, 0.52, 0.65, 5.0, 0.8, 8.0, 6.0, 0.6, 7000, 40000, 1.0, 2.0, _ASSUMED),
    "x86": Constants(
        0.755,
        0.70,
        1.07,
        10.7,
        0.83,
        8.3,
        1.9,
        0.24,
        4040,
        27700,
        0.0,
        2.0,
        _FITTED + ", int8 assumed",
    ),
    "amx": Constants(
        0.755, 0.226, 1.07, 10.7, 0.83, 8.3, 1.9, 0.24, 4040, 27700, 0.0, 2.0, _FITTED
    ),
}


def family(spec: DeviceSpec) -> Family:
    """Which constants a device takes: by its first cluster."""
    if spec.identity.machine == "x86_64":
        return "amx" if spec.isa.amx else "x86"
    if spec.in_order:
        return "in-order"
    return "narrow" if spec.clusters[0].macs_per_cycle.fp32.value <= 4 else "wide"


def features(work: Sequence[Work], spec: DeviceSpec, *, threads: int, half_rows: float) -> Any:
    """What a call consists of, each in seconds at one unit: products, fetched weights, moved bytes, elements, nodes.

    Products of two activations (attention) are a kind of their own: many, small, and in float whatever the weights are.
    """
    cluster, speedup = spec.clusters[0], spec.thread_scaling.of(threads)
    cycle = 1 / (cluster.clock_ghz.value * 1e9)
    memory = (
        spec.memory.bandwidth_gb_per_s if threads > 1 else spec.memory.one_core_gb_per_s
    ).value * 1e9
    peak = {"fp32": cluster.macs_per_cycle.fp32.value, "int8": cluster.macs_per_cycle.int8.value}
    busy = {"fp32": 0.0, "int8": 0.0, "attention": 0.0}
    for each in work:
        if each.macs:
            kind = (
                "attention"
                if each.arithmetic == "fp32" and not each.weight_bytes
                else each.arithmetic
            )
            busy[kind] += each.macs * (1 + half_rows / each.rows) / peak[each.arithmetic]
    fetched = sum(each.weight_bytes for each in work)
    cached = fetched * _cached_share(work, spec)
    moved = sum(each.moved_bytes for each in work)
    heavy = sum(each.elements for each in work if each.heavy)
    light = sum(each.elements for each in work if not each.heavy and not each.macs)
    nodes = sum(1.0 if each.macs or each.moved_bytes > 1024 else 0.3 for each in work)
    return np.array(
        [
            *(busy[kind] * cycle / speedup for kind in ("fp32", "int8", "attention")),
            *(cached * cycle / speedup, (fetched - cached) / memory, moved * cycle / speedup),
            *(heavy * cycle / speedup, light * cycle / speedup, nodes * cycle, cycle),
        ]
    )


def _cached_share(work: Sequence[Work], spec: DeviceSpec) -> float:
    """How much of the weights the last-level cache still has from the call before."""
    size = spec.caches.last_level_bytes
    used = sum(each.weight_bytes for each in work) + 4 * max(
        (each.elements for each in work), default=0
    )
    return min(1.0, max(0.0, (_NONE_LEFT * size - used) / ((_NONE_LEFT - 1) * size)))


def seconds(work: Sequence[Work], spec: DeviceSpec, constants: Constants, *, threads: int) -> float:
    """Predicted time of one call: the middle of the band."""
    return float(
        features(work, spec, threads=threads, half_rows=constants.half_rows) @ constants.weights
    )


def latency_band(
    work: Sequence[Work], spec: DeviceSpec, constants: Constants, *, threads: int
) -> Band:
    """Predicted milliseconds of one call, low to high."""
    middle = seconds(work, spec, constants, threads=threads) * 1000
    return Band(low=middle / math.sqrt(constants.spread), high=middle * math.sqrt(constants.spread))


def ratio_band(
    first: Sequence[Work],
    second: Sequence[Work],
    spec: DeviceSpec,
    constants: Constants,
    *,
    threads: int,
) -> tuple[float, Band]:
    """How many times faster `second` is: the middle, and a band in which shared errors cancel."""
    one = features(first, spec, threads=threads, half_rows=constants.half_rows)
    two = features(second, spec, threads=threads, half_rows=constants.half_rows)
    step = math.sqrt(constants.spread)
    found = []
    for signs in product((1 / step, step), repeat=len(UNCERTAIN)):
        weights = constants.weights * np.array(signs)
        found.append(float(one @ weights) / float(two @ weights))
    middle = float(one @ constants.weights) / float(two @ constants.weights)
    return middle, Band(
        low=min(found) * (1 - _RATIO_RESIDUAL), high=max(found) * (1 + _RATIO_RESIDUAL)
    )


def fitted(
    samples: Sequence[tuple[Any, float]], prior: Constants, *, origin: str, spread: float
) -> Constants:
    """Constants under which the model tells the measured times, staying near `prior` where the times do not decide.

    Args:
        samples: (features, measured seconds) of each run.
    """
    rows = np.array([each for each, _ in samples])
    wanted = np.log([seconds for _, seconds in samples])
    start = np.log(prior.weights)
    theta = start.copy()
    for _ in range(
        60
    ):  # Gauss-Newton on the logarithms; the ridge keeps what the times do not decide at the prior
        parts = rows * np.exp(theta)
        told = parts.sum(axis=1)
        slope = parts / told[:, None]
        ridge = 0.3 * np.eye(len(theta))
        change = np.linalg.solve(
            slope.T @ slope + ridge @ ridge,
            -slope.T @ (np.log(told) - wanted) - ridge @ ridge @ (theta - start),
        )
        theta = theta + np.clip(change, -0.5, 0.5)
    return replace(prior.with_weights(np.exp(theta)), origin=origin, spread=spread)


# --- memory ------------------------------------------------------------------------------------------------

# Fitted on this project's x86-64 measurements: encoders and fill-mask models in fp32 and int8, 17 to 268 MB, with the
# weights inside the protobuf and beside it. Loading a protobuf holds its bytes beside the tensors; a file of weights is
# mapped, and what stays is the copies that the products packed.
_INSIDE_PROCESS, _INSIDE_SHARE = 77e6, 1.45
_BESIDE_PROCESS, _BESIDE_SHARE = 85e6, 1.05
_MEMORY_SPREAD = 1.25


def memory_band(
    file_bytes: int, *, external: bool, work: Sequence[Work], page_bytes: float
) -> Band:
    """Predicted peak resident bytes of a fresh process that loads and runs the graph."""
    if external:
        middle = _BESIDE_PROCESS + _BESIDE_SHARE * sum(each.weight_bytes for each in work)
    else:
        middle = _INSIDE_PROCESS + _INSIDE_SHARE * file_bytes
    middle += 3 * max((each.elements * 4 for each in work), default=0)
    middle *= 1.08 if page_bytes > 4096 else 1.0
    return Band(low=middle / _MEMORY_SPREAD, high=middle * _MEMORY_SPREAD)
