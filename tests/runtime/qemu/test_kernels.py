"""Decoding of A64 instruction words, and qemu's log."""

from __future__ import annotations

import io

import pytest

from edgedistil.runtime.qemu import kernels
from edgedistil.runtime.qemu.kernels import (
    PATTERNS,
    describe_kernels,
    int8_instruction,
    read_translation,
)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        (0x4E829420, "sdot"),  # sdot v0.4s, v1.16b, v2.16b
        (0x6E829420, "udot"),  # udot v0.4s, v1.16b, v2.16b
        (0x4F82E020, "sdot"),  # sdot v0.4s, v1.16b, v2.4b[0]
        (0x6F82E020, "udot"),  # udot v0.4s, v1.16b, v2.4b[0]
        (0x4E829C20, "usdot"),  # usdot v0.4s, v1.16b, v2.16b
        (0x4E82A420, "smmla"),  # smmla v0.4s, v1.16b, v2.16b
        (0x6E82A420, "ummla"),
        (0x4E82AC20, "usmmla"),
        (0x0E22C020, "smull"),  # smull v0.8h, v1.8b, v2.8b
        (0x4E22C020, "smull"),  # smull2 v0.8h, v1.16b, v2.16b
        (0x0E228020, "smlal"),  # smlal v0.8h, v1.8b, v2.8b
        (0x2E22C020, "umull"),
        (0x2E228020, "umlal"),
        (0x2F422020, "umlal"),  # umlal v0.4s, v1.4h, v2.h[0]
        (0x6F722820, "umlal"),  # umlal2 v0.4s, v1.8h, v2.h[7]
        (0x9B3C7C13, None),  # smull x19, w0, w28: an address, not a multiplication of bytes
        (0x0E62C020, None),  # smull v0.4s, v1.4h, v2.4h: 16-bit
        (0x4E22CC20, None),  # fmla v0.4s, v1.4s, v2.4s
        (0x4F821020, None),  # fmla v0.4s, v1.4s, v2.s[0]
        (0xD503201F, None),  # nop
        (0x00000000, None),
        (0xFFFFFFFF, None),
    ],
)
def test_byte_multiplications_are_distinguished_from_everything_else(
    word: int, name: str | None
) -> None:
    assert int8_instruction(word) == name


def test_every_pattern_is_distinct() -> None:
    for pattern in PATTERNS:
        assert pattern.value & pattern.mask == pattern.value
        assert int8_instruction(pattern.value) == pattern.name


LOG = b"""----------------
IN: memcpy
0x5508001000:  4e829420  .byte    0x20, 0x94, 0x82, 0x4e

IN:
0x5509001004:  6e829420  udot     v0.4s, v1.16b, v2.16b
0x5509001008:  d503201f  nop
not a line of code
0x55zz:  4e829420 not hex
 0x5509001004:  6e829420  indented
"""


def test_only_what_ran_inside_the_library_counts() -> None:
    assert read_translation(io.BytesIO(LOG), lambda address: address >= 0x5509000000) == (
        {"udot"},
        4,
    )
    assert read_translation(io.BytesIO(LOG), lambda _: True) == ({"sdot", "udot"}, 4)
    assert read_translation(io.BytesIO(b""), lambda _: True) == (set(), 0)


def test_a_line_that_arrives_in_pieces_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 7, 23):
        monkeypatch.setattr(kernels, "_CHUNK", size)
        assert read_translation(io.BytesIO(LOG), lambda _: True) == ({"sdot", "udot"}, 4)


def test_words_for_a_record() -> None:
    assert describe_kernels({"udot"}, 5) == "8-bit dot products (udot)"
    assert describe_kernels({"smull", "smlal"}, 5) == "signed widening multiplies (smlal, smull)"
    both = describe_kernels({"sdot", "smmla"}, 5)
    assert both == "8-bit matrix products (smmla) and 8-bit dot products (sdot)"
    assert describe_kernels(set(), 5) == "none: no 8-bit multiplication ran inside onnxruntime"
    assert describe_kernels(set(), 0) == "unknown: this qemu writes no translated instructions"
