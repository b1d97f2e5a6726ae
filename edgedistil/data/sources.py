"""Text sources: files, hub data sets, package assets.

A document (a line, paragraph or row) is one string.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgedistil.core import console
from edgedistil.core.assets import fetch_asset, find_asset
from edgedistil.core.errors import CorpusError
from edgedistil.core.fetch import download_url
from edgedistil.core.paths import user_path
from edgedistil.core.places import cache_root
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.regular_file import check_regular
from edgedistil.data.asset_text import asset_text_bytes, read_asset, reader_for_asset
from edgedistil.data.hub_text import read_hub_dataset
from edgedistil.data.text_files import OnBadUtf8, has_columns, read_text_file, reader_for
from edgedistil.data.texts import PAIR_SEPARATOR


@dataclass(frozen=True)
class SourceDescription:
    """Name, licence and origin of a source, known without reading it."""

    name: str
    licence: str
    origin: str


def describe_source(spec: SourceSpec) -> SourceDescription:
    """Returns name, licence and origin of a source.

    Raises:
        InputError: The asset is unknown or has no text.
    """
    if spec.asset is not None:
        # Called for its error: the asset may have no corpus text.
        reader_for_asset(spec.asset)
        asset = find_asset(spec.asset)
        # "not stated" is the recipe's default: the asset's own licence is known.
        licence = asset.licence if spec.licence == "not stated" else spec.licence
        return SourceDescription(asset.name, licence, asset.origin)
    if spec.files is not None:
        return SourceDescription(Path(spec.files).name, spec.licence, spec.files)
    name = f"{spec.hub}/{spec.config}" if spec.config else str(spec.hub)
    return SourceDescription(name, spec.licence, f"hub {name} {spec.split}")


def source_bytes(spec: SourceSpec) -> int | None:
    """Returns the total by which `read_documents` will advance its progress.

    Returns:
        Bytes; None for a hub data set, whose size is unknown before it is read.
    Raises:
        CorpusError: The file does not exist.
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
    """Yields the documents of a source in its order, stripped, without blank ones.

    Args:
        spec: Source of a recipe.
        on_bad_utf8: `refuse` raises at the first invalid byte of a file, `replace` substitutes
            U+FFFD.
        advance: Called with the bytes read since the last call: of the files as they are on disk,
            for other sources of the text.
    Raises:
        CorpusError: A file is missing, corrupt, of an unknown format or not UTF-8.
        OfflineError: A hub data set, an asset or a URL cannot be reached.
    """
    if spec.query_field is not None:
        yield from _read_pairs(spec, on_bad_utf8, advance)
        return
    for document in _read(spec, on_bad_utf8, advance):
        stripped = document.strip()
        if stripped:
            yield stripped


def _read_pairs(
    spec: SourceSpec, on_bad_utf8: OnBadUtf8, advance: Callable[[float], None] | None
) -> Iterator[str]:
    """Yields a query and its text as one document, around `PAIR_SEPARATOR`."""
    for path in source_files(spec.files) if spec.files is not None else []:
        if not has_columns(path):
            raise CorpusError(
                f"{path} has no columns, and corpus source query_field = '{spec.query_field}'",
                hint="give the pairs as .jsonl or .parquet",
            )
    # The file is read twice, a column each time: the readers know one column.
    queries = _read(
        spec.model_copy(update={"field": spec.query_field, "query_field": None}), on_bad_utf8, None
    )
    for query, document in zip(queries, _read(spec, on_bad_utf8, advance), strict=True):
        if query.strip() and document.strip():
            yield f"{query.strip()}{PAIR_SEPARATOR}{document.strip()}"


def _read(
    spec: SourceSpec, on_bad_utf8: OnBadUtf8, advance: Callable[[float], None] | None
) -> Iterator[str]:
    if spec.files is not None:
        for path in source_files(spec.files):
            yield from read_text_file(
                path, field=spec.field, on_bad_utf8=on_bad_utf8, advance=advance
            )
        return

    if spec.asset is not None:
        documents = read_asset(spec.asset, fetch_asset(spec.asset))
    else:
        documents = read_hub_dataset(spec)
    for document in documents:
        yield document
        if advance is not None:
            advance(len(document.encode()))


def is_url(pattern: str) -> bool:
    """Whether `files` of a source is a URL."""
    return "://" in pattern


def source_files(pattern: str) -> list[Path]:
    """Returns the files that a path, a glob or a URL names, sorted.

    Raises:
        CorpusError: Nothing matches, or a file is not a regular one or has an unsupported format.
        OfflineError: The URL cannot be reached.
    """
    if is_url(pattern):
        return [_download(pattern)]

    path = user_path(pattern, error=CorpusError)
    try:
        files = _matching_files(pattern, path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    # An unsupported format fails here, before the first of many files is read.
    for file in files:
        reader_for(file)
    return files


def _matching_files(pattern: str, path: Path) -> list[Path]:
    if path.is_dir():
        raise CorpusError(
            f"corpus source files = '{pattern}' is a folder",
            hint=f"name a file or a glob such as {path}/*.txt",
        )
    # A file whose name contains glob characters, "a[1].txt", is taken as it is.
    if path.exists():
        check_regular(path)
        return [path]
    # Path.glob refuses absolute patterns.
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207
    matches = sorted(map(Path, names))
    files = [match for match in matches if match.is_file()]
    if not files:
        raise CorpusError(
            f"corpus source files = '{pattern}' matches no file",
            hint=f"searched: {path.absolute()}",
        )
    return files


def _download(url: str) -> Path:
    """Fetches a URL once into the cache; returns the file."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise CorpusError(f"corpus source '{url}' is not a valid URL: {error}") from error
    if parts.scheme not in {"http", "https"}:
        raise CorpusError(
            f"corpus source '{url}': expected http:// or https://",
            hint="a local file needs no scheme",
        )
    name = Path(parts.path).name
    reader_for(Path(name))  # an unsupported format fails before the download
    # The hash keeps files of the same name from different places apart.
    path = cache_root() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if path.is_file():
        return path

    console.say(f"downloading {url}")
    download_url(url, path)
    return path
