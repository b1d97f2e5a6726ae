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
    """Inside, no other process makes `folder`: the others wait, and a killed builder's lock is free at once.

    Whoever builds calls `remove_remains` first.
    """
    path = folder.with_name(f"{folder.name}.lock")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_remains(folder: Path) -> None:
    """What a killed builder of the same folder left beside it: we hold its lock, so nobody works there."""
    for remains in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)
