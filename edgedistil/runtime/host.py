"""What this host is, for the rows that are measured on it: its cores, and which kernels onnxruntime takes here."""

from __future__ import annotations

import platform
import runpy
from collections.abc import Collection

from edgedistil.runtime.protocol import RUNNER, MachineIdentity


def conditions() -> dict[str, str]:
    found = identity()
    return {"kernels": dispatched_kernels(found.machine or platform.machine(), found.flags)}


def dispatched_kernels(machine: str, flags: Collection[str]) -> str:
    """Which instruction set onnxruntime's kernels use, by its dispatch on the processor's flags."""
    have = set(flags)
    if not have:
        return "not told by this machine"
    if machine in ("aarch64", "arm64"):
        integer = (
            "int8 matrix products (smmla)"
            if "i8mm" in have
            else "dot product (sdot)"
            if "asimddp" in have
            else "NEON"
        )
        return f"fp32 NEON, int8 {integer}"
    if "amx_int8" in have and "avx512f" in have:
        return "fp32 AVX-512, int8 AMX tiles"
    if "avx512_vnni" in have and "avx512f" in have:
        return "fp32 AVX-512, int8 AVX-512 VNNI"
    if "avx512f" in have:
        return "fp32 AVX-512, int8 AVX-512 without VNNI (saturates in 16 bits)"
    if "avx2" in have:
        return f"fp32 AVX2, int8 {'AVX-VNNI' if 'avx_vnni' in have else 'AVX2 without VNNI (saturates in 16 bits)'}"
    return "fp32 SSE or AVX, int8 SSE"


def identity() -> MachineIdentity:
    """This machine in the runner's words."""
    return MachineIdentity.model_validate(runpy.run_path(str(RUNNER))["identity"]())


def machine_name() -> str:
    found = identity()
    return found.board or found.cpu or found.machine or platform.machine()
