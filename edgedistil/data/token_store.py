"""Token ids on disk, memory-mapped.

Rows are of one length (packed) or of different lengths (lines).

A store is a folder:

    shard-00000.tokens  raw little-endian ids, rows end to end
    shard-00000.ends    `lines` only: where each row ends in its shard, int64
    by_bucket           `lines` only: row numbers sorted by length bucket, int64
    store.json          dtype, row length, sizes; written last, so a store without it is unfinished

Compared with Arrow files of the `datasets` library in
docs/decisions.md#token-store-instead-of-datasetsmap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgedistil.core.errors import StorageError
from edgedistil.core.records import Record, read_record
from edgedistil.core.rundir import storage_errors

# 128 MiB of uint16 ids: few files for a large corpus, and none too large for any file system.
SHARD_TOKENS = 1 << 26
# Rows of one bucket differ by less than 4 tokens, so a batch of them has little padding.
BUCKET_WIDTH = 4
# Rows that are sorted into buckets at once: bounds memory to some 20 MB, whatever the corpus.
_INDEX_CHUNK = 1 << 20
# Bytes that are written at once when a file is allocated.
_ZEROS_BYTES = 1 << 20

Ids = NDArray[Any]


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """Returns the narrowest of uint16 and int32 that can represent every id."""
    return np.dtype("<u2") if vocabulary < 1 << 16 else np.dtype("<i4")


def length_buckets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the length bucket of each row."""
    return lengths.astype(np.int64) // BUCKET_WIDTH


class _StoreFacts(Record):
    """Sizes of a store: `store.json`."""

    # numpy's name of the ids' type.
    dtype: Literal["<u2", "<i4"]
    # Tokens of every row; None: rows of different lengths.
    row_length: int | None = Field(ge=1)
    # Rows and tokens of each shard.
    shard_rows: list[int]
    shard_tokens: list[int]
    # Length bucket → rows in it.
    buckets: dict[int, int]

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        rows, tokens = self.shard_rows, self.shard_tokens
        counts = [*rows, *tokens, *self.buckets.values(), *self.buckets]
        is_consistent = len(rows) == len(tokens) and sum(rows) == sum(self.buckets.values())
        if self.row_length is not None:
            is_consistent = is_consistent and tokens == [self.row_length * count for count in rows]
        if not is_consistent or min(counts, default=0) < 0:
            raise ValueError("the sizes of shards, rows and buckets do not fit together")
        return self


class StoreWriter:
    """Writes a store row by row; rows never cross the end of a shard."""

    def __init__(
        self,
        folder: Path,
        *,
        vocabulary: int,
        row_length: int | None,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        """Creates the folder of a new store.

        Args:
            folder: Must not exist.
            vocabulary: Number of token ids; decides their dtype.
            row_length: Tokens of every row; None: rows of different lengths.
            shard_tokens: A new shard starts before a chunk that would exceed this many tokens.
        Raises:
            StorageError: The folder cannot be created.
        """
        self._folder, self._row_length, self._shard_tokens = folder, row_length, shard_tokens
        self._dtype = token_dtype(vocabulary)
        # Rows and tokens of each shard, rows of each length bucket, and the current shard's files.
        self._rows: list[int] = []
        self._tokens: list[int] = []
        self._buckets: dict[int, int] = {}
        self._files: list[Any] = []
        self.token_counts_V = np.zeros(vocabulary, np.int64)
        with storage_errors(folder):
            folder.mkdir(parents=True)

    def append(self, ids: Ids, lengths: NDArray[np.int64]) -> None:
        """Appends rows.

        Args:
            ids: Ids of all rows, end to end.
            lengths: Length of each row.
        Raises:
            StorageError: The disk is full, or a file cannot be written.
        """
        if len(lengths) == 0:
            return
        if not self._files or self._tokens[-1] + len(ids) > self._shard_tokens:
            self._start_shard()

        # Counted while the ids are in memory: rarity masking needs the counts of the training rows.
        self.token_counts_V += np.bincount(ids, minlength=len(self.token_counts_V))
        # Rows of one length need no `ends`.
        with storage_errors(self._folder):
            self._files[0].write(ids.astype(self._dtype).tobytes())
            if self._row_length is None:
                ends = self._tokens[-1] + np.cumsum(lengths, dtype=np.int64)
                self._files[1].write(ends.astype("<i8").tobytes())

        self._count_buckets(lengths)
        self._rows[-1] += len(lengths)
        self._tokens[-1] += len(ids)

    def close(self) -> None:
        """Writes the index files; only then can the store be opened."""
        self._close_files()
        # store.json comes last: a store without it is unfinished.
        if self._row_length is None:
            with storage_errors(self._folder):
                self._write_by_bucket()
        facts = _StoreFacts(
            dtype=self._dtype.str,
            row_length=self._row_length,
            shard_rows=self._rows,
            shard_tokens=self._tokens,
            buckets={bucket: self._buckets[bucket] for bucket in sorted(self._buckets)},
        )
        with storage_errors(self._folder):
            text = json.dumps(facts.model_dump(mode="json"), indent=1) + "\n"
            (self._folder / "store.json").write_text(text, encoding="utf-8")

    def _count_buckets(self, lengths: NDArray[np.int64]) -> None:
        """Adds rows to the bucket sizes, from which `close` makes a counting sort."""
        buckets, counts = np.unique(length_buckets(lengths), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def _start_shard(self) -> None:
        self._close_files()
        stem = self._folder / f"shard-{len(self._rows):05d}"
        suffixes = ("tokens",) if self._row_length is not None else ("tokens", "ends")
        with storage_errors(self._folder):
            # Closed by `_close_files`, when the shard is full or the store complete.
            paths = [Path(f"{stem}.{suffix}") for suffix in suffixes]
            self._files = [path.open("wb") for path in paths]
        self._rows.append(0)
        self._tokens.append(0)

    def _close_files(self) -> None:
        with storage_errors(self._folder):
            for file in self._files:
                file.close()
        self._files = []

    def _write_by_bucket(self) -> None:
        """Sorts the rows by length bucket, in order within a bucket.

        A counting sort in constant memory: rows are read in pieces, the result is memory-mapped.
        """
        total_rows = sum(self._rows)
        if total_rows == 0:
            return
        path = self._folder / "by_bucket"
        _fill_with_zeros(path, total_rows * 8)
        sorted_rows = np.memmap(path, "<i8", "r+", shape=(total_rows,))

        # For each bucket, where its next row goes.
        buckets_in_order = sorted(self._buckets)
        starts = _offsets([self._buckets[bucket] for bucket in buckets_in_order])
        next_place = dict(zip(buckets_in_order, starts[:-1], strict=True))
        # Place the rows of each bucket of a piece at once instead of row by row.
        for first_row, buckets in self._bucket_pieces():
            for bucket in np.unique(buckets).tolist():
                rows = np.flatnonzero(buckets == bucket) + first_row
                place = next_place[bucket]
                sorted_rows[place : place + len(rows)] = rows
                next_place[bucket] = place + len(rows)
        sorted_rows.flush()

    def _bucket_pieces(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yields (number of the first row, length bucket of each row) of pieces of the store."""
        first_row = 0
        for shard, count in enumerate(self._rows):
            ends = _map_ends(self._folder, shard, count)
            for start in range(0, count, _INDEX_CHUNK):
                lengths = _lengths_in(ends, start, start + _INDEX_CHUNK)
                yield first_row + start, length_buckets(lengths)
            first_row += count


class TokenStore:
    """Rows of token ids, read from disk on access."""

    def __init__(self, folder: Path) -> None:
        """Opens a store that a StoreWriter has closed.

        Raises:
            StorageError: A file is missing, truncated or corrupt.
        """
        facts = read_record(folder / "store.json", _StoreFacts)
        self._folder = folder
        self._dtype = np.dtype(facts.dtype)
        self.row_length = facts.row_length
        self._shard_tokens = facts.shard_tokens
        self._first_rows = np.array(_offsets(facts.shard_rows), np.int64)
        self._buckets = facts.buckets
        # Mapped when a row of them is first read.
        self._shards: dict[int, Ids] = {}
        self._ends: dict[int, NDArray[np.int64]] = {}
        self._by_bucket: NDArray[np.int64] | None = None
        self._check_sizes()

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @property
    def tokens(self) -> int:
        """Number of tokens of all rows, special tokens included."""
        return sum(self._shard_tokens)

    def __getitem__(self, row: int) -> Ids:
        """Returns the ids of one row, memory-mapped, in the store's own dtype."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a store with {len(self)} rows")
        # Negative rows count from the end, as in a list.
        row %= len(self)
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        inside = row - int(self._first_rows[shard])
        ids = self._shard(shard)
        if self.row_length is not None:
            return ids[inside * self.row_length : (inside + 1) * self.row_length]
        ends = self._ends_of(shard)
        start = ends[inside - 1] if inside else 0
        return ids[start : ends[inside]]

    def row_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the number of tokens of these rows."""
        if self.row_length is not None:
            return np.full(len(rows), self.row_length, np.int64)
        result = np.empty(len(rows), np.int64)
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        for shard in np.unique(shards).tolist():
            here = shards == shard
            inside, ends = rows[here] - self._first_rows[shard], self._ends_of(shard)
            # For the first row of a shard, ends[-1] is read and then replaced by 0.
            result[here] = ends[inside] - np.where(inside > 0, ends[inside - 1], 0)
        return result

    def bucket_starts(self) -> NDArray[np.int64]:
        """Returns where each length bucket starts in the order of `rows_by_bucket`.

        The last element is the number of rows.
        """
        counts = [self._buckets[bucket] for bucket in sorted(self._buckets)]
        return np.array(_offsets(counts), np.int64)

    def rows_by_bucket(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the rows at these places of the order by length bucket."""
        if self.row_length is not None:
            return places  # one bucket: the order is that of the rows
        if self._by_bucket is None:
            self._by_bucket = np.memmap(self._folder / "by_bucket", "<i8", "r", shape=(len(self),))
        return np.asarray(self._by_bucket[places])

    def _shard(self, shard: int) -> Ids:
        if shard not in self._shards:
            path = self._folder / f"shard-{shard:05d}.tokens"
            shape = (self._shard_tokens[shard],)
            self._shards[shard] = np.memmap(path, self._dtype, "r", shape=shape)
        return self._shards[shard]

    def _ends_of(self, shard: int) -> NDArray[np.int64]:
        if shard not in self._ends:
            rows = int(self._first_rows[shard + 1] - self._first_rows[shard])
            self._ends[shard] = _map_ends(self._folder, shard, rows)
        return self._ends[shard]

    def _check_sizes(self) -> None:
        """Raises StorageError unless every file has the size that store.json says."""
        for shard, tokens in enumerate(self._shard_tokens):
            _check_size(self._folder / f"shard-{shard:05d}.tokens", tokens * self._dtype.itemsize)
        if self.row_length is not None or len(self) == 0:
            return
        for shard, rows in enumerate(np.diff(self._first_rows).tolist()):
            _check_size(self._folder / f"shard-{shard:05d}.ends", rows * 8)
        _check_size(self._folder / "by_bucket", len(self) * 8)


def _check_size(path: Path, expected: int) -> None:
    got = path.stat().st_size if path.is_file() else 0
    if got != expected:
        raise StorageError(f"{path} is truncated or corrupt: expected {expected} bytes, got {got}")


def _offsets(counts: Sequence[int]) -> list[int]:
    """Running totals from 0; the last one is the sum."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def _fill_with_zeros(path: Path, size: int) -> None:
    """Allocates a file for a memory map.

    Written out, because on a full disk this raises, whereas the first access to a sparse map would
    kill the process with SIGBUS (docs/log.md#corpus-and-masking).
    """
    with path.open("wb") as file:
        for start in range(0, size, _ZEROS_BYTES):
            file.write(bytes(min(_ZEROS_BYTES, size - start)))


def _map_ends(folder: Path, shard: int, rows: int) -> NDArray[np.int64]:
    return np.memmap(folder / f"shard-{shard:05d}.ends", "<i8", "r", shape=(rows,))


def _lengths_in(ends: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Lengths of rows start … stop − 1, from where each row ends."""
    piece = np.asarray(ends[start:stop])
    return np.diff(piece, prepend=ends[start - 1] if start else 0)
