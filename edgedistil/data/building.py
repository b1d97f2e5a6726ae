"""One process at a time makes a folder of the cache."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedistil.core.rundir import storage_errors


@contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`: other processes that build it wait.

    The caller calls `remove_remains` before it builds.

    Raises:
        StorageError: The lock file cannot be written.
    """
    # flock, not a file that exists: the system frees the lock of a killed process at once.
    path = folder.with_name(f"{folder.name}.lock")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_remains(folder: Path) -> None:
    """Delete the unfinished folders that killed builders of `folder` left next to it.

    The caller holds the lock of `only_builder`, so no other process works there.
    """
    for remains in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)
