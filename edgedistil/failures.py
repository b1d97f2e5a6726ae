"""Ends of a command line that failed: messages and exit codes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer

from edgedistil.core.echo import bounded

# typer's errors about the command line: older versions take them from click, newer ones have their
# own, and both derive BadParameter from UsageError from ClickException.
_CommandLineError: type[Any] = typer.BadParameter.__mro__[2]
# Parts of the messages of libraries that could not get memory, with exceptions of all kinds.
_NO_MEMORY = (
    "allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "create a primitive",
    "failed to map segment",
)


def fail_unexpected(error: Exception) -> NoReturn:
    """Ends with a message for errors of the command line and the machine; raises all others."""
    if isinstance(error, _CommandLineError):
        text = io.StringIO()
        error.show(file=text)
        fail(text.getvalue().rstrip("\n"), error.exit_code)
    # typer replaces an EOFError, which is not about the terminal here, by its own exception.
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        raise error.__cause__
    reason = str(error)
    if isinstance(error, MemoryError) or any(part in reason.lower() for part in _NO_MEMORY):
        hint = "close other programs, or use smaller batches, fewer jobs or shorter texts"
        fail(f"error: out of memory: {reason or type(error).__name__}\n  {hint}", 1)
    if _is_library_damaged(error):
        hint = "memory is short, or the package is damaged: close other programs, or reinstall it"
        fail(f"error: cannot load a library: {reason}\n  {hint}", 1)
    if isinstance(error, OSError) and error.strerror:
        file = f": {error.filename}" if error.filename is not None else ""
        fail(f"error: {error.strerror}{file}", 1)
    raise error


def _is_library_damaged(error: Exception) -> bool:
    """Whether a compiled library cannot be loaded, or a library's source cannot be parsed."""
    if isinstance(error, ImportError):
        return ".so" in str(error)
    # Short of memory, Python's parser reports errors in sound files. Ours are bugs.
    is_ours = Path(__file__).parent in Path(getattr(error, "filename", None) or "").parents
    return isinstance(error, SyntaxError) and not is_ours


def fail(message: str, code: int) -> NoReturn:
    typer.echo(bounded(message), err=True)
    sys.exit(code)
