"""Text of users, files and boards, made safe to print and short enough for a message.

Everything that the project prints passes through here: the console's functions and the exceptions
call `printable` and `bounded`, messages that quote a value call `echo`.
"""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from collections.abc import Mapping

# Characters of a refused value that a message repeats.
ECHO_LIMIT = 200
# Characters of one line of a message: a list of names may be longer than a single value.
LINE_LIMIT = 1000
# Name under which output streams find `_replace_unencodable`.
UNENCODABLE = "edgedistil.replace"

# Format characters without an effect on a terminal, which Persian, Hindi and emoji need.
_JOINERS = "\u200c\u200d"
# Length up to which a quoted value or a word is not cut: above ECHO_LIMIT, so that what `echo`
# cut already stays as it is. An apostrophe opens no quotation.
_TOLERATED = ECHO_LIMIT + 40
_LONG_VALUE = re.compile(rf"(?<!\w)'[^'\n]{{{_TOLERATED + 1},}}'|\S{{{_TOLERATED + 1},}}")
# ASCII forms of the characters in our own tables and messages.
_ASCII: Mapping[str, str] = {
    "–": "-",
    "−": "-",
    "—": "-",
    "…": "...",
    "·": "-",
    "×": "x",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "≈": "~",
    "µ": "u",
    "°": " deg ",
    "’": "'",
    "\xa0": " ",
}


def printable(text: str) -> str:
    """Replaces characters that control a terminal: escape sequences, NUL, marks of direction."""
    # ssh ends its own lines with \r\n: docs/log.md#sshs-carriage-returns.
    text = text.replace("\r\n", "\n")
    if text.isprintable():
        return text
    return "".join(character if _is_harmless(character) else "?" for character in text)


def one_line(text: str) -> str:
    """Returns printable text on one line, as a cell of a table needs it."""
    return printable(text).replace("\n", " ").replace("\t", " ")


def echo(value: object) -> str:
    """Returns a value as messages quote it: one printable line of at most 200 characters."""
    try:
        text = str(value)
    except ValueError:
        # Python refuses to write integers of more digits, to bound the time that it takes.
        return f"an integer of more than {sys.get_int_max_str_digits():,} digits"
    # Cut first: the value may have millions of characters.
    shown = printable(text[: ECHO_LIMIT + 1].replace("\n", "\\n").replace("\t", "\\t"))
    if len(text) <= ECHO_LIMIT and len(shown) <= ECHO_LIMIT:
        return shown
    return _cut(shown, len(text))


def bounded(message: str) -> str:
    """Returns a message that is printable and repeats no long value, whatever it was built from."""
    lines = printable(message).split("\n")
    return "\n".join(_bounded_line(line) for line in lines)


def replace_unencodable() -> None:
    """Lets stdout and stderr replace what their encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        # A closed descriptor gives None; tests and notebooks have streams of their own.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=UNENCODABLE)


def _is_harmless(character: str) -> bool:
    # Spaces other than the ASCII one are not printable for Python.
    is_space = character in "\n\t" or unicodedata.category(character) == "Zs"
    return is_space or character.isprintable() or character in _JOINERS


def _bounded_line(line: str) -> str:
    if len(line) <= ECHO_LIMIT:
        return line
    line = _LONG_VALUE.sub(_cut_value, line)
    if len(line) <= LINE_LIMIT:
        return line
    return _cut(line, len(line), LINE_LIMIT)


def _cut_value(match: re.Match[str]) -> str:
    value = match.group()
    if value.startswith("'") and value.endswith("'"):
        return f"'{_cut(value[1:-1], len(value) - 2)}'"
    return _cut(value, len(value))


def _cut(text: str, length: int, limit: int = ECHO_LIMIT) -> str:
    return f"{text[:limit]}… ({length:,} characters)"


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Error handler of an output stream: ASCII forms, and "?" for everything else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    refused = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in refused), error.end


codecs.register_error(UNENCODABLE, _replace_unencodable)
