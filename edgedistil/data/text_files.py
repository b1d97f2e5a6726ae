"""Documents from text files: .txt, .jsonl and .parquet, plain or compressed."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from edgedistil.core.errors import CorpusError
from edgedistil.core.regular_file import open_regular

OnBadUtf8 = Literal["refuse", "replace"]
# Longest document: a book has 1 MiB, and several copies of a document are in memory at a time.
MAX_DOCUMENT_BYTES = 64 * 2**20
SUPPORTED = ".txt, .jsonl, .parquet, each also as .gz or .zst (parquet: plain only)"
# Decompressed bytes in memory at once; lines are cut out of them.
_READ_BYTES = 1 << 20
# Decompressed bytes from which the size of a larger compressed file is estimated.
_SAMPLE_BYTES = 8 << 20
_COMPRESSED = (".gz", ".zst")
# Documents between two progress updates: one for every line would slow the reading down.
_ADVANCE_EVERY = 64
_BOM = b"\xef\xbb\xbf"
# Text compresses to a third or a fifth, logs to a fiftieth: beyond this ratio a small file is made
# to fill memory or time. Below the floor, the ratio of a few equal lines is not counted.
_MAX_RATIO = 250
_RATIO_FLOOR_BYTES = 16 * 2**20
# Rows of parquet that are decoded at once, and the memory that they may take: with a dictionary,
# each row can be as large as all values of its row group.
_BATCH_ROWS = 64
_BATCH_BYTES = 2**31
# Half of a pair: the JSON parser has combined complete pairs.
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIELD_HINT = "name the text column with `field` in the recipe's corpus source"
_UTF8_HINT = 'convert the file, or set corpus.on_bad_utf8 = "replace" in the recipe'


def read_text_file(
    path: Path,
    *,
    field: str,
    on_bad_utf8: OnBadUtf8,
    advance: Callable[[float], None] | None = None,
) -> Iterator[str]:
    """Yields the documents of one file in its order, blank ones included.

    A document is a line of .txt, or a row of .jsonl and .parquet.

    Args:
        path: File; its suffix decides the format.
        field: Column of .jsonl and .parquet that holds the text.
        on_bad_utf8: `refuse` raises; `replace` substitutes U+FFFD for each invalid byte.
        advance: Called now and then with the bytes of the file read since the last call; the total
            is the file's size.
    Raises:
        CorpusError: The file is missing, not a regular file, of an unsupported format, corrupt, not
            UTF-8 (with the position of the byte), without `field`, or has a document that is too
            long.
    """
    reader = reader_for(path)
    reported = 0
    with _open_raw(path) as raw:
        for number, document in enumerate(reader(path, raw, field, on_bad_utf8)):
            yield document
            # The position in the compressed file: the size of the text is not known beforehand.
            if advance is not None and number % _ADVANCE_EVERY == 0:
                position = raw.tell()
                advance(position - reported)
                reported = position
        if advance is not None:
            advance(path.stat().st_size - reported)


@dataclass(frozen=True)
class TextSize:
    """Size of the text of a file.

    Attributes:
        bytes: Decompressed bytes, with the syntax of .jsonl; of .parquet those of the file.
        is_scaled: Whether they are estimated from the start of the file.
    """

    bytes: int
    is_scaled: bool


def text_bytes(path: Path) -> TextSize:
    """Returns the size of a file's text; of a large compressed file only the start is read.

    Raises:
        CorpusError: The file is missing, not a regular file, or corrupt.
    """
    with _open_raw(path) as raw:
        size = path.stat().st_size
        if path.suffix not in _COMPRESSED:
            return TextSize(size, is_scaled=False)
        decompressed = 0
        with _explain_corruption(path):
            file = _decompress(path, raw)
            while decompressed < _SAMPLE_BYTES:
                piece = file.read(_READ_BYTES)
                if not piece:
                    return TextSize(decompressed, is_scaled=False)
                decompressed += len(piece)
        # The reader is ahead by its buffer, which is small next to the sample.
        return TextSize(round(decompressed * size / raw.tell()), is_scaled=True)


Reader = Callable[[Path, BinaryIO, str, OnBadUtf8], Iterator[str]]


def reader_for(path: Path) -> Reader:
    """Returns the function that reads files with this suffix.

    Raises:
        CorpusError: The suffix is not supported.
    """
    is_compressed = path.suffix in _COMPRESSED
    suffix = path.with_suffix("").suffix if is_compressed else path.suffix
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(suffix)
    # Parquet is read with seeks, which a decompressed stream does not have.
    if reader is None or (is_compressed and reader is _read_parquet):
        raise CorpusError(
            f"{path} is not in a supported text format", hint=f"supported: {SUPPORTED}"
        )
    return reader


def has_columns(path: Path) -> bool:
    """Whether files with this suffix have named columns."""
    return reader_for(path) is not _read_txt


def _read_txt(path: Path, raw: BinaryIO, _field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    for _number, line in _lines(path, raw, on_bad_utf8):
        yield line


def _read_jsonl(path: Path, raw: BinaryIO, field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    for number, line in _lines(path, raw, on_bad_utf8):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        # Python's parser raises a RecursionError for deep nesting.
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path} line {number} is not valid JSON: {error}") from error
        # The error lists the columns, because a wrong `field` is the usual cause.
        if not isinstance(row, dict):
            raise _no_text(path, number, field, f"got a JSON {type(row).__name__}")
        if not isinstance(row.get(field), str):
            raise _no_text(path, number, field, f"columns: {', '.join(row) or 'none'}")
        text = row[field]
        # Only an escape can give half of a surrogate pair, which UTF-8 cannot encode.
        if "\\u" in line:
            text = _without_surrogates(text, on_bad_utf8, f"{path} line {number}")
        yield text


def _no_text(path: Path, line: int, field: str, content: str) -> CorpusError:
    return CorpusError(f"{path} line {line} has no text in '{field}' ({content})", hint=_FIELD_HINT)


def _without_surrogates(text: str, on_bad_utf8: OnBadUtf8, where: str) -> str:
    """Returns the text if UTF-8 can encode it; otherwise replaces surrogates, or raises."""
    surrogate = _SURROGATE.search(text)
    if surrogate is None:
        return text
    if on_bad_utf8 == "replace":
        return _SURROGATE.sub("\ufffd", text)
    raise CorpusError(
        f"{where} is not UTF-8: character {surrogate.start()} of the text is "
        f"\\u{ord(surrogate[0]):04x}, half of a surrogate pair",
        hint=_UTF8_HINT,
    )


def _read_parquet(path: Path, raw: BinaryIO, field: str, on_bad_utf8: OnBadUtf8) -> Iterator[str]:
    text_bytes, limit_bytes = 0, _ratio_limit(path.stat().st_size)
    for row, value in enumerate(_parquet_values(path, raw, field)):
        text_bytes += len(value)
        check_document(len(value), f"{path} row {row}")
        if text_bytes > limit_bytes:
            raise _too_compressed(path)
        yield _decode(value, on_bad_utf8, f"{path} row {row}", 0)


def _parquet_values(path: Path, raw: BinaryIO, field: str) -> Iterator[bytes]:
    """Yields the values of a text column; an absent one is empty."""
    try:
        with pq.ParquetFile(raw) as table:
            _check_column(path, table.schema_arrow, field)
            for group in range(table.num_row_groups):
                batches = table.iter_batches(
                    batch_size=_batch_rows(table, group), row_groups=[group], columns=[field]
                )
                for batch in batches:
                    column = batch.column(0)
                    # pandas writes categories as dictionaries.
                    if pa.types.is_dictionary(column.type):
                        column = column.dictionary_decode()
                    # As bytes: parquet does not check that its strings are UTF-8, and pyarrow would
                    # raise an error without the row's number.
                    for value in column.cast(pa.large_binary()):
                        yield value.as_py() or b""
    except CorpusError:
        raise
    # A corrupt file makes pyarrow raise any of a dozen types, MemoryError and OSError among them.
    except Exception as error:
        raise CorpusError(
            f"{path} is not a readable parquet file: {error or type(error).__name__}",
            hint="download or write it again",
        ) from error


def _batch_rows(table: pq.ParquetFile, group: int) -> int:
    """Rows of a row group that can be decoded at once."""
    column_bytes = int(table.metadata.row_group(group).total_byte_size)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(column_bytes, 1)))


def _check_column(path: Path, schema: Any, field: str) -> None:
    """Raises CorpusError unless the table has a text column of this name."""
    if field not in schema.names:
        raise CorpusError(
            f"{path} has no column '{field}' (columns: {', '.join(schema.names)})",
            hint=_FIELD_HINT,
        )
    dtype = schema.field(field).type
    # Of a dictionary column the values count, not the indices.
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if not (pa.types.is_string(dtype) or pa.types.is_large_string(dtype)):
        raise CorpusError(f"{path} column '{field}' is {dtype}, expected text (string)")


def _lines(path: Path, raw: BinaryIO, on_bad_utf8: OnBadUtf8) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line).

    Byte positions in errors are those of the decompressed text.
    """
    offset, number = 0, 0
    next_check = _RATIO_FLOOR_BYTES
    with _explain_corruption(path):
        file = _decompress(path, raw)
        while line := file.readline(MAX_DOCUMENT_BYTES + 1):
            number += 1
            check_document(len(line), f"{path} line {number}")
            # Windows editors put a byte order mark before the first line.
            text = line.removeprefix(_BOM) if number == 1 else line
            yield number, _decode(text, on_bad_utf8, str(path), offset + len(line) - len(text))
            offset += len(line)
            if offset > next_check:
                next_check += _RATIO_FLOOR_BYTES
                if offset > _ratio_limit(raw.tell()):
                    raise _too_compressed(path)


def check_document(size: int, where: str) -> None:
    """Raises CorpusError if a document is too long."""
    if size > MAX_DOCUMENT_BYTES:
        raise CorpusError(
            f"{where} has more than {MAX_DOCUMENT_BYTES / 2**20:.0f} MiB: "
            "expected one document a line or row",
            hint="split it into its documents or paragraphs",
        )


def _ratio_limit(compressed_bytes: int) -> int:
    """Largest size of the text that this many bytes of a file may decompress to."""
    return max(_RATIO_FLOOR_BYTES, _MAX_RATIO * compressed_bytes)


def _too_compressed(path: Path) -> CorpusError:
    return CorpusError(
        f"{path} decompresses to more than {_MAX_RATIO} times its size, which text does not",
        hint="check where the file is from; if it is as it should be, decompress it first",
    )


def _decode(raw: bytes, on_bad_utf8: OnBadUtf8, where: str, offset: int) -> str:
    """Decodes UTF-8 that starts at byte `offset` of the file or row."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if on_bad_utf8 == "replace":
            return raw.decode("utf-8", errors="replace")
        position, byte = offset + error.start, raw[error.start]
        raise CorpusError(
            f"{where} is not UTF-8: byte {position} is 0x{byte:02x} ({error.reason})",
            hint=_UTF8_HINT,
        ) from None


@contextmanager
def _open_raw(path: Path) -> Iterator[BinaryIO]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror or error}") from error
    with file:
        yield file


def _decompress(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), _READ_BYTES))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdStream(raw), _READ_BYTES))
    return raw


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of one or more zstd frames.

    The library's own `stream_reader` reads a truncated file to its end without an error
    (docs/log.md#corpus-and-masking); here `eof` of the decompression object is checked.
    """

    # Small: a highly compressible piece is many thousand times as large when decompressed.
    _COMPRESSED_BYTES = 1 << 13

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = zstandard.ZstdDecompressor().decompressobj()
        self._is_between_frames = True
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Returns true; `io.BufferedReader` asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` with decompressed bytes; 0 at the end of the file."""
        # A read may give no decompressed bytes yet: 0 would mean the end of the file.
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
            if not self._decoder.eof:
                return
            # A decompression object is for one frame; the rest belongs to the next.
            raw = self._decoder.unused_data
            self._decoder = zstandard.ZstdDecompressor().decompressobj()


@contextmanager
def _explain_corruption(path: Path) -> Iterator[None]:
    """Turns the decompressors' errors into a CorpusError that names the file."""
    try:
        yield
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(
            f"{path} is truncated, corrupt or not a {path.suffix} file: {error}",
            hint="download or compress it again",
        ) from error
