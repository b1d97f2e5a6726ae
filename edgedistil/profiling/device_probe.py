"""Drafts a device file from what a machine reports and from short benchmarks on it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.cpu import find_arm_core, is_arm, isa_features
from edgedistil.core.device import DeviceSpec, Figure, parse_device
from edgedistil.core.errors import TargetError
from edgedistil.core.scratch import scratch_folder
from edgedistil.costmodel.constants import SQUARE_PRODUCT_SHARES, Arithmetic, core_family
from edgedistil.runtime.jobs import NpzInputs, run_job
from edgedistil.runtime.machine_facts import CacheFacts, MachineIdentity
from edgedistil.runtime.protocol import Bandwidth, Case, Job, JobModel, Reply
from edgedistil.runtime.target import Target

# Side of the square matrices: large enough for the peak rate (docs/log.md#amx-in-int8), small
# enough for calls of milliseconds.
_SIDE = 512
_MATMUL_KINDS: tuple[Arithmetic, ...] = ("fp32", "int8")
# x86 flags that a drafted device file requires of a machine.
_IDENTIFYING_FLAGS = ("avx2", "avx512f", "avx512_vnni")
# Used where the clock is neither reported nor measured: rates per cycle are then for this clock.
_ASSUMED_CLOCK_GHZ = 2.0
# Why a drafted figure is an assumption.
_ASSUMED = "not reported by the machine"


# --- benchmarks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MachineBenchmark:
    """What a machine reports about itself, and what the benchmarks measured.

    Attributes:
        identity: The machine.
        macs_per_s: Kind of MatMul → multiply-adds per second that one core reached.
        speedups: Speed-up by number of threads, from 1 on.
        bandwidth: Bytes per second of large reads.
        clock_ghz: Measured clock; None where it could not be measured.
    """

    identity: MachineIdentity
    macs_per_s: dict[Arithmetic, float]
    speedups: list[float]
    bandwidth: Bandwidth
    clock_ghz: float | None = None


@dataclass(frozen=True)
class _MatMulGraph:
    """The graph of one MatMul, as a model of a job."""

    kind: Arithmetic
    path: Path

    def job_model(self) -> JobModel:
        return JobModel(file=f"{self.kind}/model.onnx")

    def job_files(self) -> dict[str, Path]:
        return {f"{self.kind}/model.onnx": self.path}


def benchmark_machine(target: Target, *, cores: int) -> MachineBenchmark:
    """Measures MatMul rates of one core, speed-up by threads, clock and bandwidth.

    Args:
        target: The machine.
        cores: Cores of the machine; the speed-up is measured up to this many threads.
    Conditions:
        A MatMul of two 512x512 matrices in fp32 and in int8 (unsigned x signed) by onnxruntime; the
        fastest of the calls of 0.4 seconds. A few seconds in all.
    Raises:
        TargetError: The target sent no reply, or the benchmarks failed there.
    """
    inputs = _matmul_inputs()
    with scratch_folder("probe") as folder:
        graphs = [_save_matmul(folder, kind) for kind in _MATMUL_KINDS]
        fp32_only = graphs[:1]

        # Rates of one core.
        one_thread = run_job(target, graphs, _matmul_job(graphs, 1), inputs)

        # Speed-up by threads, in fp32.
        speedups = [1.0]
        for threads in range(2, cores + 1):
            reply = run_job(target, fp32_only, _matmul_job(fp32_only, threads), inputs)
            speedups.append(_fastest_s(one_thread, "fp32") / _fastest_s(reply, "fp32"))

        # Clock and bandwidth: the runner measures them itself; a job needs a model all the same.
        machine_job = _matmul_job(fp32_only, cores).model_copy(
            update={"phases": ["clock", "bandwidth"]}
        )
        machine = run_job(target, fp32_only, machine_job, inputs)
    if machine.bandwidth is None:
        raise TargetError(f"{target.source} sent no memory bandwidth")
    return MachineBenchmark(
        identity=one_thread.identity,
        macs_per_s={kind: _SIDE**3 / _fastest_s(one_thread, kind) for kind in _MATMUL_KINDS},
        speedups=speedups,
        bandwidth=machine.bandwidth,
        clock_ghz=machine.clock_ghz,
    )


def _matmul_job(graphs: Sequence[_MatMulGraph], threads: int) -> Job:
    return Job(
        models={graph.kind: graph.job_model() for graph in graphs},
        cases=[Case(name="product", keys=["x"])],
        threads=threads,
        min_calls=10,
        min_seconds=0.4,
        timeout_seconds=300,
    )


def _fastest_s(reply: Reply, kind: Arithmetic) -> float:
    """Returns the fastest call in seconds."""
    # For a peak rate: other load only ever adds time.
    return min(reply.models[kind].cases["product"].samples_ns) / 1e9


def _matmul_inputs() -> NpzInputs:
    random = np.random.default_rng(1)
    # Activations of int8 models are unsigned.
    return NpzInputs(
        {
            "x/fp32": random.random((_SIDE, _SIDE), np.float32),
            "x/int8": random.integers(0, 255, (_SIDE, _SIDE)).astype(np.uint8),
        }
    )


def _save_matmul(folder: Path, kind: Arithmetic) -> _MatMulGraph:
    """Saves a graph of one MatMul of its input with a constant matrix."""
    random = np.random.default_rng(2)
    if kind == "int8":
        weights = random.integers(-127, 127, (_SIDE, _SIDE)).astype(np.int8)
        operator, input_type, output_type = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
    else:
        weights = random.random((_SIDE, _SIDE)).astype(np.float32)
        operator, input_type, output_type = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, [kind, "weights"], ["y"])],
        kind,
        [helper.make_tensor_value_info(kind, input_type, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", output_type, [_SIDE, _SIDE])],
        [numpy_helper.from_array(weights, "weights")],
    )
    # Opset 17 with IR version 9 is what every supported onnxruntime reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{kind}.onnx"
    onnx.save(model, path)
    return _MatMulGraph(kind, path)


# --- draft ---------------------------------------------------------------------------------------


def draft_device(benchmark: MachineBenchmark, *, cores: int) -> DeviceSpec:
    """Returns a device file's content; figures that the machine does not report are assumed.

    Args:
        benchmark: Result of `benchmark_machine`.
        cores: Cores of the machine.
    """
    identity = benchmark.identity
    # Every figure of a device file has a source with a date.
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    reported = f"the machine itself, {day}"
    measured = f"measured {day} by edgedistil devices probe, onnxruntime {identity.onnxruntime}"
    arm_core = find_arm_core(identity.cpu_part)
    data: dict[str, Any] = {
        "name": device_name(identity),
        "title": identity.board or identity.cpu or "a machine without a name",
        "notes": ["A draft: look up every figure that is marked assumed."],
        "identity": _identity_section(identity, reported),
        "isa": _isa_section(identity, day),
        "clusters": [_cluster(benchmark, cores=cores, reported=reported, measured=measured)],
        "caches": _caches_section(identity, day),
        "memory": {
            "size_gib": _size(identity.memory_bytes, 2**30, 1.0, reported),
            "bandwidth_gb_per_s": _figure(
                benchmark.bandwidth.all_cores / 1e9, f"{measured}: reads"
            ),
            "one_core_gb_per_s": _figure(benchmark.bandwidth.one_core / 1e9, f"{measured}: reads"),
            "page_kib": _size(identity.page_bytes, 1024, 4.0, reported),
        },
        "thread_scaling": {
            "speedups": [round(speedup, 2) for speedup in benchmark.speedups],
            "source": f"{measured}: 512³",
        },
        "runtime": {
            "onnxruntime": f">={identity.onnxruntime or '1.22'}",
            "source": f"ran there, {day}",
        },
    }
    if arm_core is not None and is_arm(identity.machine):
        data["qemu_cpu"] = arm_core.qemu_cpu
    return _with_peaks(parse_device(data, where="draft"))


def _with_peaks(spec: DeviceSpec) -> DeviceSpec:
    """Returns a draft whose multiply-adds per cycle are the peak instead of what was reached.

    A device file has the peak, and the cost model multiplies it by an efficiency.
    """
    shares = SQUARE_PRODUCT_SHARES[core_family(spec)]
    cluster = spec.clusters[0]
    peaks: dict[str, Figure] = {}
    for kind, share in shares.items():
        reached = spec.macs_per_cycle(kind)
        origin = getattr(cluster.macs_per_cycle, kind).origin
        source = f"{reached:g} reached at 512³, {share:.0%} of the peak; {origin}"
        peaks[kind] = Figure(**_figure(reached / share, source))
    macs_per_cycle = cluster.macs_per_cycle.model_copy(update=peaks)
    clusters = [cluster.model_copy(update={"macs_per_cycle": macs_per_cycle})]
    return spec.model_copy(update={"clusters": clusters})


def device_name(identity: MachineIdentity) -> str:
    """Returns a device name that is also a file name: "raspberry-pi-4-model-b-rev-1-4"."""
    # At most 40 characters, so that tables stay readable.
    text = identity.board or identity.cpu or "machine"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "machine"


def _identity_section(identity: MachineIdentity, reported: str) -> dict[str, Any]:
    arm = is_arm(identity.machine)
    # A board is recognized by its name; an x86 machine without one by its flags.
    flags = [] if arm else [flag for flag in _IDENTIFYING_FLAGS if flag in identity.flags]
    return {
        "machine": "aarch64" if arm else "x86_64",
        "boards": [identity.board] if identity.board else [],
        "flags": flags,
        "source": reported,
    }


def _isa_section(identity: MachineIdentity, day: str) -> dict[str, Any]:
    features = isa_features(identity.machine, identity.flags)
    # The level is for readers; kernels depend on the features.
    if is_arm(identity.machine):
        level = "ARMv8.2-A or later" if features["dot_product"] else "ARMv8.0-A"
    elif features["avx512"]:
        level = "x86-64-v4"
    elif features["avx2"]:
        level = "x86-64-v3"
    else:
        level = "x86-64"
    return {"level": level, **features, "source": f"flags of /proc/cpuinfo, {day}"}


def _cluster(
    benchmark: MachineBenchmark, *, cores: int, reported: str, measured: str
) -> dict[str, Any]:
    """Describes all cores as one cluster, as the machine reports them."""
    identity = benchmark.identity
    # On ARM, Linux reports a part number instead of a name.
    core, pipeline = identity.cpu or "unknown core", "out-of-order"
    arm_core = find_arm_core(identity.cpu_part)
    if arm_core is not None:
        core, pipeline = arm_core.name, arm_core.pipeline
    clock = _clock(benchmark, measured)
    # Measured per second, stored per cycle: the cost model multiplies by the clock again. At this
    # point the figures are what was reached; `_with_peaks` makes them the peak.
    reached = {}
    for kind, rate in benchmark.macs_per_s.items():
        reached[kind] = _figure(rate / (clock["value"] * 1e9), measured)
    return {
        "core": core,
        "pipeline": pipeline,
        "cores": {"value": cores, "source": reported},
        "clock_ghz": clock,
        "macs_per_cycle": reached,
    }


def _clock(benchmark: MachineBenchmark, measured: str) -> dict[str, Any]:
    reported_mhz = benchmark.identity.clock_max_mhz
    # Not rounded: the rates per cycle are exact for this clock.
    if reported_mhz is not None:
        return {"value": reported_mhz / 1000, "source": "cpuinfo_max_freq of the first core"}
    if benchmark.clock_ghz is not None:
        return {"value": benchmark.clock_ghz, "source": f"{measured}: dependent additions"}
    assumed = f"{_ASSUMED}: the multiply-adds a cycle below are for this clock"
    return {"value": _ASSUMED_CLOCK_GHZ, "assumed": assumed}


def _caches_section(identity: MachineIdentity, day: str) -> dict[str, Any]:
    source = f"/sys/devices/system/cpu/cpu0/cache, {day}"
    # Weights and activations go through data and unified caches.
    by_level: dict[int, CacheFacts] = {}
    for cache in identity.caches:
        if cache.kind != "Instruction":
            by_level[cache.level] = cache
    level1, level2, level3 = by_level.get(1), by_level.get(2), by_level.get(3)
    # A list of cores with a range or a comma (0-3 or 0,1) has more than one core.
    shared = level2 is not None and re.search(r"[-,]", level2.shared_by) is not None
    section: dict[str, Any] = {
        "l1d_kib": _size(_cache_bytes(level1), 1024, 32.0, source),
        "l2_kib": _size(_cache_bytes(level2), 1024, 512.0, source),
        "l2_shared": shared,
    }
    if level3 is not None:
        section["l3_kib"] = {"value": level3.bytes / 1024, "source": source}
    return section


def _cache_bytes(cache: CacheFacts | None) -> int | None:
    return cache.bytes if cache is not None else None


def _figure(value: float, source: str) -> dict[str, Any]:
    """Returns a measured figure, with the three digits that a short benchmark supports."""
    digits = 2 - math.floor(math.log10(abs(value)))
    return {"value": round(value, digits), "source": source}


def _size(size_bytes: int | None, unit: int, assumed: float, source: str) -> dict[str, Any]:
    """Returns a reported size in units of `unit` bytes; the assumed one if it is missing."""
    if size_bytes is None:
        return {"value": assumed, "assumed": _ASSUMED}
    # Caches and pages are multiples of a KiB; memory without the kernel's part is not one of a GiB.
    return {"value": round(size_bytes / unit, 2), "source": source}
