"""A live machine → a draft of its device file: what it says of itself, and what small benchmarks measured on it."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.cpu import find_arm_core, is_arm, isa_features
from edgedistil.core.device import DeviceSpec, parse_device
from edgedistil.core.errors import TargetError
from edgedistil.runtime.protocol import Bandwidth, Case, Job, JobModel, MachineIdentity, Reply
from edgedistil.runtime.target import Target, raise_failure

_SIDE = 512
_KINDS = ("fp32", "int8")


@dataclass(frozen=True)
class Measured:
    """What the benchmarks found: products a second by kind on one core, speed-ups, bandwidth."""

    identity: MachineIdentity
    macs_per_s: dict[str, float]
    speedups: list[float]
    bandwidth: Bandwidth


def measure_machine(target: Target, *, cores: int) -> Measured:
    """Peak products of one core, speed-up by threads, and bandwidth: a few seconds.

    Conditions: a 512³ product in fp32 and in int8 (unsigned × signed) by onnxruntime, best of the calls of 0.4 seconds.
    Raises:
        TargetError: The target gave no reply, or the benchmarks failed there.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistil-probe-") as name:
        folder = Path(name)
        files = {f"{kind}/model.onnx": _product(folder, kind) for kind in _KINDS}
        files["inputs.npz"] = _inputs(folder)
        first = _run(target, _job(["fp32", "int8"], 1), files)
        speedups = [1.0]
        for threads in range(2, cores + 1):
            reply = _run(target, _job(["fp32"], threads), files)
            speedups.append(_best_s(first, "fp32") / _best_s(reply, "fp32"))
        last = _run(
            target, _job(["fp32"], cores).model_copy(update={"phases": ["bandwidth"]}), files
        )
    if last.bandwidth is None:
        raise TargetError(f"{target.source} measured no bandwidth")
    rates = {kind: _SIDE**3 / _best_s(first, kind) for kind in _KINDS}
    return Measured(first.identity, rates, speedups, last.bandwidth)


def _run(target: Target, job: Job, files: dict[str, Path]) -> Reply:
    reply = target.run(job, {name: path for name, path in files.items() if _wanted(name, job)})
    raise_failure(reply, source=target.source)
    return reply


def _wanted(name: str, job: Job) -> bool:
    return name == job.inputs or any(name == model.file for model in job.models.values())


def _best_s(reply: Reply, kind: str) -> float:
    return min(reply.models[kind].cases["product"].samples_ns) / 1e9


def _job(kinds: list[str], threads: int) -> Job:
    return Job(
        models={kind: JobModel(file=f"{kind}/model.onnx") for kind in kinds},
        cases=[Case(name="product", keys=["x"])],
        threads=threads,
        min_calls=10,
        min_seconds=0.4,
        timeout_seconds=300,
    )


def _inputs(folder: Path) -> Path:
    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {
        "x/fp32": random.random((_SIDE, _SIDE), np.float32),
        "x/int8": random.integers(0, 255, (_SIDE, _SIDE)).astype(np.uint8),
    }
    np.savez(folder / "inputs.npz", **arrays)
    return folder / "inputs.npz"


def _product(folder: Path, kind: str) -> Path:
    """A graph of one product with a constant right side."""
    random = np.random.default_rng(2)
    integer = kind == "int8"
    weights = (
        random.integers(-127, 127, (_SIDE, _SIDE)).astype(np.int8)
        if integer
        else random.random((_SIDE, _SIDE))
    )
    constant = numpy_helper.from_array(
        weights if integer else weights.astype(np.float32), "weights"
    )
    taken = TensorProto.UINT8 if integer else TensorProto.FLOAT
    given = TensorProto.INT32 if integer else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", [kind, "weights"], ["y"])],
        kind,
        [helper.make_tensor_value_info(kind, taken, [_SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", given, [_SIDE, _SIDE])],
        [constant],
    )
    path = folder / f"{kind}.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


# --- the draft -----------------------------------------------------------------------------------------


def draft(found: Measured, *, cores: int) -> DeviceSpec:
    """A device file's content. What the machine does not tell is marked assumed, to be corrected by hand."""
    identity, day = found.identity, datetime.now(UTC).strftime("%Y-%m-%d")
    arm = is_arm(identity.machine)
    arm_core = find_arm_core(identity.cpu_part)
    measured = f"measured {day} by edgedistil devices probe, onnxruntime {identity.onnxruntime}"
    clock, clock_origin = _clock(identity)
    peak = {
        kind: _figure(rate / (clock * 1e9), measured) for kind, rate in found.macs_per_s.items()
    }
    caches = {each.level: each for each in identity.caches if each.kind != "Instruction"}
    data: dict[str, Any] = {
        "name": slug(identity.board or identity.cpu or "machine"),
        "title": identity.board or identity.cpu or "a machine that does not tell its name",
        "notes": ["A draft: every figure marked assumed wants to be looked up."],
        "identity": {
            "machine": "aarch64" if arm else "x86_64",
            "boards": [identity.board] if identity.board else [],
            "flags": []
            if arm
            else [flag for flag in ("avx2", "avx512f", "avx512_vnni") if flag in identity.flags],
            "source": f"the machine itself, {day}",
        },
        "isa": _isa(identity, day),
        "clusters": [
            {
                "core": arm_core.name if arm_core else identity.cpu or "unknown core",
                "pipeline": arm_core.pipeline if arm_core else "out-of-order",
                "cores": _figure(cores, f"the machine itself, {day}"),
                "clock_ghz": {"value": clock, **clock_origin},
                "macs_per_cycle": peak,
            }
        ],
        "caches": _caches(caches, day),
        "memory": {
            "size_gib": _or_assumed(
                identity.memory_bytes, 2**30, 1.0, f"the machine itself, {day}"
            ),
            "bandwidth_gb_per_s": _figure(found.bandwidth.all_cores / 1e9, f"{measured}: copies"),
            "one_core_gb_per_s": _figure(found.bandwidth.one_core / 1e9, f"{measured}: copies"),
            "page_kib": _or_assumed(identity.page_bytes, 1024, 4.0, f"the machine itself, {day}"),
        },
        "thread_scaling": {
            "speedups": [round(each, 2) for each in found.speedups],
            "source": f"{measured}: 512³",
        },
        "runtime": {
            "onnxruntime": f">={identity.onnxruntime or '1.22'}",
            "source": f"ran there, {day}",
        },
    }
    if arm and arm_core is not None:
        data["qemu_cpu"] = arm_core.qemu_cpu
    return parse_device(data, where="draft")


def _figure(value: float, source: str) -> dict[str, Any]:
    return {"value": _short(value), "source": source}


def _short(value: float) -> float:
    """Three significant digits: a benchmark of a second knows no more."""
    return round(value, 2 - math.floor(math.log10(abs(value))))


def _or_assumed(value: int | None, unit: int, otherwise: float, source: str) -> dict[str, Any]:
    if value is None:
        return {"value": otherwise, "assumed": "the machine does not tell it"}
    return _figure(value / unit, source)


def _clock(identity: MachineIdentity) -> tuple[float, dict[str, str]]:
    if identity.clock_max_mhz is not None:
        return identity.clock_max_mhz / 1000, {"source": "cpuinfo_max_freq of the first core"}
    return 2.0, {
        "assumed": "the machine does not tell it: multiply-adds a cycle below are for this clock"
    }


def _isa(identity: MachineIdentity, day: str) -> dict[str, Any]:
    features = isa_features(identity.machine, identity.flags)
    if is_arm(identity.machine):
        level = "ARMv8.2-A or later" if features["dot_product"] else "ARMv8.0-A"
    elif features["avx512"]:
        level = "x86-64-v4"
    elif features["avx2"]:
        level = "x86-64-v3"
    else:
        level = "x86-64"
    return {"level": level, **features, "source": f"flags of /proc/cpuinfo, {day}"}


def _caches(caches: dict[int, Any], day: str) -> dict[str, Any]:
    told = f"/sys/devices/system/cpu/cpu0/cache, {day}"
    level2 = caches.get(2)
    found: dict[str, Any] = {
        "l1d_kib": _or_assumed(caches[1].bytes if 1 in caches else None, 1024, 32.0, told),
        "l2_kib": _or_assumed(level2.bytes if level2 is not None else None, 1024, 512.0, told),
        "l2_shared": level2 is not None and re.search(r"[-,]", level2.shared_by) is not None,
    }
    if 3 in caches:
        found["l3_kib"] = _figure(caches[3].bytes / 1024, told)
    return found


def slug(text: str) -> str:
    """A file name of a machine's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "machine"
