"""Token ids on disk, memory-mapped: rows of one length (packed) or of many (lines).

A store is a folder: `shard-00000.tokens` (raw little-endian ids, rows end to end), for `lines` also
`shard-00000.ends` (where each row ends) and, at the end, `by_bucket` (the rows' numbers sorted by length bucket), and
`store.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import StorageError
from edgedistil.core.rundir import read_json, storage_errors

SHARD_TOKENS = 1 << 26
BUCKET_WIDTH = 4
_INDEX_CHUNK = 1 << 20

Ids = NDArray[Any]


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The narrowest of uint16 and int32 that holds every id."""
    return np.dtype("<u2") if vocabulary < 1 << 16 else np.dtype("<i4")


def bucket_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Length bucket, four tokens wide, of each row."""
    return lengths.astype(np.int64) // BUCKET_WIDTH


class StoreWriter:
    """Writes a store row by row; rows stay in order and never cross a shard's end."""

    def __init__(
        self,
        folder: Path,
        *,
        vocabulary: int,
        row_length: int | None,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self._folder, self._row_length, self._shard_tokens = folder, row_length, shard_tokens
        self._dtype = token_dtype(vocabulary)
        self._rows: list[int] = []
        self._tokens: list[int] = []
        self._buckets: dict[int, int] = {}
        self._files: list[Any] = []
        self.token_counts_V = np.zeros(vocabulary, np.int64)
        with storage_errors(folder):
            folder.mkdir(parents=True)

    def append(self, ids: Ids, lengths: NDArray[np.int64]) -> None:
        """Rows end to end in `ids`; `lengths` of each."""
        if len(lengths) == 0:
            return
        if not self._files or self._tokens[-1] + len(ids) > self._shard_tokens:
            self._next_shard()
        self.token_counts_V += np.bincount(ids, minlength=len(self.token_counts_V))
        with storage_errors(self._folder):
            self._files[0].write(ids.astype(self._dtype).tobytes())
            if self._row_length is None:
                self._files[1].write(
                    (self._tokens[-1] + np.cumsum(lengths, dtype=np.int64)).astype("<i8").tobytes()
                )
        for bucket, count in zip(*np.unique(bucket_of(lengths), return_counts=True), strict=True):
            self._buckets[int(bucket)] = self._buckets.get(int(bucket), 0) + int(count)
        self._rows[-1] += len(lengths)
        self._tokens[-1] += len(ids)

    def close(self) -> None:
        """Writes the index: now the store can be opened."""
        self._close_files()
        if self._row_length is None:
            with storage_errors(self._folder):
                self._write_by_bucket()
        facts = {
            "dtype": self._dtype.str,
            "row_length": self._row_length,
            "shard_rows": self._rows,
            "shard_tokens": self._tokens,
            "buckets": {str(k): v for k, v in sorted(self._buckets.items())},
        }
        with storage_errors(self._folder):
            (self._folder / "store.json").write_text(
                json.dumps(facts, indent=1) + "\n", encoding="utf-8"
            )

    def _next_shard(self) -> None:
        self._close_files()
        stem = self._folder / f"shard-{len(self._rows):05d}"
        suffixes = ("tokens",) if self._row_length is not None else ("tokens", "ends")
        with storage_errors(self._folder):
            self._files = [Path(f"{stem}.{suffix}").open("wb") for suffix in suffixes]  # noqa: SIM115
        self._rows.append(0)
        self._tokens.append(0)

    def _close_files(self) -> None:
        with storage_errors(self._folder):
            for file in self._files:
                file.close()
        self._files = []

    def _write_by_bucket(self) -> None:
        """Counting sort of the rows by bucket, a piece at a time: constant memory, rows in order within a bucket."""
        rows = sum(self._rows)
        if rows == 0:
            return
        path = self._folder / "by_bucket"
        _allocate(path, rows * 8)
        sorted_rows = np.memmap(path, "<i8", "r+", shape=(rows,))
        place = dict(
            zip(
                sorted(self._buckets),
                _starts([self._buckets[b] for b in sorted(self._buckets)]),
                strict=False,
            )
        )
        first = 0
        for shard, count in enumerate(self._rows):
            ends = _mapped_ends(self._folder, shard, count)
            for start in range(0, count, _INDEX_CHUNK):
                buckets = bucket_of(_lengths_in(ends, start, start + _INDEX_CHUNK))
                for bucket in np.unique(buckets):
                    found = np.flatnonzero(buckets == bucket) + first + start
                    sorted_rows[place[int(bucket)] : place[int(bucket)] + len(found)] = found
                    place[int(bucket)] += len(found)
            first += count
        sorted_rows.flush()


class TokenStore:
    """Rows of token ids, read from disk as they are asked for. `len(store)` is the number of rows."""

    def __init__(self, folder: Path) -> None:
        facts = read_json(folder / "store.json")
        self._folder = folder
        self._dtype = np.dtype(facts["dtype"])
        self.row_length: int | None = facts["row_length"]
        self._shard_tokens: list[int] = facts["shard_tokens"]
        self._first_rows = np.array(_starts(facts["shard_rows"]), np.int64)
        self._buckets = {int(k): int(v) for k, v in facts["buckets"].items()}
        self._shards: dict[int, Ids] = {}
        self._ends: dict[int, NDArray[np.int64]] = {}
        self._by_bucket: NDArray[np.int64] | None = None
        self._check_sizes()

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @property
    def tokens(self) -> int:
        """Of all rows, special tokens included."""
        return sum(self._shard_tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row; of a packed store a view that takes no memory."""
        if self.row_length is not None:
            return np.broadcast_to(np.int64(self.row_length), (len(self),))
        if len(self) == 0:
            return np.zeros(0, np.int64)
        return np.concatenate(
            [_lengths_in(self._ends_of(shard)) for shard in range(len(self._shard_tokens))]
        )

    @property
    def blocks_NL(self) -> Sequence[Ids]:  # noqa: N802 - the shape is part of the name
        """The shards of a packed store as arrays of rows, memory-mapped."""
        if self.row_length is None:
            raise ValueError("a store of the layout 'lines' has no blocks of one length")
        return [
            self._shard(shard).reshape(-1, self.row_length)
            for shard in range(len(self._shard_tokens))
        ]

    def __getitem__(self, row: int) -> Ids:
        """The ids of one row, in the store's own dtype."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a store with {len(self)} rows")
        row %= len(self)
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        inside = row - int(self._first_rows[shard])
        if self.row_length is not None:
            return self._shard(shard)[inside * self.row_length : (inside + 1) * self.row_length]
        ends = self._ends_of(shard)
        return self._shard(shard)[ends[inside - 1] if inside else 0 : ends[inside]]

    def row_lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of these rows."""
        if self.row_length is not None:
            return np.full(len(rows), self.row_length, np.int64)
        result = np.empty(len(rows), np.int64)
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        for shard in np.unique(shards):
            here = shards == shard
            inside, ends = rows[here] - self._first_rows[shard], self._ends_of(int(shard))
            result[here] = ends[inside] - np.where(inside > 0, ends[inside - 1], 0)
        return result

    def bucket_starts(self) -> NDArray[np.int64]:
        """Where each length bucket begins in `rows_by_bucket`, the total at the end."""
        return np.array(_starts([self._buckets[b] for b in sorted(self._buckets)]), np.int64)

    def rows_by_bucket(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows at these places of the order by length bucket."""
        if self.row_length is not None:
            return places
        if self._by_bucket is None:
            self._by_bucket = np.memmap(self._folder / "by_bucket", "<i8", "r", shape=(len(self),))
        return np.asarray(self._by_bucket[places])

    def _shard(self, shard: int) -> Ids:
        if shard not in self._shards:
            path = self._folder / f"shard-{shard:05d}.tokens"
            self._shards[shard] = np.memmap(
                path, self._dtype, "r", shape=(self._shard_tokens[shard],)
            )
        return self._shards[shard]

    def _ends_of(self, shard: int) -> NDArray[np.int64]:
        if shard not in self._ends:
            rows = int(self._first_rows[shard + 1] - self._first_rows[shard])
            self._ends[shard] = _mapped_ends(self._folder, shard, rows)
        return self._ends[shard]

    def _check_sizes(self) -> None:
        for shard, tokens in enumerate(self._shard_tokens):
            path = self._folder / f"shard-{shard:05d}.tokens"
            expected = tokens * self._dtype.itemsize
            got = path.stat().st_size if path.is_file() else 0
            if got != expected:
                raise StorageError(f"{path} is torn: expected {expected} bytes, got {got}")


def _starts(counts: Sequence[int]) -> list[int]:
    """Running totals from 0; the last one is the sum."""
    return [0, *np.cumsum(counts, dtype=np.int64).tolist()]


def _allocate(path: Path, size: int) -> None:
    """A file of zeros: on a full disk this raises, where writing to a sparse mapping would kill the process."""
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(bytes(min(1 << 20, size - start)))


def _mapped_ends(folder: Path, shard: int, rows: int) -> NDArray[np.int64]:
    return np.memmap(folder / f"shard-{shard:05d}.ends", "<i8", "r", shape=(rows,))


def _lengths_in(
    ends: NDArray[np.int64], start: int = 0, stop: int | None = None
) -> NDArray[np.int64]:
    """Lengths of rows start … stop from where each row ends."""
    piece = np.asarray(ends[start:stop])
    return np.diff(piece, prepend=ends[start - 1] if start else 0)
