"""Versions of onnxruntime that a machine must not be given, told before they crash there."""

from __future__ import annotations

from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import TargetError
from edgedistil.runtime.protocol import MachineIdentity

_NEEDS_DOT_PRODUCT = {
    "1.21.0": "its kernels use dot-product instructions without asking whether the core has them"
}


def check_runtime_compatible(
    identity: MachineIdentity, spec: DeviceSpec | None, *, source: str
) -> None:
    """Returns if the onnxruntime that a machine has can run there.

    Args:
        identity: What the machine says of itself.
        spec: What is known of the device; None for a board that no device file describes.
        source: Who it is, for the message.
    Raises:
        TargetError: The version is known to die on this kind of core, or older than any that is known to run.
    """
    version = identity.onnxruntime
    if version is None:
        return
    reason = _why_unfit(version, identity, spec)
    if reason is not None:
        raise TargetError(
            f"{source}: onnxruntime {version} must not run on this machine: {reason}",
            hint=f"install another version there: python3 -m pip install 'onnxruntime{_wanted(spec)},!=1.21.0'; "
            f"or let --bootstrap send one",
        )


def _why_unfit(version: str, identity: MachineIdentity, spec: DeviceSpec | None) -> str | None:
    if spec is not None and version in spec.runtime.refused:
        return spec.runtime.refused[version]
    if version in _NEEDS_DOT_PRODUCT and lacks_dot_product(identity):
        return f"it dies with SIGILL on ARMv8.0 ({_NEEDS_DOT_PRODUCT[version]}; onnxruntime #23957, #24112, #24512)"
    return None


def lacks_dot_product(identity: MachineIdentity) -> bool:
    """True for a 64-bit ARM core that tells its features, and not this one (`asimddp`)."""
    return (
        identity.machine == "aarch64"
        and "asimd" in identity.flags
        and "asimddp" not in identity.flags
    )


def _wanted(spec: DeviceSpec | None) -> str:
    return spec.runtime.onnxruntime if spec is not None else ">=1.22"
