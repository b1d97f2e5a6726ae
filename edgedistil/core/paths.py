"""Paths that a user wrote: names that the system cannot have are refused, not passed on.

`Path.is_file` raises OSError for a name that is too long, and ValueError for a NUL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError


def user_path(name: str | Path, *, error: type[InputError] = InputError) -> Path:
    """Returns a path with `~` replaced; it need not exist.

    Args:
        name: The path as the user wrote it. In a Path `~` stays: the shell has replaced it, and
            `./~x` has become `~x`.
        error: Class of the exception.
    Raises:
        error: No file can have this path, or the system does not say whether it exists.
    """
    try:
        # Unlike Path.expanduser, this leaves the `~name` of an unknown user as it is.
        path = Path(os.path.expanduser(name)) if isinstance(name, str) else name  # noqa: PTH111
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"'{echo(name)}' cannot be used as a path: {reason}") from problem
    return path


def is_user_file(path: Path) -> bool:
    """Whether a regular file has this path; false for a path that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def require_new(path: Path, *, kind: Literal["FOLDER", "FILE"] = "FOLDER") -> None:
    """Raises InputError if a folder or file that a command would write exists."""
    if path.exists():
        raise InputError(
            f"{path} exists already; nothing was changed",
            hint=f"name another {kind.lower()}: --out {kind}",
        )
