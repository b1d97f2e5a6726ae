"""Detects which int8 kernels ran, from the instructions that the emulator translated.

With `-d in_asm`, qemu writes every block of guest code once, when it is about to run for the first
time. An instruction in that log inside onnxruntime's library ran at least once; how often is not in
it (docs/decisions.md#int8-kernels-from-the-emulators-translation-log). Instructions are decoded
here from their words, because qemu's disassembler may not know the newer ones: it prints dot
products as `.byte` (docs/log.md#disassembler-text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from io import BufferedIOBase
from typing import NamedTuple


class Pattern(NamedTuple):
    """Encoding of an A64 instruction: `name` if `word & mask == value`."""

    name: str
    mask: int
    value: int


# Bits that identify an instruction of each form; the others are registers and the vector length.
_VECTOR = 0xBFE0FC00
_BY_ELEMENT = 0xBFC0F400
_MATRIX = 0xFFE0FC00
# Multiplications of 8-bit integers, and of the 16-bit ones to which onnxruntime widens unsigned
# bytes. Source: Arm Architecture Reference Manual, C7.2.
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
# Instructions → name in records, fastest family first.
_FAMILIES = (
    ({"smmla", "ummla", "usmmla"}, "8-bit matrix products"),
    ({"sdot", "udot", "usdot"}, "8-bit dot products"),
    ({"smull", "smlal"}, "signed widening multiplies"),
    ({"umull", "umlal"}, "unsigned widening multiplies"),
)
# The class "advanced SIMD data processing", to which all patterns belong. The log has millions of
# words, and two tests of the class sort most of them out before the patterns are tried: the regular
# expression accepts only words that begin with digits of the class, and then the mask decides.
_CLASS_MASK, _CLASS_VALUE = 0x9E000000, 0x0E000000
_LINE = re.compile(rb"\n0x([0-9a-f]+):[ ]+([0246][ef][0-9a-f]{6})[ ]")
_CHUNK = 2**16


def int8_instruction(word: int) -> str | None:
    """Returns the name of an 8-bit multiplication; None for other instruction words."""
    if word & _CLASS_MASK != _CLASS_VALUE:
        return None
    for pattern in PATTERNS:
        if word & pattern.mask == pattern.value:
            return pattern.name
    return None


def read_translation(log: BufferedIOBase, inside: Callable[[int], bool]) -> tuple[set[str], int]:
    """Reads qemu's log until its end.

    Args:
        log: Output of `-d in_asm`, tens of megabytes; read as it arrives.
        inside: Whether an address belongs to the library in question.
    Returns:
        Names of the 8-bit multiplications in the library, and the number of all instructions.
    """
    names: set[str] = set()
    count = 0
    rest = b"\n"
    while chunk := log.read1(_CHUNK):
        # An incomplete last line waits for the next chunk. Each line is matched with the line break
        # in front of it.
        lines, _, incomplete = (rest + chunk).rpartition(b"\n")
        rest = b"\n" + incomplete
        count += lines.count(b"\n0x")
        for match in _LINE.finditer(lines):
            name = int8_instruction(int(match[2], 16))
            # `inside` may read /proc: it is asked once per name.
            if name is not None and name not in names and inside(int(match[1], 16)):
                names.add(name)
    return names, count


def describe_kernels(names: Set[str], instructions: int) -> str:
    """Describes what ran, for a record.

    Args:
        names: 8-bit multiplications that ran.
        instructions: Number of all instructions in the log.
    """
    if instructions == 0:
        return "unknown: this qemu writes no translated instructions"
    families = []
    for members, description in _FAMILIES:
        if members & names:
            families.append(f"{description} ({', '.join(sorted(members & names))})")
    return " and ".join(families) or "none: no 8-bit multiplication ran inside onnxruntime"
