"""Writing systems of characters and of a vocabulary's tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

# Tokens without a letter: digits, punctuation, symbols, parts of a character's bytes.
NO_SCRIPT = "no letter"


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """Returns the script of a letter, such as LATIN; None for any other character."""
    if not character.isalpha():
        return None
    # Every letter's name starts with its script: CYRILLIC SMALL LETTER DE.
    return unicodedata.name(character, "UNKNOWN").split()[0].partition("-")[0]


def script_of_text(text: str) -> str:
    """Returns the script of a text's first letter, or `NO_SCRIPT`."""
    scripts = (script_of(character) for character in text)
    return next((script for script in scripts if script is not None), NO_SCRIPT)


def count_letters(texts: Iterable[str]) -> Counter[str]:
    """Counts the letters of texts by their script."""
    letters: Counter[str] = Counter()
    for text in texts:
        for character, count in Counter(text).items():
            script = script_of(character)
            if script is not None:
                letters[script] += count
    return letters


def byte_level_text(token: str) -> str:
    """Returns the text of a token of a byte-level vocabulary.

    Each character means a byte; bytes that are no complete character become U+FFFD.
    """
    return bytes(_BYTES.get(character, 0x3F) for character in token).decode("utf-8", "replace")


def _byte_of_character() -> Mapping[str, int]:
    """Returns the byte of each character of a byte-level vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    # GPT-2 gives the other bytes, in their order, the characters from U+0100 on.
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_of_character()
