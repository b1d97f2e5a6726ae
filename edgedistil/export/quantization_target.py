"""The device that an artefact is made for: which integer products it is good at, and which runtime it has."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistil.core.cpu import this_cpu
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import TargetError
from edgedistil.core.precision import PrecisionRequest, min_runtime
from edgedistil.export.quantize import Int8Plan


@dataclass(frozen=True)
class Target:
    """Facts about a device that decide how a model is quantized for it."""

    name: str
    arm: bool
    vnni: bool
    dot_product: bool
    runtime: str | None = None


@dataclass(frozen=True)
class Advice:
    """A plan for 8-bit products, why it is so, and what is known to be lost."""

    plan: Int8Plan
    reasons: dict[str, str]
    warnings: list[str]


def find_target(name: str | None) -> Target:
    """The device of that name; this machine if none is given.

    Raises:
        DeviceFileError: Unknown, or its file has problems.
    """
    if name is None or name == HOST:
        return _this_machine()
    spec = load_device(name)
    return Target(
        name=spec.name,
        arm=spec.identity.machine == "aarch64",
        vnni=spec.isa.vnni,
        dot_product=spec.isa.dot_product,
        runtime=spec.runtime.onnxruntime,
    )


def require_runtime(target: Target, precision: PrecisionRequest) -> None:
    """Returns if the target's runtime has the operators and the opset of an artefact.

    Raises:
        TargetError: It may be too old for them.
    """
    if target.runtime is None:
        return
    oldest = tuple(int(part) for part in target.runtime.removeprefix(">=").split("."))
    needed = min_runtime(precision)
    if oldest < needed:
        raise TargetError(
            f"{target.name} may have onnxruntime {'.'.join(map(str, oldest))}, and {precision} with opset 17 needs "
            f"{'.'.join(map(str, needed))}",
            hint=f"bring a newer onnxruntime onto it and say so in devices/{target.name}.toml",
        )


def advise_int8(target: Target, *, signed: bool) -> Advice:
    """How 8-bit products are made for a target."""
    reduced = not target.arm and not target.vnni
    reasons = {
        "per channel": "a scale for every output: smaller error, and as fast as one scale (measured) when no tensor of "
        "zero points is stored",
        "embeddings": "row by row in 8 bits: the table is the largest part, and reading a row costs the same",
        "activations": "quantized as they come, once for query, key and value together",
        "signedness": _why_signed(target) if signed else "uint8 was asked for",
        "range": (
            "7 bits: without VNNI pairs of products are added in 16 bits, and 8 bits would saturate"
            if reduced
            else "8 bits: the target adds products in 32 bits, nothing saturates"
        ),
    }
    plan = Int8Plan(signed=signed, per_channel=True, reduced_range=reduced)
    return Advice(plan, reasons, [] if signed else [_unsigned_loses(target)])


def weight_only_reasons(target: Target, precision: str) -> tuple[dict[str, str], list[str]]:
    """Reasons and warnings for float16 and 4-bit weights."""
    if precision == "fp16":
        warning = f"fp16 on {target.name}: onnxruntime's CPU kernels compute in float32; half the file, not faster"
        return {"fp16": "weights in half the bytes; inputs and outputs stay float32"}, [warning]
    speed = (
        "4-bit products measured 50 to 97 G multiply-adds/s where int8 reaches 180 to 440, on x86 with VNNI"
        if not target.arm
        else "4-bit weights are unpacked before each product"
        + ("" if target.dot_product else "; without dot product slower than int8")
    )
    return {"int4": "blocks of 32 weights share a scale; embeddings in 8 bits"}, [
        f"int4 on {target.name}: smallest file, slower than int8: {speed}"
    ]


def _why_signed(target: Target) -> str:
    if target.arm and not target.dot_product:
        return "signed: smull and smlal take int8 directly; unsigned weights cost 1.4 times the instructions (counted)"
    if target.arm:
        return "signed: sdot multiplies signed by signed"
    return "signed weights, unsigned activations: measured three times as fast as unsigned weights on x86"


def _unsigned_loses(target: Target) -> str:
    if target.arm and not target.dot_product:
        cost = "45.7 against 32.8 million instructions counted on a Cortex-A72: slower than float32 there"
    elif target.arm:
        cost = "no gain over signed weights"
    else:
        cost = "96 against 300 G multiply-adds/s measured with VNNI"
    return f"unsigned weights lose on {target.name}: {cost}; use --quantize int8"


def _this_machine() -> Target:
    cpu = this_cpu()
    return Target(
        name=HOST, arm=cpu.is_arm, vnni=cpu.has("vnni"), dot_product=cpu.has("dot_product")
    )
