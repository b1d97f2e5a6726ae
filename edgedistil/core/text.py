"""Text files of the user: one sequence a line, UTF-8.

The parity check, the calibration of static ranges and the latency measurements read such a file.
"""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.errors import CorpusError

_HINT = "give a UTF-8 text with one sequence a line: --text FILE"


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 text file, without blank ones.

    Raises:
        CorpusError: The file is missing, is not UTF-8, or has no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise CorpusError(f"cannot read {path}: {reason}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {error.start}", hint=_HINT) from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise CorpusError(f"{path} is empty: expected text, one sequence a line", hint=_HINT)
    return lines
