"""Writes the Unicode tables of the C++ tokenizer, as the `tokenizers` library behaves.

    python scripts/make_unicode_tables.py

Its parts have tables of different Unicode versions (docs/decisions.md, "The C++ tokenizer is our
own code"), so each property is observed: every code point goes through the part that uses it.
Takes about two minutes. tests/bundle/test_cpp.py compares the results on random text.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

OUTPUT = Path(__file__).resolve().parents[1] / "edgedistil/bundle/cpp/src/unicode_tables.inc"
SURROGATES = range(0xD800, 0xE000)
CODE_POINTS = [code for code in range(0x110000) if code not in SURROGATES]
HANGUL = range(0xAC00, 0xD7A4)

# Property → bit, as in unicode.cpp.
BITS = (
    "whitespace",
    "control",
    "nonspacing_mark",
    "combining_mark",
    "punctuation",
    "numeric",
    "word",
    "regex_letter",
    "regex_number",
    "regex_space",
    "attached",
    "extend",
    "prepend",
    "grapheme_control",
    "pictographic",
    "consonant",
    "linker",
    "conjunct_extend",
)
NFD, NFKD, NFC = normalizers.NFD(), normalizers.NFKD(), normalizers.NFC()


# --- properties that one part shows for a single character --------------------------------------


def _pieces(part: pre_tokenizers.PreTokenizer, text: str) -> list[str]:
    return [piece for piece, _ in part.pre_tokenize_str(text)]


def _separates(part: pre_tokenizers.PreTokenizer) -> Callable[[str], bool]:
    """Returns whether a part makes a piece of a character between two letters, or drops it."""
    return lambda character: len(_pieces(part, f"a{character}a")) > 1


def _removed_by(part: normalizers.Normalizer) -> Callable[[str], bool]:
    return lambda character: part.normalize_str(character) == ""


def _matches(pattern: str) -> Callable[[str], bool]:
    part = pre_tokenizers.Split(Regex(pattern), "removed")
    return lambda character: not _pieces(part, character)


def _simple_properties() -> dict[str, set[int]]:
    clean = normalizers.BertNormalizer(True, False, False, False)
    accents = normalizers.BertNormalizer(False, False, True, False)
    words = pre_tokenizers.Whitespace()
    tests: dict[str, Callable[[str], bool]] = {
        "whitespace": _separates(pre_tokenizers.WhitespaceSplit()),
        "control": _removed_by(clean),
        "nonspacing_mark": _removed_by(accents),
        "combining_mark": _removed_by(normalizers.StripAccents()),
        "punctuation": _separates(pre_tokenizers.Punctuation()),
        "numeric": _separates(pre_tokenizers.Digits(individual_digits=True)),
        "word": lambda character: len(_pieces(words, f"a{character}a")) == 1,
        "regex_letter": _matches(r"\p{L}"),
        "regex_number": _matches(r"\p{N}"),
        "regex_space": _matches(r"\s"),
    }
    properties: dict[str, set[int]] = {}
    for name, test in tests.items():
        properties[name] = {code for code in CODE_POINTS if test(chr(code))}
        print(f"{name}: {len(properties[name]):,}", file=sys.stderr)
    return properties


# --- mappings -------------------------------------------------------------------------------------


def _mapping(part: normalizers.Normalizer) -> dict[int, str]:
    """Returns code point → text for those that a normalizer changes, without Hangul syllables."""
    mapping = {}
    for code in CODE_POINTS:
        text = part.normalize_str(chr(code))
        if text != chr(code) and code not in HANGUL:
            mapping[code] = text
    return mapping


def _compositions(canonical: Mapping[int, str]) -> dict[tuple[int, int], int]:
    """Returns pair → composed code point."""
    pairs = {}
    for code, parts in canonical.items():
        first = NFC.normalize_str(parts[:-1])
        if len(first) == 1 and NFC.normalize_str(first + parts[-1]) == chr(code):
            pairs[ord(first), ord(parts[-1])] = code
    return pairs


def _combining_classes() -> dict[int, int]:
    """Returns code point → canonical combining class, observed by the order of marks."""
    marks = [chr(code) for code in CODE_POINTS if NFD.normalize_str(chr(code)) == chr(code)]
    # Of the marks with the classes of this Python, those that the library's older table has, too.
    ordered = [mark for mark in marks if _is_ordered(mark)]
    references = {unicodedata.combining(mark): mark for mark in reversed(ordered)}
    return {ord(mark): _class_among(mark, references) for mark in ordered}


def _is_ordered(mark: str) -> bool:
    """Whether a character changes places with a mark of the lowest or highest class."""
    lowest, highest = "\u0334", "\u0345"
    pairs = (f"a{highest}{mark}", f"a{mark}{lowest}")
    return any(NFD.normalize_str(pair) != pair for pair in pairs)


def _class_among(mark: str, references: Mapping[int, str]) -> int:
    for number, reference in references.items():
        pairs = (f"a{mark}{reference}", f"a{reference}{mark}")
        if all(NFD.normalize_str(pair) == pair for pair in pairs):
            return number
    raise SystemExit(f"U+{ord(mark):04X} has a class of its own")


# --- grapheme clusters, observed through a table of SentencePiece ---------------------------------


def _marker(key: str) -> normalizers.Normalizer:
    """Returns a normalizer that replaces clusters of few bytes that begin with `key` by X."""
    encoded = key.encode()
    units = [0] * (256 * (len(encoded) + 2))
    units[0] = 256 << 10
    for place, byte in enumerate(encoded):
        node, next_block = 256 * (place + 1) ^ byte, 256 * (place + 2)
        is_last = place == len(encoded) - 1
        units[node] = (node ^ next_block) << 10 | is_last << 8 | byte
    units[256 * (len(encoded) + 1)] = 0  # offset of the replacement
    trie = struct.pack(f"<{len(units)}I", *units)
    return normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + b"X\0")


def _is_attached(marker: normalizers.Normalizer, first: str, second: str) -> bool:
    """Whether two characters are one cluster: the second one is replaced with the first."""
    return marker.normalize_str(first + second) == "X"


def _joins(before: str, last: str, marker: normalizers.Normalizer) -> bool:
    """Whether the cluster of `before` goes on with `last`: then it is too long to be replaced."""
    return marker.normalize_str(f"{before}{last}\u0301") == f"{before}X\u0301"


def _grapheme_properties() -> dict[str, set[int]]:
    after_a = _marker("a")
    attached = {code for code in CODE_POINTS if _is_attached(after_a, "a", chr(code))}
    phone, ka, kha, virama = "\u260e", "\u0915", "\u0916", "\u094d"
    to_phone, to_kha = _marker(phone), _marker(kha)
    extend = {c for c in attached if _joins(f"\u00a9{chr(c)}\u200d", phone, to_phone)}
    extend.discard(0x200D)
    linkers = {c for c in attached if _joins(f"{ka}{chr(c)}", kha, to_kha)}
    conjunct = {c for c in attached if _joins(f"{ka}{chr(c)}{virama}", kha, to_kha)}
    # Characters beyond this plane have no such property, or have four bytes and nothing to attach.
    prepend, control, pictographic, consonant = set(), set(), set(), set()
    for code in (code for code in CODE_POINTS if 0x7F < code < 0x20000 and code not in attached):
        marker = _marker(chr(code))
        size = len(chr(code).encode())
        if _is_attached(marker, chr(code), "b"):
            prepend.add(code)
        if size < 4 and not _is_attached(marker, chr(code), "\u0301"):
            control.add(code)
        elif size == 3 and _joins(f"{ka}{virama}", chr(code), marker):
            consonant.add(code)
        elif size < 4 and _joins("\u00a9\u200d", chr(code), marker):
            pictographic.add(code)
    consonant.add(ord(ka))
    control |= {code for code in range(0x80) if _is_ascii_control(code)}
    control |= _controls_of_four_bytes()
    return {
        "attached": attached,
        "extend": extend,
        "prepend": prepend,
        "grapheme_control": control,
        "pictographic": pictographic | _pictographs_of_four_bytes() - attached,
        "consonant": consonant,
        "linker": linkers,
        "conjunct_extend": conjunct - linkers,
    }


def _is_ascii_control(code: int) -> bool:
    return not _is_attached(_marker(chr(code)), chr(code), "\u0301") if code else True


def _controls_of_four_bytes() -> set[int]:
    """Characters after which two marks are a cluster of their own, short enough to be replaced."""
    marker = _marker("\u0301")
    return {
        code
        for code in range(0x10000, 0x110000)
        if marker.normalize_str(f"{chr(code)}\u0301\u0302") == f"{chr(code)}X"
    }


def _pictographs_of_four_bytes() -> set[int]:
    """Characters after which [© ZWJ] is not a cluster of five bytes any more."""
    marker = _marker("\u00a9")
    return {
        code
        for code in range(0x10000, 0x20000)
        if marker.normalize_str(f"\u00a9\u200d{chr(code)}") == f"X\u200d{chr(code)}"
    }


# --- the file -------------------------------------------------------------------------------------


def _runs(properties: Mapping[str, set[int]], classes: Mapping[int, int]) -> list[tuple[int, ...]]:
    """Returns (first code point, bits, combining class) where one of the two changes."""
    rows: list[tuple[int, ...]] = []
    for code in range(0x110000):
        bits = sum(1 << bit for bit, name in enumerate(BITS) if code in properties[name])
        row = (bits, classes.get(code, 0))
        if not rows or rows[-1][1:] != row:
            rows.append((code, *row))
    return rows


def _rows(name: str, type_name: str, rows: Iterable[tuple[int, ...]]) -> str:
    cells = [f"{{{','.join(f'{value:#x}' for value in row)}}}" for row in rows]
    lines, line = [], ""
    for cell in cells:
        if len(line) + len(cell) > 97:
            lines.append(line)
            line = ""
        line += f"{cell},"
    return f"constexpr {type_name} {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def _mapped(name: str, mapping: Mapping[int, str]) -> str:
    """Returns an index (code point, place, length) and the characters that it refers to."""
    index, pool = [], ""
    for code, text in sorted(mapping.items()):
        place = pool.find(text)
        if place < 0:
            place = len(pool)
            pool += text
        index.append((code, place, len(text)))
    characters = ((ord(character),) for character in pool)
    pool_text = _rows(f"{name}_pool", "char32_t", characters).replace("{0x", "0x")
    return _rows(f"{name}_index", "Mapping", index) + pool_text.replace("},", ",")


def main() -> None:
    """Observes all properties and writes the file."""
    properties = _simple_properties() | _grapheme_properties()
    for name in BITS[10:]:
        print(f"{name}: {len(properties[name]):,}", file=sys.stderr)
    canonical, compatible = _mapping(NFD), _mapping(NFKD)
    compositions = sorted(_compositions(canonical).items())
    only_compatible = {c: text for c, text in compatible.items() if canonical.get(c) != text}
    parts = [
        "// Generated by scripts/make_unicode_tables.py; do not edit.\n",
        _rows("property_runs", "PropertyRun", _runs(properties, _combining_classes())),
        _mapped("canonical", canonical),
        _mapped("compatible", only_compatible),
        _mapped("lower", _mapping(normalizers.Lowercase())),
        _rows("compositions", "Composition", ((*pair, code) for pair, code in compositions)),
    ]
    OUTPUT.write_text("".join(parts), encoding="ascii")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
