"""Predicted latency and memory of a graph on a device.

Costs add up over the nodes of a graph:

    node = multiply-adds / (peak · efficiency · fill) + weights / fetch rate + moved bytes / rate
           + elements · cycles + overhead;   a call = its nodes + a cost per call

A sum, not a roofline: the larger of arithmetic and weight fetch is 45% off at 16 tokens
(docs/log.md#costs-add-up).

The peak, the clock, the bandwidth and the thread scaling are the device's. The rest are properties
of a runtime on a family of cores (`Constants`) and are uncertain by a factor `spread`: that factor
separates the ends of a latency band. The ratio of two models' times varies each constant for both
models together, because the same error in both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.device import Cluster, DeviceSpec
from edgedistil.core.records import Band
from edgedistil.costmodel.workload import NodeWork

CoreFamily = Literal["in-order", "narrow", "wide", "x86", "amx"]
CostVector = NDArray[np.float64]

# Relative error of a ratio that shared constants do not cancel: two graphs differ in shapes, and a
# kernel is not equally efficient at all of them.
_RATIO_RESIDUAL = 0.04
# Weights are streamed in the same order on every call: under LRU replacement, a cache smaller than
# the working set gets almost no hits. Hits fall linearly from all, at the cache's size, to none at
# this multiple of it (docs/log.md#cached-share-of-the-weights).
_NO_HITS_AT = 1.5
# A graph node below this many moved bytes only handles shapes and costs a fraction of the overhead.
_SHAPE_ONLY_BYTES = 1024
_SHAPE_ONLY_OVERHEAD = 0.3

# --- constants -----------------------------------------------------------------------------------


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
        half_rows: Rows of a MatMul at which it reaches half of its efficiency.
        spread: High end of a latency band divided by its low end.
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
    half_rows: float
    spread: float
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
UNCERTAIN_FIELDS = tuple(field.name for field in fields(Constants))[:10]
_RATE_FIELDS = UNCERTAIN_FIELDS[:6]
_CYCLE_FIELDS = UNCERTAIN_FIELDS[6:]

_ASSUMED = (
    "uncalibrated: assumed from instruction counts under emulation and from the kernels' loops; "
    "`profile --ssh HOST --calibrate` replaces them"
)
# An efficiency is a share of the device file's peak at its clock: a clock that is really higher
# shows as an efficiency above 1.
_FITTED = "fitted on seven encoders on one x86-64 server with AMX (benchmarks/cost_model.md)"
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
    half_rows=0.0,
    spread=2.0,
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
        half_rows=1.0,
        # Two A53 boards of the same clock differ by a factor of 2.03, so a band of 2 would be
        # narrower than the family (docs/log.md#cost-model-against-published-rows).
        spread=3.0,
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
        half_rows=1.0,
        spread=2.0,
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
        half_rows=1.0,
        spread=2.0,
        origin=_ASSUMED,
    ),
    "x86": _X86,
    # The share of AMX's much higher int8 peak is lower; everything else is the same cores'.
    "amx": replace(_X86, int8_efficiency=0.226, origin=_FITTED),
}


def core_family(spec: DeviceSpec) -> CoreFamily:
    """Returns the family of a device's first cluster, whose constants apply to it."""
    if spec.identity.machine == "x86_64":
        return "amx" if spec.isa.amx else "x86"
    if spec.in_order:
        return "in-order"
    return "narrow" if spec.clusters[0].macs_per_cycle.fp32.value <= 4 else "wide"


# --- latency -------------------------------------------------------------------------------------


def cost_terms(
    work: Sequence[NodeWork], spec: DeviceSpec, *, threads: int, half_rows: float
) -> CostVector:
    """Splits a call into ten terms, in the order of `UNCERTAIN_FIELDS`.

    MatMuls of two activations (attention) are a term of their own: they are many and small, and in
    float whatever the precision of the weights.

    Args:
        work: Nodes of one call, as `count_work` returns them.
        spec: The device.
        threads: Number of threads; scales compute and cache, and selects the memory bandwidth.
        half_rows: See `Constants`.
    Returns:
        Shape (10,): seconds of each term at a unit cost of 1; the dot product with
        `Constants.unit_costs` is the predicted time.
    """
    cluster = spec.clusters[0]
    speedup = spec.thread_scaling.of(threads)
    cycle = 1 / (cluster.clock_ghz.value * 1e9)
    bandwidth = spec.memory.bandwidth_gb_per_s if threads > 1 else spec.memory.one_core_gb_per_s
    memory_bytes_per_s = bandwidth.value * 1e9

    matmul_cycles = _matmul_cycles(work, cluster, half_rows)
    weight_bytes = sum(node.weight_bytes for node in work)
    cached_bytes = weight_bytes * _cached_share(work, spec)
    moved_bytes = sum(node.moved_bytes for node in work)
    heavy = sum(node.elements for node in work if node.heavy)
    light = sum(node.elements for node in work if not node.heavy and not node.macs)
    nodes = sum(_overhead_share(node) for node in work)
    return np.array(
        [
            matmul_cycles["fp32"] * cycle / speedup,
            matmul_cycles["int8"] * cycle / speedup,
            matmul_cycles["attention"] * cycle / speedup,
            cached_bytes * cycle / speedup,
            (weight_bytes - cached_bytes) / memory_bytes_per_s,
            moved_bytes * cycle / speedup,
            heavy * cycle / speedup,
            light * cycle / speedup,
            nodes * cycle,
            cycle,
        ]
    )


def _matmul_cycles(
    work: Sequence[NodeWork], cluster: Cluster, half_rows: float
) -> dict[str, float]:
    """Cycles of all MatMuls at the peak rate, by fp32, int8 and attention."""
    peak = {"fp32": cluster.macs_per_cycle.fp32.value, "int8": cluster.macs_per_cycle.int8.value}
    cycles = {"fp32": 0.0, "int8": 0.0, "attention": 0.0}
    for node in work:
        if not node.macs:
            continue
        kind: str = node.arithmetic
        if node.arithmetic == "fp32" and not node.weight_bytes:
            kind = "attention"
        cycles[kind] += node.macs * (1 + half_rows / node.rows) / peak[node.arithmetic]
    return cycles


def _overhead_share(node: NodeWork) -> float:
    """Share of the overhead per node that a node costs."""
    if node.macs or node.moved_bytes > _SHAPE_ONLY_BYTES:
        return 1.0
    return _SHAPE_ONLY_OVERHEAD


def _cached_share(work: Sequence[NodeWork], spec: DeviceSpec) -> float:
    """Share of the weights that the last-level cache still holds from the previous call."""
    size = spec.caches.last_level_bytes
    # The largest activation takes its part of the cache: 4 bytes an element, always float32.
    largest_activation = max((node.elements for node in work), default=0)
    used = sum(node.weight_bytes for node in work) + 4 * largest_activation
    share = (_NO_HITS_AT * size - used) / ((_NO_HITS_AT - 1) * size)
    return min(1.0, max(0.0, share))


def predict_seconds(
    work: Sequence[NodeWork], spec: DeviceSpec, constants: Constants, *, threads: int
) -> float:
    """Returns the predicted time of one call in seconds: the middle of its band."""
    terms = cost_terms(work, spec, threads=threads, half_rows=constants.half_rows)
    return float(terms @ constants.unit_costs)


def latency_band(
    work: Sequence[NodeWork], spec: DeviceSpec, constants: Constants, *, threads: int
) -> Band:
    """Returns the predicted band of one call, in milliseconds."""
    middle = predict_seconds(work, spec, constants, threads=threads) * 1000
    return Band(low=middle / math.sqrt(constants.spread), high=middle * math.sqrt(constants.spread))


def ratio_band(
    first: Sequence[NodeWork],
    second: Sequence[NodeWork],
    spec: DeviceSpec,
    constants: Constants,
    *,
    threads: int,
) -> tuple[float, Band]:
    """Predicts how many times faster `second` is than `first`.

    Returns:
        The middle of the band, and the band, in which errors that both models share cancel.
    """
    first_terms = cost_terms(first, spec, threads=threads, half_rows=constants.half_rows)
    second_terms = cost_terms(second, spec, threads=threads, half_rows=constants.half_rows)
    # Every corner of the box in which each constant is off by sqrt(spread) in either direction.
    step = math.sqrt(constants.spread)
    ratios = []
    for factors in product((1 / step, step), repeat=len(UNCERTAIN_FIELDS)):
        unit_costs = constants.unit_costs * np.array(factors)
        ratios.append(float(first_terms @ unit_costs) / float(second_terms @ unit_costs))
    middle = float(first_terms @ constants.unit_costs) / float(second_terms @ constants.unit_costs)
    band = Band(low=min(ratios) * (1 - _RATIO_RESIDUAL), high=max(ratios) * (1 + _RATIO_RESIDUAL))
    return middle, band


# --- fitting -------------------------------------------------------------------------------------

# Weight of the prior's residuals: moving the logarithm of a constant by 1 costs as much as one
# measured time whose logarithm is off by 0.3.
_PRIOR_WEIGHT = 0.3
# Tighter than scipy's 1e-8, so that the fit does not depend on where the solver stops.
_FIT_TOLERANCE = 1e-14


def fit_constants(
    samples: Sequence[tuple[CostVector, float]], prior: Constants, *, origin: str, spread: float
) -> Constants:
    """Fits constants to measured times; constants that the times do not determine stay at `prior`.

    Nonlinear least squares on the logarithms of times and unit costs, with the distance from the
    prior as further residuals.

    Args:
        samples: (`cost_terms`, measured seconds) of each run.
        prior: Starting point, and centre of the prior.
        origin: `origin` of the result.
        spread: `spread` of the result.
    """
    # Imported here: predictions do not need scipy, and importing it is slow.
    from scipy.optimize import least_squares

    terms = np.array([sample_terms for sample_terms, _ in samples])
    log_measured = np.log([seconds for _, seconds in samples])
    log_prior = np.log(prior.unit_costs)

    def residuals(log_costs: CostVector) -> CostVector:
        log_predicted = np.log(terms @ np.exp(log_costs))
        prior_residuals = _PRIOR_WEIGHT * (log_costs - log_prior)
        return np.concatenate([log_predicted - log_measured, prior_residuals])

    def jacobian(log_costs: CostVector) -> CostVector:
        parts = terms * np.exp(log_costs)
        shares = parts / parts.sum(axis=1, keepdims=True)
        return np.vstack([shares, _PRIOR_WEIGHT * np.eye(len(log_costs))])

    solution = least_squares(
        residuals,
        log_prior,
        jac=jacobian,
        xtol=_FIT_TOLERANCE,
        ftol=_FIT_TOLERANCE,
        gtol=_FIT_TOLERANCE,
    )
    return replace(prior.with_unit_costs(np.exp(solution.x)), origin=origin, spread=spread)


# --- memory --------------------------------------------------------------------------------------

# Fitted on this project's x86-64 measurements: encoders and fill-mask models in fp32 and int8, 17
# to 268 MB, with weights inside the protobuf and in external files. Parsing a protobuf keeps its
# bytes in memory next to the tensors; an external weights file is mapped, and what stays resident
# is the copies that the MatMul kernels packed.
_INLINE_PROCESS_BYTES = 77e6
_INLINE_SHARE = 1.45
_EXTERNAL_PROCESS_BYTES = 85e6
_EXTERNAL_SHARE = 1.05
_MEMORY_SPREAD = 1.25
# Pages larger than 4 KiB round every mapping up.
_LARGE_PAGES_FACTOR = 1.08


def memory_band(
    file_bytes: int, *, external: bool, work: Sequence[NodeWork], page_bytes: float
) -> Band:
    """Predicts the peak resident bytes of a fresh process that loads and runs a graph.

    Args:
        file_bytes: Size of the graph's file, in bytes.
        external: Whether the weights are in external data files.
        work: Nodes of one call at the longest sequence length.
        page_bytes: Page size of the device, in bytes.
    """
    if external:
        weight_bytes = sum(node.weight_bytes for node in work)
        middle = _EXTERNAL_PROCESS_BYTES + _EXTERNAL_SHARE * weight_bytes
    else:
        middle = _INLINE_PROCESS_BYTES + _INLINE_SHARE * file_bytes
    # Activations count as three of the largest one, in float32.
    middle += 3 * max((node.elements * 4 for node in work), default=0)
    if page_bytes > 4096:
        middle *= _LARGE_PAGES_FACTOR
    return Band(low=middle / _MEMORY_SPREAD, high=middle * _MEMORY_SPREAD)
