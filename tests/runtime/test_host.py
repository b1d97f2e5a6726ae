"""Facts about this host."""

from __future__ import annotations

import pytest

from edgedistil.runtime import host
from edgedistil.runtime.host import dispatched_kernels


@pytest.mark.parametrize(
    ("machine", "flags", "kernels"),
    [
        ("x86_64", ["avx2"], "fp32 AVX2, int8 AVX2 without VNNI (saturates in 16 bits)"),
        ("x86_64", ["avx2", "avx_vnni"], "fp32 AVX2, int8 AVX-VNNI"),
        ("x86_64", ["avx512f"], "fp32 AVX-512, int8 AVX-512 without VNNI (saturates in 16 bits)"),
        ("x86_64", ["avx512f", "avx512_vnni"], "fp32 AVX-512, int8 AVX-512 VNNI"),
        ("x86_64", ["avx512f", "avx512_vnni", "amx_int8"], "fp32 AVX-512, int8 AMX tiles"),
        ("x86_64", ["sse4_2"], "fp32 SSE or AVX, int8 SSE"),
        ("aarch64", ["asimd"], "fp32 NEON, int8 NEON"),
        ("arm64", ["asimd", "asimddp"], "fp32 NEON, int8 dot product (sdot)"),
        ("aarch64", ["asimddp", "i8mm"], "fp32 NEON, int8 matrix products (smmla)"),
        ("x86_64", [], "not reported by this machine"),
    ],
)
def test_kernels_follow_the_flags(machine: str, flags: list[str], kernels: str) -> None:
    assert dispatched_kernels(machine, flags) == kernels


def test_this_machine_has_a_name_and_kernels() -> None:
    assert host.machine_name()
    assert host.conditions().keys() == {"kernels"}
