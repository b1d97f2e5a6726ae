"""Documents out of text files: .txt (a line each), .jsonl and .parquet (a row each), plain, .gz or .zst."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from edgedistil.core.errors import CorpusError

OnBadUtf8 = Literal["refuse", "replace"]
SUPPORTED = ".txt, .jsonl, .parquet, each also as .gz or .zst (parquet: plain only)"
_READ_BYTES = 1 << 20
_TELL_EVERY = 64
_BOM = b"\xef\xbb\xbf"


def read_text_file(
    path: Path,
    *,
    field: str,
    on_bad_utf8: OnBadUtf8,
    advance: Callable[[float], None] | None = None,
) -> Iterator[str]:
    """The documents of one file, in its order; blank ones too.

    Args:
        path: Suffix says the format.
        field: Column of .jsonl and .parquet that holds the text.
        on_bad_utf8: `refuse` raises; `replace` puts U+FFFD in the place of each bad byte.
        advance: Told now and then how many more of the file's bytes were read, in all the file's size.
    Raises:
        CorpusError: Missing, of no known format, damaged, not UTF-8 (says which byte), or without `field`.
    """
    reader = reader_for(path)
    told = 0
    with _raw(path) as raw:
        for number, document in enumerate(reader(path, raw, field, on_bad_utf8)):
            yield document
            if advance is not None and number % _TELL_EVERY == 0:
                position = raw.tell()
                advance(position - told)
                told = position
        if advance is not None:
            advance(path.stat().st_size - told)


Reader = Callable[[Path, BinaryIO, str, OnBadUtf8], Iterator[str]]


def reader_for(path: Path) -> Reader:
    """The function that reads files with this suffix.

    Raises:
        CorpusError: No known suffix.
    """
    inner = path.with_suffix("") if path.suffix in {".gz", ".zst"} else path
    reader = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(inner.suffix)
    if reader is None or (reader is _read_parquet and inner != path):
        raise CorpusError(f"{path} is no text file that we read", hint=f"supported: {SUPPORTED}")
    return reader


def _read_txt(path: Path, raw: BinaryIO, _field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    for _number, line in _lines(path, raw, on_bad_utf8):
        yield line


def _read_jsonl(path: Path, raw: BinaryIO, field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    for number, line in _lines(path, raw, on_bad_utf8):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path} line {number} is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise CorpusError(
                f"{path} line {number} has no text in '{field}' (there: {there or 'nothing'})",
                hint="name the text column with `field` in the recipe's corpus source",
            )
        yield row[field]


def _read_parquet(path: Path, raw: BinaryIO, field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    row = 0
    try:
        with pq.ParquetFile(raw) as table:
            _check_column(path, table.schema_arrow, field)
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                column = batch.column(0)
                plain = (
                    column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
                )
                for value in plain.cast(pa.large_binary()).to_pylist():
                    yield _decoded(value or b"", on_bad_utf8, f"{path} row {row}", 0)
                    row += 1
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{path} is no readable parquet file: {error}") from error


def _check_column(path: Path, schema: Any, field: str) -> None:
    if field not in schema.names:
        raise CorpusError(
            f"{path} has no column '{field}' (there: {', '.join(schema.names)})",
            hint="name the text column with `field` in the recipe's corpus source",
        )
    kind = schema.field(field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise CorpusError(f"{path} column '{field}' is {kind}, expected text (string)")


def _lines(path: Path, raw: BinaryIO, on_bad_utf8: OnBadUtf8) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) with where a bad byte stands counted in the decompressed text."""
    offset = 0
    with _damage_told(path):
        for number, line in enumerate(_decompressed(path, raw), start=1):
            text = line.removeprefix(_BOM) if number == 1 else line
            yield number, _decoded(text, on_bad_utf8, str(path), offset + len(line) - len(text))
            offset += len(line)


def _decoded(raw: bytes, on_bad_utf8: OnBadUtf8, where: str, offset: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if on_bad_utf8 == "replace":
            return raw.decode("utf-8", errors="replace")
        raise CorpusError(
            f"{where} is not UTF-8: byte {offset + error.start} is 0x{raw[error.start]:02x} ({error.reason})",
            hint='convert the file, or set corpus.on_bad_utf8 = "replace" in the recipe',
        ) from None


@contextmanager
def _raw(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file


def _decompressed(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), _READ_BYTES))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdStream(raw), _READ_BYTES))
    return raw


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of one or more frames; the library's own reader takes a torn file for a whole one."""

    _COMPRESSED_BYTES = 1 << 13

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = zstandard.ZstdDecompressor().decompressobj()
        self._is_between_frames = True
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            raw = self._file.read(self._COMPRESSED_BYTES)
            if not raw:
                if not self._is_between_frames:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._ready = memoryview(b"".join(self._decoded(raw)))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decoded(self, raw: bytes) -> Iterator[bytes]:
        while raw:
            yield self._decoder.decompress(raw)
            self._is_between_frames = self._decoder.eof
            raw = self._decoder.unused_data if self._decoder.eof else b""
            if self._decoder.eof:
                self._decoder = zstandard.ZstdDecompressor().decompressobj()


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(
            f"{path} is damaged or no {path.suffix} file: {error}", hint="fetch or compress it anew"
        ) from error
