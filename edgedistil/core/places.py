"""Folders of the cache and the runs, and the environment variables that move them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edgedistil.core.errors import StorageError

_CACHE_VARIABLE = "EDGEDISTIL_CACHE"
_RUNS_VARIABLE = "EDGEDISTIL_RUNS"
# No space on the disk, or in the user's share of it.
_FULL = {errno.ENOSPC, errno.EDQUOT}


def cache_root() -> Path:
    """The user's cache: `$EDGEDISTIL_CACHE`, otherwise the platform's cache folder.

    Raises:
        StorageError: The variable is not set, and the user has no home folder.
    """
    configured = os.environ.get(_CACHE_VARIABLE)
    if configured:
        return Path(configured)
    # Devices that only run artefacts have neither this package nor a cache.
    from platformdirs import user_cache_path

    folder = user_cache_path("edgedistil")
    # Without a home folder the path starts with a literal `~`.
    if not folder.is_absolute():
        raise StorageError(
            "there is no place for the cache: this user has no home folder",
            hint=f"set {_CACHE_VARIABLE} to a folder for it",
        )
    return folder


def runs_root() -> Path:
    """Folder of the runs: `$EDGEDISTIL_RUNS`, otherwise `runs` in the working directory."""
    return Path(os.environ.get(_RUNS_VARIABLE) or "runs")


def moving_advice(path: Path, error: OSError) -> str:
    """Returns what to do if `path` cannot be written: free space, or move it to another folder."""
    full = error.errno in _FULL
    first = "free some space, or " if full else ""
    absolute = path.absolute()
    try:
        in_cache = absolute.is_relative_to(cache_root().absolute())
    except StorageError:
        in_cache = False
    # The cache may be inside of the folder of the runs, but not the other way round.
    if in_cache:
        return f"{first}set {_CACHE_VARIABLE} to another folder for the cache"
    if absolute.is_relative_to(runs_root().absolute()):
        return f"{first}set {_RUNS_VARIABLE} to another folder for the runs"
    return f"{first}choose another folder"
