"""Predicted latency of a graph on a device.

Costs add up over the nodes of a graph:

    node = multiply-adds / (peak · efficiency · fill) + weights / fetch rate + moved bytes / rate
           + elements · cycles + overhead;   a call = its nodes + a cost per call

A sum, not a roofline: the larger of arithmetic and weight fetch is 45% off at 16 tokens
(docs/log.md#costs-add-up).

With several threads, MatMuls speed up as the device file says, a share of the element-wise work
does not, and each node costs the time to divide it: int8 nodes are short, so int8 gains the least
(docs/log.md#threads-by-precision-and-length).

The peak, the clock, the bandwidth and the thread scaling are the device's. The rest are properties
of a runtime on a family of cores (`Constants`) and are uncertain by a factor `spread`: that factor
separates the ends of a latency band. The ratio of two models' times varies each constant for both
models together, because the same error in both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from edgedistil.core.device import DeviceSpec
from edgedistil.core.records import Band
from edgedistil.costmodel.constants import UNCERTAIN_FIELDS, Constants, CostVector
from edgedistil.costmodel.workload import NodeWork

# Relative error of a ratio that shared constants do not cancel: two graphs differ in shapes, and a
# kernel is not equally efficient at all of them. The smallest one with which nine in ten of the
# judged ratios are inside their band (benchmarks/cost_model.md, section on ratios).
RATIO_RESIDUAL = 0.04
# Weights are streamed in the same order on every call: under LRU replacement, a cache smaller than
# the working set gets almost no hits. Hits fall linearly from all, at the cache's size, to none at
# this multiple of it (docs/log.md#cached-share-of-the-weights).
_NO_HITS_AT = 1.5
# A graph node below this many moved bytes only handles shapes and costs a fraction of the overhead.
_SHAPE_ONLY_BYTES = 1024
_SHAPE_ONLY_OVERHEAD = 0.3

Work = Sequence[NodeWork]

# --- terms ---------------------------------------------------------------------------------------


def cost_terms(work: Work, spec: DeviceSpec, constants: Constants, *, threads: int) -> CostVector:
    """Splits a call into eleven terms, in the order of `UNCERTAIN_FIELDS`.

    MatMuls of two activations (attention) are a term of their own: they are many and small, and in
    float whatever the precision of the weights.

    Args:
        work: Nodes of one call, as `count_work` returns them.
        spec: The device.
        constants: Only `half_rows` and `serial_share` are used.
        threads: Number of threads.
    Returns:
        Shape (11,): seconds of each term at a unit cost of 1; the dot product with
        `Constants.unit_costs` is the predicted time.
    """
    speedup = spec.thread_scaling.of(threads)
    element_time = constants.serial_share + (1 - constants.serial_share) / speedup
    # Cycles are those of the first cluster.
    cycle = 1 / (spec.clusters[0].clock_ghz.value * 1e9)

    matmul_cycles = _matmul_cycles(work, spec, constants.half_rows)
    weight_bytes = sum(node.weight_bytes for node in work)
    cached_bytes = weight_bytes * _cached_share(work, spec)
    moved_bytes = sum(node.moved_bytes for node in work)
    heavy = sum(node.elements for node in work if node.heavy)
    light = sum(node.elements for node in work if not node.heavy and not node.macs)
    nodes = sum(_overhead_share(node) for node in work)
    divided_nodes = sum(not _only_handles_shapes(node) for node in work) if threads > 1 else 0
    return np.array(
        [
            matmul_cycles["fp32"] * cycle / speedup,
            matmul_cycles["int8"] * cycle / speedup,
            matmul_cycles["attention"] * cycle / speedup,
            cached_bytes * cycle / speedup,
            (weight_bytes - cached_bytes) / _memory_bytes_per_s(spec, threads),
            moved_bytes * cycle * element_time,
            heavy * cycle * element_time,
            light * cycle * element_time,
            nodes * cycle,
            cycle,
            divided_nodes * cycle,
        ]
    )


def _matmul_cycles(work: Work, spec: DeviceSpec, half_rows: float) -> dict[str, float]:
    """Cycles of all MatMuls at the peak rate, by fp32, int8 and attention."""
    peak = {"fp32": spec.macs_per_cycle("fp32"), "int8": spec.macs_per_cycle("int8")}
    cycles = {"fp32": 0.0, "int8": 0.0, "attention": 0.0}
    for node in work:
        if not node.macs:
            continue
        kind: str = node.arithmetic
        if node.arithmetic == "fp32" and not node.weight_bytes:
            kind = "attention"
        cycles[kind] += node.macs * (1 + half_rows / node.rows) / peak[node.arithmetic]
    return cycles


def _memory_bytes_per_s(spec: DeviceSpec, threads: int) -> float:
    """Bandwidth of some cores: each adds its own, up to that of the memory."""
    one_core = spec.memory.one_core_gb_per_s.value
    return min(threads * one_core, max(one_core, spec.memory.bandwidth_gb_per_s.value)) * 1e9


def _only_handles_shapes(node: NodeWork) -> bool:
    return not node.macs and node.moved_bytes <= _SHAPE_ONLY_BYTES


def _overhead_share(node: NodeWork) -> float:
    """Share of the overhead per node that a node costs."""
    return _SHAPE_ONLY_OVERHEAD if _only_handles_shapes(node) else 1.0


def _cached_share(work: Work, spec: DeviceSpec) -> float:
    """Share of the weights that the last-level cache still holds from the previous call."""
    size = spec.caches.last_level_bytes
    # The largest activation takes its part of the cache: 4 bytes an element, always float32.
    largest_activation = max((node.elements for node in work), default=0)
    used = sum(node.weight_bytes for node in work) + 4 * largest_activation
    share = (_NO_HITS_AT * size - used) / ((_NO_HITS_AT - 1) * size)
    return min(1.0, max(0.0, share))


# --- latency -------------------------------------------------------------------------------------


def predict_seconds(work: Work, spec: DeviceSpec, constants: Constants, *, threads: int) -> float:
    """Returns the predicted time of one call in seconds: the middle of its band."""
    terms = cost_terms(work, spec, constants, threads=threads)
    return float(terms @ constants.unit_costs)


def scaling_is_unknown(work: Work, constants: Constants, *, threads: int) -> bool:
    """Whether a call is in int8 on several threads, and its gain from them was never measured."""
    is_int8 = any(node.arithmetic == "int8" for node in work)
    return is_int8 and threads > 1 and constants.scaling_origin is None


def latency_band(work: Work, spec: DeviceSpec, constants: Constants, *, threads: int) -> Band:
    """Returns the predicted band of one call, in milliseconds.

    Where the gain from more threads is unknown, the high end is that of no gain.
    """
    middle = predict_seconds(work, spec, constants, threads=threads) * 1000
    slowest = middle
    if scaling_is_unknown(work, constants, threads=threads):
        slowest = max(middle, predict_seconds(work, spec, constants, threads=1) * 1000)
    step = math.sqrt(constants.spread)
    return Band(low=middle / step, high=slowest * step)


# --- ratios --------------------------------------------------------------------------------------


def ratio_band(
    first: Work, second: Work, spec: DeviceSpec, constants: Constants, *, threads: int
) -> tuple[float, Band]:
    """Predicts how many times faster `second` is than `first`.

    Returns:
        The middle of the band, and the band, in which errors that both models share cancel.
    """
    # Unit costs at every corner of the box in which each constant is off by sqrt(spread).
    step = math.sqrt(constants.spread)
    factors = np.array(list(product((1 / step, step), repeat=len(UNCERTAIN_FIELDS))))
    corners = constants.unit_costs * factors

    ratios = []
    for first_threads, second_threads in _thread_cases(first, second, constants, threads):
        first_terms = cost_terms(first, spec, constants, threads=first_threads)
        second_terms = cost_terms(second, spec, constants, threads=second_threads)
        ratios.append((corners @ first_terms) / (corners @ second_terms))
    middle = predict_seconds(first, spec, constants, threads=threads) / predict_seconds(
        second, spec, constants, threads=threads
    )
    band = Band(
        low=float(np.min(ratios)) * (1 - RATIO_RESIDUAL),
        high=float(np.max(ratios)) * (1 + RATIO_RESIDUAL),
    )
    return middle, band


def _thread_cases(
    first: Work, second: Work, constants: Constants, threads: int
) -> list[tuple[int, int]]:
    """Threads of both calls: with the expected gain, and with none where it is unknown."""
    slow = tuple(
        1 if scaling_is_unknown(work, constants, threads=threads) else threads
        for work in (first, second)
    )
    return [(threads, threads), (slow[0], slow[1])]


def counted_ratio(first: Work, second: Work, spec: DeviceSpec) -> float:
    """Returns the ratio of the multiply-adds alone, each at the device's peak rate.

    The null model of a speed ratio: no memory, no overhead, no efficiency. What the cost model is
    worth is what it predicts better than this.
    """
    seconds = [sum(_matmul_cycles(work, spec, 0.0).values()) for work in (first, second)]
    return seconds[0] / seconds[1]
