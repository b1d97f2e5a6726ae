from __future__ import annotations

import platform

import pytest

from edgedistil.core.errors import DeviceFileError, TargetError
from edgedistil.export.quantization_target import (
    Target,
    advise_int8,
    find_target,
    require_runtime,
    weight_only_reasons,
)

A72 = Target("a72", arm=True, vnni=False, dot_product=False)
A76 = Target("a76", arm=True, vnni=False, dot_product=True)
AVX2 = Target("avx2", arm=False, vnni=False, dot_product=False)
VNNI = Target("vnni", arm=False, vnni=True, dot_product=False)


def test_devices_bring_their_instruction_set() -> None:
    pi4, pi5, old, new = (
        find_target(name) for name in ("rpi4", "rpi5", "x86-avx2", "x86-avx512-vnni")
    )
    assert (pi4.arm, pi4.dot_product, pi5.arm, pi5.dot_product) == (True, False, True, True)
    assert (old.arm, old.vnni, new.vnni) == (False, False, True)
    assert find_target(None) == find_target("host")
    assert find_target("host").arm == (platform.machine() in {"aarch64", "arm64"})


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceFileError, match="did you mean 'rpi4'"):
        find_target("rpi44")


@pytest.mark.parametrize(
    ("target", "reduced"), [(A72, False), (A76, False), (AVX2, True), (VNNI, False)]
)
def test_the_range_is_reduced_only_where_products_saturate(target: Target, reduced: bool) -> None:
    advice = advise_int8(target, signed=True)
    assert advice.plan.reduced_range == reduced
    assert advice.plan.signed
    assert advice.plan.per_channel
    assert advice.warnings == []
    assert (
        "saturate" in advice.reasons["range"]
    ) == reduced or "nothing saturates" in advice.reasons["range"]


@pytest.mark.parametrize(
    ("target", "cost"),
    [(A72, "45.7 against 32.8"), (A76, "no gain"), (VNNI, "96 against 300")],
)
def test_unsigned_weights_are_warned_about_with_what_they_cost(target: Target, cost: str) -> None:
    (warning,) = advise_int8(target, signed=False).warnings
    assert f"unsigned weights lose on {target.name}" in warning
    assert cost in warning


def test_float16_and_int4_say_what_they_lose() -> None:
    assert "not faster" in weight_only_reasons(VNNI, "fp16")[1][0]
    assert "slower than int8" in weight_only_reasons(A72, "int4")[1][0]


def test_a_runtime_that_is_too_old_for_the_opset_is_refused() -> None:
    old = Target("board", arm=True, vnni=False, dot_product=False, runtime=">=1.10")
    with pytest.raises(
        TargetError, match=r"onnxruntime 1.10, and fp32 with opset 17 needs 1.14"
    ) as caught:
        require_runtime(old, "fp32")
    assert caught.value.exit_code == 4
    middle = Target("board", arm=True, vnni=False, dot_product=False, runtime=">=1.16")
    require_runtime(middle, "int8")
    with pytest.raises(TargetError, match=r"int4 with opset 17 needs 1.17"):
        require_runtime(middle, "int4")
