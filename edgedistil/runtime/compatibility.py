"""Rejects versions of onnxruntime that would crash on a machine."""

from __future__ import annotations

from edgedistil.core.cpu import is_arm
from edgedistil.core.device import DeviceSpec
from edgedistil.core.errors import TargetError
from edgedistil.runtime.machine_facts import MachineIdentity

# Versions whose kernels use dot-product instructions without checking that the core has them: they
# die of SIGILL on ARMv8.0, already when they are imported (docs/log.md#onnxruntime-121-on-armv80).
_NEEDS_DOT_PRODUCT = {"1.21.0": "onnxruntime #23957, #24112, #24512"}


def check_runtime_compatible(
    identity: MachineIdentity, spec: DeviceSpec | None, *, source: str
) -> None:
    """Raises TargetError if a machine's onnxruntime cannot run there.

    Args:
        identity: The machine, with the version of its onnxruntime.
        spec: Its device file; None for a board without one.
        source: Name of the machine in the message.
    Raises:
        TargetError: The device file excludes the version, or it is known to crash on such a core.
    """
    version = identity.onnxruntime
    if version is None:
        return
    reason = _incompatibility(version, identity, spec)
    if reason is None:
        return
    versions = spec.runtime.onnxruntime if spec is not None else ">=1.22"
    raise TargetError(
        f"{source}: onnxruntime {version} cannot run on this machine: {reason}",
        hint=f"install another version there (python3 -m pip install "
        f"'onnxruntime{versions},!=1.21.0') or send one with --bootstrap",
    )


def _incompatibility(
    version: str, identity: MachineIdentity, spec: DeviceSpec | None
) -> str | None:
    if spec is not None and version in spec.runtime.refused:
        return spec.runtime.refused[version]
    if version in _NEEDS_DOT_PRODUCT and lacks_dot_product(identity):
        issues = _NEEDS_DOT_PRODUCT[version]
        return f"it dies with SIGILL on ARMv8.0, which has no dot-product instructions ({issues})"
    return None


def lacks_dot_product(identity: MachineIdentity) -> bool:
    """Whether a 64-bit ARM core reports its features without `asimddp`."""
    # A machine that reports no features at all is not rejected: it may have the instructions.
    reports_features = "asimd" in identity.flags
    return is_arm(identity.machine) and reports_features and "asimddp" not in identity.flags
