"""Which int8 kernels ran: read from the instructions that the emulator translated, not from what the graph promises.

qemu (`-d in_asm`) writes every block of guest code once, when it is about to run for the first time. An instruction in
that log inside onnxruntime's library ran at least once; how often is not in it. The words are decoded here, because the
disassembler that qemu is built with may not know the newer ones (dot products show up as `.byte`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from io import BufferedIOBase
from typing import NamedTuple


class Pattern(NamedTuple):
    """An A64 instruction is `name` when `word & mask == value`."""

    name: str
    mask: int
    value: int


_VECTOR, _BY_ELEMENT, _MATRIX = 0xBFE0FC00, 0xBFC0F400, 0xFFE0FC00
# Products of 8-bit integers (and of the 16-bit ones that onnxruntime widens unsigned bytes to), Arm ARM C7.2.
PATTERNS = (
    Pattern("sdot", _VECTOR, 0x0E809400),
    Pattern("sdot", _BY_ELEMENT, 0x0F80E000),
    Pattern("udot", _VECTOR, 0x2E809400),
    Pattern("udot", _BY_ELEMENT, 0x2F80E000),
    Pattern("usdot", _VECTOR, 0x0E809C00),
    Pattern("usdot", _BY_ELEMENT, 0x0F80F000),
    Pattern("smmla", _MATRIX, 0x4E80A400),
    Pattern("ummla", _MATRIX, 0x6E80A400),
    Pattern("usmmla", _MATRIX, 0x4E80AC00),
    Pattern("smull", _VECTOR, 0x0E20C000),
    Pattern("umull", _VECTOR, 0x2E20C000),
    Pattern("smlal", _VECTOR, 0x0E208000),
    Pattern("umlal", _VECTOR, 0x2E208000),
    Pattern("smlal", _BY_ELEMENT, 0x0F402000),
    Pattern("umlal", _BY_ELEMENT, 0x2F402000),
)
_FAMILIES = (
    ({"smmla", "ummla", "usmmla"}, "8-bit matrix products"),
    ({"sdot", "udot", "usdot"}, "8-bit dot products"),
    ({"smull", "smlal"}, "signed widening multiplies"),
    ({"umull", "umlal"}, "unsigned widening multiplies"),
)
# All patterns are of the class "advanced SIMD data processing": most words fail this one test.
_CLASS_MASK, _CLASS_VALUE = 0x9E000000, 0x0E000000
# … and so does this, which the words of that class begin with.
_LINE = re.compile(rb"\n0x([0-9a-f]+):[ ]+([0246][ef][0-9a-f]{6})[ ]")
_CHUNK = 2**16


def int8_instruction(word: int) -> str | None:
    """Name of the 8-bit product that an instruction word is, if it is one."""
    if word & _CLASS_MASK != _CLASS_VALUE:
        return None
    return next(
        (pattern.name for pattern in PATTERNS if word & pattern.mask == pattern.value), None
    )


def read_translation(log: BufferedIOBase, inside: Callable[[int], bool]) -> tuple[set[str], int]:
    """Names of the 8-bit products in qemu's log, and how many instructions were in it.

    Args:
        log: What `-d in_asm` writes, tens of megabytes; read as it comes, whole lines at a time.
        inside: Whether an address belongs to the library that is asked about.
    """
    found: set[str] = set()
    seen, rest = 0, b"\n"
    while chunk := log.read1(_CHUNK):
        lines, _, rest_of = (rest + chunk).rpartition(b"\n")
        rest = b"\n" + rest_of
        seen += lines.count(b"\n0x")
        for told in _LINE.finditer(lines):
            name = int8_instruction(int(told[2], 16))
            if name is not None and name not in found and inside(int(told[1], 16)):
                found.add(name)
    return found, seen


def describe_kernels(found: Set[str], instructions: int) -> str:
    """What ran, in words for a record."""
    if instructions == 0:
        return "not told: this qemu writes no translated instructions"
    families = [
        f"{words} ({', '.join(sorted(names & found))})"
        for names, words in _FAMILIES
        if names & found
    ]
    return " and ".join(families) or "none: no 8-bit product ran inside onnxruntime"
