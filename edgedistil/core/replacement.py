"""Replaces a file or folder so that no signal, error or kill loses the earlier version.

The new version is written into a scratch folder next to the old one, `.NAME.xxxxxxxx/NAME`. Where
the kernel can exchange two names (Linux), a folder is replaced in one step. Elsewhere it takes two
renames, and meanwhile the earlier version is `.NAME.xxxxxxxx/old`: it is put back on any exception,
or by the next opening if the process was killed
(docs/decisions.md#folders-are-exchanged-in-one-step).
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from edgedistil.core.scratch import create_locked, lock_folder

# Name of the earlier version in a scratch folder while it has none of its own.
_OLD = "old"
# Name of an earlier version that is about to be removed.
_DISCARDED = "discarded"
# The name that is replaced, and the random characters of `mkdtemp`.
_SCRATCH = re.compile(r"\.(.+)\.[A-Za-z0-9_]+")
# renameat2: paths relative to the working directory, and the flag that exchanges them.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def open_scratch(target: Path) -> tuple[Path, int]:
    """Creates an empty scratch folder for `target`, after recovering from killed processes.

    Returns:
        The folder, and the descriptor that holds its lock; both for `close_scratch`.
    """
    recover(target.parent)
    return create_locked(target.parent, prefix=f".{target.name}.")


def close_scratch(scratch: Path, descriptor: int, target: Path) -> None:
    """Removes a scratch folder, after putting back the earlier version if `target` is missing."""
    try:
        _remove(scratch, target)
    finally:
        os.close(descriptor)


def replace(new: Path, target: Path) -> None:
    """Gives the name `target` to `new`, a path inside a scratch folder of `target`.

    The earlier version remains in the scratch folder. After an exception `target` is the earlier
    version or the new one.
    """
    # One file replaces another in one step, and so does a folder that replaces nothing.
    is_folder = target.is_dir() and not target.is_symlink()
    is_simple = not is_folder and (not new.is_dir() or not os.path.lexists(target))
    if is_simple:
        new.replace(target)
    elif not exchange(new, target):
        _replace_in_two_steps(new, target)


def exchange(first: Path, second: Path) -> bool:
    """Exchanges two paths in one step; returns whether the system could."""
    # Any failure: renaming in two steps then reports the cause.
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        renameat2 = ctypes.CDLL(None).renameat2
        paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
        return bool(renameat2(*paths, _RENAME_EXCHANGE) == 0)
    return False


def _replace_in_two_steps(new: Path, target: Path) -> None:
    scratch = new.parent
    try:
        target.rename(scratch / _OLD)
        new.replace(target)
    except BaseException:
        _put_back(scratch, target)
        raise


def recover(folder: Path) -> None:
    """Puts back what killed processes were replacing in `folder`; removes their scratch folders.

    Its own entries are examined, not those of its subfolders. Scratch folders of processes that
    still run are locked, and are left alone.
    """
    with suppress(OSError):
        for path, target in _scratch_folders(folder):
            # In use, of another user, or on a file system without locks.
            with suppress(OSError):
                descriptor = lock_folder(path)
                try:
                    _remove(path, target)
                finally:
                    os.close(descriptor)


def recover_below(folder: Path) -> None:
    """Calls `recover` for a folder and all of its subfolders."""
    for parent, _folders, _files in os.walk(folder):
        recover(Path(parent))


def without_scratch(path: Path) -> Path:
    """Returns the path that a file in a scratch folder will have."""
    parts = list(path.parts)
    for index in range(len(parts) - 2, -1, -1):
        match = _SCRATCH.fullmatch(parts[index])
        if match is not None and match[1] == parts[index + 1]:
            del parts[index]
    return Path(*parts)


def _scratch_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Scratch folders in a folder, each with the path that it is for."""
    pairs = []
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        match = _SCRATCH.fullmatch(entry.name)
        if match is None:
            continue
        # Not by its name alone: a user may have a hidden folder of a similar name.
        is_ours = entry.is_dir(follow_symlinks=False) and (
            set(os.listdir(entry)) <= {match[1], _OLD, _DISCARDED}  # noqa: PTH208
        )
        if is_ours:
            pairs.append((Path(entry.path), folder / match[1]))
    return pairs


def _put_back(scratch: Path, target: Path) -> None:
    """Renames the earlier version back, if `target` is missing."""
    if os.path.lexists(scratch / _OLD) and not os.path.lexists(target):
        (scratch / _OLD).rename(target)


def _remove(scratch: Path, target: Path) -> None:
    _put_back(scratch, target)
    if os.path.lexists(scratch / _OLD):
        # Killed while it removes, this process must not leave half a version that looks complete.
        try:
            (scratch / _OLD).rename(scratch / _DISCARDED)
        except OSError:
            return
    shutil.rmtree(scratch, ignore_errors=True)
    if scratch.exists():
        # A copy of read-only folders can be emptied only after they are writable.
        for folder, _folders, _files in os.walk(scratch):
            with suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(scratch, ignore_errors=True)
