from __future__ import annotations

import platform

import pytest

from edgedistil.core.errors import DeviceFileError, TargetError
from edgedistil.core.family import FAMILIES
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.quantization_target import (
    advise_fp16,
    advise_int4,
    advise_int8,
    range_reason,
)
from edgedistil.export.target import QuantizationTarget, find_target, require_runtime

A72 = QuantizationTarget("a72", arm=True, vnni=False, dot_product=False)
A76 = QuantizationTarget("a76", arm=True, vnni=False, dot_product=True)
AVX2 = QuantizationTarget("avx2", arm=False, vnni=False, dot_product=False)
VNNI = QuantizationTarget("vnni", arm=False, vnni=True, dot_product=False)


def board(runtime: str) -> QuantizationTarget:
    return QuantizationTarget("board", arm=True, vnni=False, dot_product=False, runtime=runtime)


def test_devices_have_their_instruction_set() -> None:
    pi4, pi5 = find_target("rpi4"), find_target("rpi5")
    avx2, vnni = find_target("x86-avx2"), find_target("x86-avx512-vnni")
    assert (pi4.arm, pi4.dot_product, pi5.arm, pi5.dot_product) == (True, False, True, True)
    assert (avx2.arm, avx2.vnni, vnni.vnni) == (False, False, True)
    assert find_target(None) == find_target("host")
    assert find_target("host").arm == (platform.machine() in {"aarch64", "arm64"})


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceFileError, match="did you mean 'rpi4'"):
        find_target("rpi44")


def test_the_narrower_range_of_shared_weights_is_stated() -> None:
    shared = frozenset({"query", "value"})
    reason = range_reason(Int8Plan(narrow_weights=shared))
    assert "7 bits for 2 weights that several layers share" in reason
    assert "8 bits for the others" in reason
    # Where all weights have 7 bits, the shared ones are no exception.
    both = Int8Plan(reduced_range=True, narrow_weights=shared)
    assert range_reason(both) == advise_int8(AVX2, signed=True).reasons["range"]


@pytest.mark.parametrize(
    ("target", "reduced", "reason"),
    [
        (A72, False, "nothing saturates"),
        (A76, False, "nothing saturates"),
        (AVX2, True, "which 8-bit weights saturate"),
        (VNNI, False, "nothing saturates"),
    ],
)
def test_the_range_is_reduced_only_where_sums_saturate(
    target: QuantizationTarget, reduced: bool, reason: str
) -> None:
    advice = advise_int8(target, signed=True)
    assert advice.plan.reduced_range == reduced
    assert advice.plan.signed
    assert advice.plan.per_channel
    assert advice.warnings == ()
    assert reason in advice.reasons["range"]


@pytest.mark.parametrize(
    ("target", "cost"),
    [(A72, "45.7 against 32.8"), (A76, "no gain"), (VNNI, "96 against 300")],
)
def test_unsigned_weights_are_warned_about_with_their_cost(
    target: QuantizationTarget, cost: str
) -> None:
    advice = advise_int8(target, signed=False)
    (warning,) = advice.warnings
    assert f"unsigned weights are slower on {target.name}" in warning
    assert cost in warning
    assert not advice.plan.signed
    assert advice.reasons["signedness"] == "uint8 was requested"


@pytest.mark.parametrize(
    ("target", "reason"), [(A72, "smull"), (A76, "udot"), (VNNI, "three times as fast")]
)
def test_the_reason_for_signed_weights_is_the_targets(
    target: QuantizationTarget, reason: str
) -> None:
    assert reason in advise_int8(target, signed=True).reasons["signedness"]


def test_float16_and_int4_warn_that_they_are_not_fast() -> None:
    assert "not faster" in advise_fp16(VNNI).warnings[0]
    assert "where int8 reaches 180 to 440" in advise_int4(VNNI).warnings[0]
    assert "without dot-product instructions" in advise_int4(A72).warnings[0]
    assert advise_int4(AVX2).plan == advise_int8(AVX2, signed=True).plan


def test_a_runtime_that_is_too_old_for_a_precision_is_refused() -> None:
    bert = FAMILIES["bert"]
    with pytest.raises(
        TargetError,
        match=r"onnxruntime 1\.10, and fp32 of the family bert with opset 17 needs 1\.14",
    ) as caught:
        require_runtime(board(">=1.10"), "fp32", bert)
    assert caught.value.exit_code == 4
    assert "devices/board.toml" in str(caught.value)
    require_runtime(board(">=1.16"), "int8", bert)
    with pytest.raises(TargetError, match=r"int4 of the family bert with opset 17 needs 1\.17"):
        require_runtime(board(">=1.16"), "int4", bert)
    require_runtime(VNNI, "int4", bert)
    # RotaryEmbedding is younger than the other operators.
    with pytest.raises(TargetError, match=r"of the family modernbert with opset 17 needs 1\.17"):
        require_runtime(board(">=1.14"), "fp32", FAMILIES["modernbert"])
    require_runtime(board(">=1.17"), "fp32", FAMILIES["modernbert"])
