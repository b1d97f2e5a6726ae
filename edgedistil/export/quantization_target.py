"""How a model is quantized for a target device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.target import QuantizationTarget


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
        "range": range_reason(plan),
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


def range_reason(plan: Int8Plan) -> str:
    """Says how many bits the weights of a plan have, and why."""
    if plan.reduced_range:
        return (
            "7 bits: without VNNI two products are added in 16 bits, which 8-bit weights saturate"
        )
    if plan.narrow_weights:
        return (
            f"7 bits for {len(plan.narrow_weights)} weights that several layers share: "
            "onnxruntime's sums fail with larger ones; 8 bits for the others"
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
