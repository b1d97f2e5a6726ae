"""Fingerprints of text sources, computed without reading a file twice."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from edgedistil.core.assets import find_asset
from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.rundir import read_json, sha256_file, write_json
from edgedistil.data.asset_text import reader_for_asset
from edgedistil.data.sources import source_files

# A file that changed less than this long ago may change again within one tick of its time stamp
# (2 s on FAT), and would look the same afterwards. Its hash is not remembered.
_SETTLED_S = 2.0


def source_fingerprint(spec: SourceSpec, *, cache: Path) -> str:
    """Returns a digest that changes when the content of a source changes.

    An asset has its pinned sha256; files are hashed once, and afterwards recognised by size, time
    stamp and inode. A hub data set is identified by its name and revision only: one without a
    `revision` that changes on the hub keeps its cached corpus, because finding out would need the
    network.

    Args:
        spec: Source of a recipe.
        cache: Root of the cache, which remembers the hashes of files.
    Returns:
        Hexadecimal sha256.
    Raises:
        CorpusError: A file is missing or cannot be read.
        InputError: The asset is unknown or has no text.
        OfflineError: A URL cannot be reached.
    """
    if spec.asset is not None:
        # Called for its error: an asset without text fails before anything is built.
        reader_for_asset(spec.asset)
        return find_asset(spec.asset).sha256

    # The tuple of a tuple is part of the format: cached corpora are found by it.
    if spec.files is not None:
        hashes = [cached_sha256(path, cache=cache) for path in source_files(spec.files)]
        parts = [(spec.field, *hashes)]
    else:
        parts = [(spec.field, str(spec.hub), str(spec.config), spec.split, str(spec.revision))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cached_sha256(path: Path, *, cache: Path) -> str:
    """Returns the sha256 of a file, remembered in the cache.

    It is computed again when the file's size, time stamp or inode has changed.

    Raises:
        CorpusError: The file is missing or cannot be read.
    """
    absolute = path.resolve()
    try:
        stat = absolute.stat()
        name = hashlib.sha256(str(absolute).encode()).hexdigest()[:32]
        memo = cache / "hashes" / f"{name}.json"
        looks = [str(absolute), stat.st_size, stat.st_mtime_ns, stat.st_ino]
        # Hashing reads the file from end to end, which a large corpus should pay for only once.
        if memo.is_file():
            remembered = read_json(memo)
            if remembered["looks"] == looks:
                return str(remembered["sha256"])
        digest = sha256_file(absolute)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    if time.time() - stat.st_mtime > _SETTLED_S:
        write_json(memo, {"looks": looks, "sha256": digest})
    return digest
