"""Prints what a program that embeds texts holds besides runtime and graph, in bytes.

    python -m edgedistil.inference.footprint FOLDER MAX_LENGTH

The peak resident memory of a process that has loaded everything that `edgedistil embed` loads, and
has made the tokens and vectors of one full window, without a session. Without arguments: the peak
with numpy and onnxruntime alone. `profile --memory-limit` leaves the difference to the program.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgedistil.core.peak_memory import peak_resident_bytes

# One token a character for most tokenizers: no text has more.
_CHARACTER = "."
# Values of a vector, more than most encoders have.
_DIMENSION = 1024


def main(arguments: list[str]) -> None:
    """Prints the peak of this process."""
    onnxruntime.set_default_logger_severity(3)  # errors only
    if arguments:
        fill_window(Path(arguments[0]), int(arguments[1]))
    print(peak_bytes())  # noqa: T201 - the result of the program


def fill_window(folder: Path, max_length: int) -> None:
    """Loads what `edgedistil embed` loads, and makes tokens and vectors of one full window.

    Args:
        folder: Folder of the tokenizer.
        max_length: Tokens of the longest text.
    """
    # Imported here: without arguments they must not be in memory. The command line needs typer.
    import typer  # noqa: F401

    from edgedistil.core.tokenizer import read_tokenizer
    from edgedistil.inference import stage  # noqa: F401
    from edgedistil.inference.windows import WINDOW_CHARACTERS, frame_texts

    tokenizer = read_tokenizer(folder)
    texts = [_CHARACTER * max_length] * (WINDOW_CHARACTERS // max_length)
    framed = frame_texts(tokenizer, texts, max_length)
    np.ones((len(framed), _DIMENSION), np.float32)


def peak_bytes() -> int:
    """Returns the peak resident memory of this process; raises OSError where it is unknown."""
    peak = peak_resident_bytes()
    if peak is None:
        raise OSError("/proc/self/status has no VmHWM")
    return peak


if __name__ == "__main__":
    main(sys.argv[1:])
