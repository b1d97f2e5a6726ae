"""Text files of the user: one sequence a line, UTF-8.

The parity check, the calibration of static ranges and the latency measurements read such a file.
"""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.errors import CorpusError
from edgedistil.core.regular_file import read_regular

# A sample of a few thousand lines is enough; in memory a text takes up to eight times its size.
MAX_TEXT_BYTES = 256 * 2**20
# No model reads as many tokens, and the tokenizer takes some 100 bytes for each.
MAX_LINE_CHARACTERS = 2**20
_HINT = "give a UTF-8 text with one sequence a line: --text FILE"


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 text file, without blank ones.

    A line of more than `MAX_LINE_CHARACTERS` is cut: models truncate it much earlier.

    Raises:
        CorpusError: The file is missing, too large, not a regular file, not UTF-8, or has no text.
    """
    try:
        text = read_regular(path, limit_bytes=MAX_TEXT_BYTES).decode("utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise CorpusError(f"cannot read {path}: {reason}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {error.start}", hint=_HINT) from error
    lines = [_cut(line) for line in text.splitlines() if line.strip()]
    if not lines:
        raise CorpusError(f"{path} is empty: expected text, one sequence a line", hint=_HINT)
    return lines


def _cut(line: str) -> str:
    """Cuts a long line, at a space if there is one."""
    if len(line) <= MAX_LINE_CHARACTERS:
        return line
    line = line.lstrip()
    end = line.rfind(" ", 1, MAX_LINE_CHARACTERS)
    return line[: end if end > 0 else MAX_LINE_CHARACTERS]
