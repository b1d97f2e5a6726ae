"""Facts about this host for its rows: name and selected kernels."""

from __future__ import annotations

import platform
import runpy
from collections.abc import Collection

from edgedistil.core.cpu import is_arm
from edgedistil.runtime.machine_facts import MachineIdentity
from edgedistil.runtime.protocol import RUNNER


def conditions() -> dict[str, str]:
    """Returns the conditions of a row that is measured on this host."""
    host = identity()
    return {"kernels": dispatched_kernels(host.machine or platform.machine(), host.flags)}


def dispatched_kernels(machine: str, flags: Collection[str]) -> str:
    """Describes the instruction sets of onnxruntime's kernels on a processor.

    The order of the checks is the order of onnxruntime's own dispatch: the first set that the
    processor has is used.

    Args:
        machine: Machine name, as `uname -m` prints it.
        flags: Flags of /proc/cpuinfo.
    """
    present = set(flags)
    if not present:
        return "not reported by this machine"
    # All 64-bit ARM cores have NEON; float32 kernels use nothing newer.
    if is_arm(machine):
        return f"fp32 NEON, int8 {_arm_int8_kernels(present)}"
    if "avx512f" in present:
        return f"fp32 AVX-512, int8 {_avx512_int8_kernels(present)}"
    if "avx2" in present and "avx_vnni" in present:
        return "fp32 AVX2, int8 AVX-VNNI"
    if "avx2" in present:
        return "fp32 AVX2, int8 AVX2 without VNNI (saturates in 16 bits)"
    return "fp32 SSE or AVX, int8 SSE"


def _arm_int8_kernels(flags: set[str]) -> str:
    if "i8mm" in flags:
        return "matrix products (smmla)"
    if "asimddp" in flags:
        return "dot product (sdot)"
    return "NEON"


def _avx512_int8_kernels(flags: set[str]) -> str:
    # AMX is three times as fast as VNNI: docs/log.md#amx-in-int8.
    if "amx_int8" in flags:
        return "AMX tiles"
    if "avx512_vnni" in flags:
        return "AVX-512 VNNI"
    # Pairs of 8-bit products are added in 16 bits and saturate.
    return "AVX-512 without VNNI (saturates in 16 bits)"


def identity() -> MachineIdentity:
    """Describes this machine as the runner does, without numpy and onnxruntime."""
    return MachineIdentity.model_validate(runpy.run_path(str(RUNNER))["read_identity"]())


def usable_threads() -> int:
    """Returns how many threads of this process run side by side: "all" threads."""
    return identity().usable_threads or 1


def machine_name() -> str:
    """Returns the board's name, else the processor's, else the architecture's."""
    host = identity()
    return host.board or host.cpu or host.machine or platform.machine()
