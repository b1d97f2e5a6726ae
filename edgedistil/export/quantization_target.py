"""Facts about the target device, and how a model is quantized for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedistil.core.cpu import this_cpu
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import TargetError
from edgedistil.core.precision import PrecisionRequest, min_runtime
from edgedistil.export.quantize import Int8Plan
from edgedistil.export.trace import TRACE_OPSET


@dataclass(frozen=True)
class QuantizationTarget:
    """Facts about a device that decide how a model is quantized for it.

    Attributes:
        name: Name of the device file; `host` for this machine.
        arm: Whether it is a 64-bit ARM; otherwise x86.
        vnni: Whether it adds four 8-bit products into 32 bits (x86).
        dot_product: Whether it has sdot and udot (ARM).
        runtime: Version of its onnxruntime, such as `>=1.16`; None if it is not declared.
    """

    name: str
    arm: bool
    vnni: bool
    dot_product: bool
    runtime: str | None = None


@dataclass(frozen=True)
class Advice:
    """How an artefact is quantized for a target.

    Attributes:
        plan: How 8-bit weights are made.
        reasons: Decision → why, for the record.
        warnings: What the precision costs on the target, for the console.
    """

    plan: Int8Plan = field(default_factory=Int8Plan)
    reasons: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


# --- the device ----------------------------------------------------------------------------------


def find_target(name: str | None) -> QuantizationTarget:
    """Returns the facts about a device; about this machine for None or `host`.

    Raises:
        DeviceFileError: The device is unknown, or its file has problems.
    """
    if name is None or name == HOST:
        return _this_machine()
    # Only the facts that decide something here; a device file has many more.
    spec = load_device(name)
    return QuantizationTarget(
        name=spec.name,
        arm=spec.identity.machine == "aarch64",
        vnni=spec.isa.vnni,
        dot_product=spec.isa.dot_product,
        runtime=spec.runtime.onnxruntime,
    )


def _this_machine() -> QuantizationTarget:
    cpu = this_cpu()
    return QuantizationTarget(
        name=HOST, arm=cpu.is_arm, vnni=cpu.has("vnni"), dot_product=cpu.has("dot_product")
    )


def require_runtime(target: QuantizationTarget, precision: PrecisionRequest) -> None:
    """Raises TargetError if the target's onnxruntime may be too old for a precision."""
    if target.runtime is None:
        return
    # A device file declares the oldest version that its board may have.
    # `>=1.16` → (1, 16).
    oldest = tuple(int(part) for part in target.runtime.removeprefix(">=").split("."))
    required = min_runtime(precision)
    if oldest < required:
        raise TargetError(
            f"{target.name} may have onnxruntime {_dotted(oldest)}, and {precision} with opset "
            f"{TRACE_OPSET} needs {_dotted(required)}",
            hint=f"install a newer onnxruntime there and declare it in devices/{target.name}.toml",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


# --- advice --------------------------------------------------------------------------------------


def advise_int8(target: QuantizationTarget, *, signed: bool) -> Advice:
    """Returns how 8-bit weights are made for a target.

    Args:
        target: The device.
        signed: int8; otherwise uint8, which is slower everywhere and warned about.
    """
    # Kernels without VNNI add two products in 16 bits: 8 bits would saturate, 7 cannot.
    reduced = not target.arm and not target.vnni
    # One scale for a complete weight is the known fault that the parity check rejects
    # (docs/log.md#fidelity-by-scales).
    plan = Int8Plan(signed=signed, per_channel=True, reduced_range=reduced)
    reasons = {
        "per channel": "a scale for every output: smaller error, and measured as fast as a single "
        "scale if no zero-point tensor is stored",
        "embeddings": "8 bits row by row: they are the largest part, and a lookup costs the same",
        "activations": "quantized during each call, once for query, key and value together",
        "signedness": _signed_reason(target) if signed else "uint8 was requested",
        "range": _range_reason(plan),
    }
    return Advice(plan, reasons, () if signed else (_unsigned_warning(target),))


def advise_fp16(target: QuantizationTarget) -> Advice:
    """Returns why float16 weights are stored, and that they are not faster."""
    warning = (
        f"fp16 on {target.name}: onnxruntime's CPU kernels compute in float32; "
        "half the file size, not faster"
    )
    return Advice(
        reasons={"fp16": "weights in half the bytes; inputs and outputs stay float32"},
        warnings=(warning,),
    )


def advise_int4(target: QuantizationTarget) -> Advice:
    """Returns how 4-bit weights are made for a target, and that they are slower than int8."""
    # Figures: docs/log.md#integer-kernels.
    if not target.arm:
        speed = (
            "4-bit MatMuls measured 50 to 97 G multiply-adds/s where int8 reaches 180 to 440, "
            "on x86 with VNNI"
        )
    elif target.dot_product:
        speed = "4-bit weights are unpacked before each MatMul"
    else:
        speed = (
            "4-bit weights are unpacked before each MatMul; "
            "without dot-product instructions slower than int8"
        )
    return Advice(
        plan=advise_int8(target, signed=True).plan,
        reasons={"int4": "blocks of 32 weights share a scale; embeddings in 8 bits"},
        warnings=(f"int4 on {target.name}: smallest file, slower than int8: {speed}",),
    )


def _range_reason(plan: Int8Plan) -> str:
    if plan.reduced_range:
        return (
            "7 bits: without VNNI two products are added in 16 bits, which 8-bit weights saturate"
        )
    return "8 bits: the target adds products in 32 bits, so nothing saturates"


def _signed_reason(target: QuantizationTarget) -> str:
    # The kernels of each core under emulation: docs/log.md#int8-kernels-by-core.
    if target.arm and not target.dot_product:
        return (
            "signed: smull and smlal take int8 directly; unsigned weights cost 1.4 times the "
            "instructions (counted)"
        )
    if target.arm:
        return "signed: weights of either sign run udot (observed under emulation)"
    return (
        "signed weights, unsigned activations: measured three times as fast as unsigned weights "
        "on x86"
    )


def _unsigned_warning(target: QuantizationTarget) -> str:
    # Figures: docs/log.md#integer-kernels, and instruction counts under emulation.
    if target.arm and not target.dot_product:
        cost = (
            "45.7 against 32.8 million instructions counted on a Cortex-A72, "
            "slower than float32 there"
        )
    elif target.arm:
        cost = "no gain over signed weights"
    else:
        cost = "96 against 300 G multiply-adds/s measured with VNNI"
    return f"unsigned weights are slower on {target.name}: {cost}; use --quantize int8"
