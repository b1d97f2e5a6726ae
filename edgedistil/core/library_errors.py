"""Turns every exception of a library that reads a user's file into an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgedistil.core.errors import EdgeDistilError, ModelError


@contextmanager
def library_errors(
    problem: str, *, hint: str | None = None, error: type[EdgeDistilError] = ModelError
) -> Iterator[None]:
    """Raises `error` for any exception in the block, except ours, interrupts and lack of memory.

    Only for a call of a library on a file that it did not write: around code of ours it would hide
    bugs.

    Args:
        problem: What failed, with the file; the library's first line follows.
        hint: What to do.
        error: Class of the exception.
    """
    try:
        yield
    except (EdgeDistilError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # Rust's panics in tokenizers and safetensors are BaseExceptions without a common class.
    except BaseException as cause:
        raise error(f"{problem}: {first_line(cause)}", hint=hint) from cause


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message, or its class if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
