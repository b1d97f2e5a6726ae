"""Fingerprints of text sources, computed without reading a file twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgedistil.core.assets import find_asset
from edgedistil.core.digests import remembered_sha256
from edgedistil.core.errors import CorpusError
from edgedistil.core.recipe import SourceSpec
from edgedistil.data.asset_text import reader_for_asset
from edgedistil.data.sources import source_files


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
    fields = (spec.field,) if spec.query_field is None else (spec.field, spec.query_field)
    if spec.files is not None:
        hashes = [_file_sha256(path, cache=cache) for path in source_files(spec.files)]
        parts = [(*fields, *hashes)]
    else:
        parts = [(*fields, str(spec.hub), str(spec.config), spec.split, str(spec.revision))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _file_sha256(path: Path, *, cache: Path) -> str:
    """Digest of a file; raises CorpusError if it cannot be read."""
    try:
        return remembered_sha256(path, cache=cache)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
