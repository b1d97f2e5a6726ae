"""Where text comes from: files, hub data sets, package assets. One document (paragraph, row) a string."""

from __future__ import annotations

import glob
import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgedistil.core import console
from edgedistil.core.assets import cache_root, fetch_asset, find_asset
from edgedistil.core.errors import CorpusError, OfflineError
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.rundir import replacing
from edgedistil.data.asset_text import asset_text_bytes, read_asset, reader_for_asset
from edgedistil.data.hub_text import read_hub
from edgedistil.data.text_files import OnBadUtf8, read_text_file, reader_for

_TIMEOUT_S = 30


@dataclass(frozen=True)
class Origin:
    """Where a source's text comes from, known without reading it."""

    name: str
    licence: str
    origin: str


def describe_source(spec: SourceSpec) -> Origin:
    """Name, licence and origin of a source.

    Raises:
        InputError: The asset is unknown or holds no text.
    """
    if spec.asset is not None:
        reader_for_asset(spec.asset)
        asset = find_asset(spec.asset)
        licence = asset.licence if spec.licence == "not stated" else spec.licence
        return Origin(asset.name, licence, asset.origin)
    if spec.files is not None:
        return Origin(Path(spec.files).name, spec.licence, spec.files)
    name = f"{spec.hub}/{spec.config}" if spec.config else str(spec.hub)
    return Origin(name, spec.licence, f"hub {name} {spec.split}")


def source_bytes(spec: SourceSpec) -> int | None:
    """What `read_documents` will advance by in all; None of a hub data set, whose size nobody knows before.

    Raises:
        CorpusError: No such file.
        OfflineError: The URL cannot be reached.
    """
    if spec.asset is not None:
        return asset_text_bytes(spec.asset)
    if spec.files is not None:
        return sum(path.stat().st_size for path in source_files(spec.files))
    return None


def read_documents(
    spec: SourceSpec, *, on_bad_utf8: OnBadUtf8, advance: Callable[[float], None] | None = None
) -> Iterator[str]:
    """The documents of a source in its order, stripped; blank ones are skipped.

    Args:
        spec: Which source.
        on_bad_utf8: `refuse` raises at the first bad byte of a file, `replace` puts U+FFFD there.
        advance: Told how many more bytes of the source were read: of its files as they lie on disk, else of text.
    Raises:
        CorpusError: A file is missing, damaged, of an unknown format or not UTF-8.
        OfflineError: A hub data set, an asset or a URL cannot be reached.
    """
    for document in _read(spec, on_bad_utf8, advance):
        stripped = document.strip()
        if stripped:
            yield stripped


def _read(
    spec: SourceSpec, on_bad_utf8: OnBadUtf8, advance: Callable[[float], None] | None
) -> Iterator[str]:
    if spec.files is not None:
        for path in source_files(spec.files):
            yield from read_text_file(
                path, field=spec.field, on_bad_utf8=on_bad_utf8, advance=advance
            )
        return
    documents = (
        read_asset(spec.asset, fetch_asset(spec.asset))
        if spec.asset is not None
        else read_hub(spec)
    )
    for document in documents:
        yield document
        if advance is not None:
            advance(len(document.encode()))


def source_files(pattern: str) -> list[Path]:
    """The files that a path, a glob or a URL means, sorted; each of a known format.

    Raises:
        CorpusError: Nothing matches, or a file is of no known format.
        OfflineError: The URL cannot be reached.
    """
    if "://" in pattern:
        return [_downloaded(pattern)]
    expanded = str(Path(pattern).expanduser())
    given = Path(expanded)
    paths = [given] if given.is_file() else sorted(map(Path, glob.glob(expanded, recursive=True)))  # noqa: PTH207 - absolute patterns, which Path.glob refuses
    if given.is_dir() or not [p for p in paths if p.is_file()]:
        said = "is a folder" if given.is_dir() else "matches no file"
        raise CorpusError(
            f"corpus source files = '{pattern}' {said}",
            hint=f"name a file or a glob such as {given}/*.txt",
        )
    files = [path for path in paths if path.is_file()]
    for path in files:
        reader_for(path)
    return files


def _downloaded(url: str) -> Path:
    """The file behind a URL, fetched once into the cache."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"}:
        raise CorpusError(
            f"corpus source '{url}': expected http:// or https://",
            hint="a local file needs no scheme",
        )
    name = Path(parts.path).name
    reader_for(Path(name))
    path = cache_root() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.is_file():
        return path
    console.say(f"fetching {url}")
    try:
        # the scheme was checked above
        answer = urllib.request.urlopen(url, timeout=_TIMEOUT_S)  # noqa: S310
        with answer, replacing(path) as aside, aside.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise OfflineError(
            f"cannot fetch {url}: {reason}", hint=f"fetch it by hand and put it at {path}"
        ) from error
    return path
