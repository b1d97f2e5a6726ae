"""Scratch folders that are removed even if their process was killed.

A process that gets SIGKILL cannot remove its folders. So every folder is locked by its process, the
kernel drops the lock at the end of the process, and the next process that creates a folder removes
those without a lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedistil.core.errors import StorageError
from edgedistil.core.places import moving_advice

_PREFIX = "edgedistil-tmp-"
# Of `mkdtemp`: our prefix, the kind, and eight random characters.
_NAME = re.compile(rf"{_PREFIX}[a-z]+-[A-Za-z0-9_]{{8}}")


@contextmanager
def scratch_folder(kind: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Yields an empty folder; removes it at the end.

    Args:
        kind: Use of the folder, in lower-case letters: part of its name.
        parent: Where to create it; TMPDIR by default.
    Raises:
        StorageError: The folder cannot be created.
    """
    with scratch_errors(parent):
        base = parent or Path(tempfile.gettempdir())
        sweep(base)
        folder, descriptor = create_locked(base, prefix=f"{_PREFIX}{kind}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def scratch_errors(parent: Path | None = None) -> Iterator[None]:
    """Converts the operating system's errors about scratch files into a StorageError."""
    try:
        yield
    except OSError as error:
        place: Path | str = os.environ.get("TMPDIR") or "the folder for temporary files"
        advice = "free some space there, or set TMPDIR to another folder"
        if parent is not None:
            place, advice = parent, moving_advice(parent, error)
        raise StorageError(
            f"cannot write temporary files in {place}: {error.strerror or error}", hint=advice
        ) from error


def sweep(base: Path) -> None:
    """Removes the scratch folders of processes that no longer exist."""
    with os.scandir(base) as scan:
        entries = list(scan)
    for entry in entries:
        if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            descriptor = lock_folder(Path(entry.path))
        except OSError:
            # In use, of another user, or already removed.
            continue
        shutil.rmtree(entry.path, ignore_errors=True)
        os.close(descriptor)


def create_locked(base: Path, *, prefix: str) -> tuple[Path, int]:
    """Creates a locked folder; returns it with the descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        try:
            descriptor = lock_folder(folder)
        except (BlockingIOError, FileNotFoundError):
            # Another process swept it before it was locked.
            continue
        except OSError:
            # Some network file systems have no locks: no process can sweep it there either.
            return folder, os.open(folder, os.O_RDONLY)
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)


def lock_folder(folder: Path) -> int:
    """Locks a folder; returns the descriptor, which the children of this process do not get."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
