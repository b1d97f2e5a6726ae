"""Facts about the device that artefacts are made for, and the runtime that they need."""

from __future__ import annotations

from dataclasses import dataclass

from edgedistil.core.cpu import this_cpu
from edgedistil.core.device import HOST, load_device
from edgedistil.core.errors import TargetError
from edgedistil.core.family_info import FamilyInfo
from edgedistil.core.precision import PrecisionRequest, min_runtime

# The first opset with LayerNormalization. What a younger opset adds for these models, our passes
# fuse (docs/decisions.md#opset-17-ir-8-onnxruntime--114).
TRACE_OPSET = 17


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


def require_runtime(
    target: QuantizationTarget, precision: PrecisionRequest, family: FamilyInfo
) -> None:
    """Raises TargetError if the target's onnxruntime may be too old for a graph."""
    if target.runtime is None:
        return
    # A device file declares the oldest version that its board may have.
    # `>=1.16` → (1, 16).
    oldest = tuple(int(part) for part in target.runtime.removeprefix(">=").split("."))
    required = max(min_runtime(precision), family.min_runtime)
    if oldest < required:
        raise TargetError(
            f"{target.name} may have onnxruntime {_dotted(oldest)}, and {precision} of the family "
            f"{family.model_type} with opset {TRACE_OPSET} needs {_dotted(required)}",
            hint=f"install a newer onnxruntime there and declare it in devices/{target.name}.toml",
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
