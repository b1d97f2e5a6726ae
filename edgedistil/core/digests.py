"""Digests of files, remembered by file identity, and files compared with recorded digests.

What was digested is compared before it is used. A file is read for that once: afterwards its size,
time stamps and inode are enough (docs/decisions.md#digests-are-compared-once-per-file-identity).
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.places import cache_root
from edgedistil.core.records import read_record
from edgedistil.core.replacement import recover
from edgedistil.core.rundir import (
    RunDir,
    read_json_object,
    sha256_file,
    storage_errors,
    tree_manifest,
    write_json,
)

# A file that changed less than this long ago may change again within one tick of its time stamp
# (2 s on FAT), and would look the same afterwards. Its digest is not remembered.
_SETTLED_S = 2.0
# The digests of a cached folder's files, in the format of sha256sum. The suffix keeps it out of the
# model folders that are linked from the cache.
MANIFEST = "files.sha256"


# --- one file ------------------------------------------------------------------------------------


def remembered_sha256(path: Path, *, cache: Path | None = None) -> str:
    """Returns the sha256 of a file, remembered in the cache.

    It is computed again when the file's size, time stamps or inode have changed. Without a cache
    that can be written, it is computed each time.

    Args:
        path: A regular file.
        cache: Root of the cache; the user's by default.
    Raises:
        OSError: The file is missing, cannot be read, or is not a regular file.
    """
    absolute = path.resolve()
    stat = absolute.stat()
    identity: list[str | int] = [
        str(absolute),
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
        stat.st_ino,
    ]
    memo = _memo(absolute, cache)
    if memo is not None:
        remembered = _recall(memo, identity)
        if remembered is not None:
            return remembered

    digest = sha256_file(absolute)
    if memo is not None and time.time() - stat.st_mtime > _SETTLED_S:
        # A cache that cannot be written costs time, and nothing else.
        with suppress(StorageError):
            write_json(memo, {"identity": identity, "sha256": digest})
    return digest


def _memo(absolute: Path, cache: Path | None) -> Path | None:
    """File that remembers a digest; None if there is no place for a cache."""
    name = hashlib.sha256(str(absolute).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    try:
        folder = (cache or cache_root()) / "hashes"
    except StorageError:
        return None
    _recover_once(folder)
    return folder / f"{name}.json"


@functools.cache
def _recover_once(folder: Path) -> None:
    """Removes what killed processes left; a digest that is remembered is not written again."""
    recover(folder)


def _recall(memo: Path, identity: list[str | int]) -> str | None:
    """Returns the remembered digest of a file with this identity, if there is one."""
    try:
        # Raises an OSError for a folder that cannot be searched.
        if not memo.is_file():
            return None
        content = read_json_object(memo)
    except OSError:
        return None
    except StorageError as error:
        console.warn(f"a remembered digest is corrupt and is computed again: {error.message}")
        return None
    digest = content.get("sha256")
    is_same = content.get("identity") == identity
    return digest if is_same and isinstance(digest, str) else None


# --- recorded digests ----------------------------------------------------------------------------


def run_digests(run: RunDir, paths: Iterable[Path]) -> dict[str, str]:
    """Path relative to the run → digest, of files and of all files in folders."""
    digests = {}
    for path in paths:
        name = path.relative_to(run.path)
        if path.is_file():
            digests[str(name)] = sha256_file(path)
        for file, digest in tree_manifest(path).items():
            digests[str(name / file)] = digest
    return digests


def changed_file(
    folder: Path, digests: Mapping[str, str], *, cache: Path | None = None
) -> str | None:
    """Describes the first file that differs from its recorded digest; None if no file does.

    Args:
        folder: Folder that the names are relative to.
        digests: Relative path → sha256.
        cache: As in `remembered_sha256`.
    """
    for name, expected in digests.items():
        path = folder / name
        try:
            digest = remembered_sha256(path, cache=cache)
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}"
        if digest != expected:
            return f"{path} was changed: expected sha256 {expected[:12]}…, got {digest[:12]}…"
    return None


def require_unchanged(run: RunDir, folders: Iterable[Path]) -> None:
    """Compares model folders of a run with the digests that `distill` recorded.

    Runs of earlier versions have no digests; their files are not compared.

    Raises:
        RunError: A file is missing or was changed.
        StorageError: The record of the run is corrupt.
    """
    if not run.distill.exists():
        return
    digests = read_record(run.distill, DistillRecord).files
    names = tuple(f"{folder.relative_to(run.path)}/" for folder in folders)
    _require(run, {name: digests[name] for name in digests if name.startswith(names)})


def require_initial_files(run: RunDir) -> None:
    """Compares the files that a run starts from with the digests of its beginning.

    Raises:
        RunError: A file is missing or was changed.
        StorageError: The file with the digests is corrupt.
    """
    if not run.initial_digests.exists():
        return
    hint = "remove it to use the run's teacher and held-out text as they are"
    digests = read_json_object(run.initial_digests, hint=hint)
    _require(run, {name: str(digest) for name, digest in digests.items()})


def _require(run: RunDir, digests: Mapping[str, str]) -> None:
    change = changed_file(run.path, digests)
    if change is not None:
        raise RunError(
            f"{change}; it was written by edgedistil distill",
            hint="restore it from a copy, or distil into another run with --run NEW-NAME",
        )


# --- folders of the cache ------------------------------------------------------------------------


def write_manifest(folder: Path) -> None:
    """Writes the digests of a folder's files into it, before it gets its name."""
    lines = [f"{digest}  {name}\n" for name, digest in tree_manifest(folder).items()]
    with storage_errors(folder):
        (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def is_intact(folder: Path, *, cache: Path | None = None) -> bool:
    """Returns whether a cached folder is as it was written.

    If it is there and differs, a warning says so: the caller then builds it again.
    """
    if not folder.is_dir():
        return False
    change = _manifest_change(folder, cache)
    if change is not None:
        console.warn(f"a cached folder is corrupt and is made again: {change}")
    return change is None


def _manifest_change(folder: Path, cache: Path | None) -> str | None:
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return f"{folder / MANIFEST} is missing or unreadable"
    pairs = [line.partition("  ") for line in lines]
    digests = {name: digest for digest, _spaces, name in pairs}
    if "" in digests or not digests:
        return f"{folder / MANIFEST} is truncated"
    return changed_file(folder, digests, cache=cache)
