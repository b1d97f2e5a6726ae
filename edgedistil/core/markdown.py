"""Markdown in which text from records, configs and names shows as it is, without effect.

report.md is pasted into issues, and a model card is uploaded: a title or a reason must not add
HTML, links, headings or columns to them. `Markup` is Markdown of our own, everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgedistil.core.echo import one_line, printable

# Characters of code, emphasis, HTML, a link, strike-through, a cell or a formula, and an entity's
# "&". An underscore inside of a word is not emphasis.
_INLINE = re.compile(r"[\\`*<\[~|$]|(?<=\])\(|(?<![^\W_])_|_(?![^\W_])|&(?=[#\w])")
# What makes a paragraph a heading, a quotation, a list or a rule.
_BLOCK_START = re.compile(r"(>|#{1,6}(?=\s|$)|[-+](?=[-+\s]|$))|(\d{1,9})([.)])(?=\s|$)")
_BACKTICKS = re.compile(r"`+")


class Markup(str):
    """Markdown that is used as it is."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Returns text inside of a line of Markdown: printable, on one line, without effect."""
    if isinstance(text, Markup):
        return text
    return Markup(_INLINE.sub(_escaped_character, one_line(text)))


def _escaped_character(match: re.Match[str]) -> str:
    # As an entity, a tag stays text even where a reader of Markdown ignores backslashes.
    return "&lt;" if match[0] == "<" else f"\\{match[0]}"


def paragraph(text: str) -> Markup:
    """Returns text as a paragraph or the content of a list item."""
    if isinstance(text, Markup):
        return text
    line = escaped(text.strip())
    start = _BLOCK_START.match(line)
    if start is None:
        return line
    number, sign = start[2] or "", start[1] or start[3]
    return Markup(f"{number}\\{sign}{line[start.end() :]}")


def bold(text: str) -> Markup:
    """Returns text in bold."""
    return Markup(f"**{escaped(text.strip())}**")


def italic(text: str) -> Markup:
    """Returns text in italics."""
    return Markup(f"*{escaped(text.strip())}*")


def code(text: str) -> Markup:
    """Returns text as code inside of a line; in a table, `|` ends a cell even inside of code."""
    content = one_line(text).replace("|", "\\|")
    fence = "`" * (_longest_run(content) + 1)
    # Without a space, backticks of the content would belong to the fence.
    pad = " " if content.startswith("`") or content.endswith("`") or not content else ""
    return Markup(f"{fence}{pad}{content}{pad}{fence}")


def code_block(text: str, language: str = "") -> Markup:
    """Returns text as a block of code that its content cannot end."""
    content = printable(text)
    fence = "`" * max(3, _longest_run(content) + 1)
    return Markup(f"{fence}{language}\n{content}\n{fence}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Returns a table of GitHub-flavoured Markdown."""
    lines = [_row(columns), "|" + "---|" * len(columns)]
    lines += [_row(row) for row in rows]
    return Markup("\n".join(lines))


def quoted(text: str) -> str:
    """Returns a string literal, valid in Python and in JavaScript."""
    content = one_line(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{content}'"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def _longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)
