"""What a source is, as a digest, without reading again what was read before."""

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

_SETTLED_S = (
    2.0  # a file changed less than this ago may change again within one tick of its time stamp
)


def source_identity(spec: SourceSpec, *, cache: Path) -> str:
    """Digest of a source's content: an asset's pinned one, files' sha256; of a hub data set its name and revision.

    Files are hashed once; afterwards size, time stamp and inode tell that they are the same. A hub data set without a
    `revision` that changes on the hub keeps its cached corpus: what is on the hub cannot be known without asking it.

    Raises:
        CorpusError: A file is missing or cannot be read.
        OfflineError: A URL cannot be reached.
    """
    if spec.asset is not None:
        reader_for_asset(spec.asset)
        return find_asset(spec.asset).sha256
    if spec.files is not None:
        parts = [
            (spec.field, *(file_sha256(path, cache=cache) for path in source_files(spec.files)))
        ]
    else:
        parts = [(spec.field, str(spec.hub), str(spec.config), spec.split, str(spec.revision))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_sha256(path: Path, *, cache: Path) -> str:
    """sha256 of a file, remembered under the cache for as long as the file looks the same."""
    whole = path.resolve()
    try:
        stat = whole.stat()
        memo = cache / "hashes" / f"{hashlib.sha256(str(whole).encode()).hexdigest()[:32]}.json"
        looks = [str(whole), stat.st_size, stat.st_mtime_ns, stat.st_ino]
        if memo.is_file():
            known = read_json(memo)
            if known["looks"] == looks:
                return str(known["sha256"])
        digest = sha256_file(whole)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    if time.time() - stat.st_mtime > _SETTLED_S:
        write_json(memo, {"looks": looks, "sha256": digest})
    return digest
