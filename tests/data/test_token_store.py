"""Rows come back as they were written, across shards, from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.core.errors import StorageError
from edgedistil.data.token_store import StoreWriter, TokenStore, token_dtype

V = 211


def written(
    folder: Path, rows: list[list[int]], *, row_length: int | None, vocabulary: int = V
) -> TokenStore:
    writer = StoreWriter(folder, vocabulary=vocabulary, row_length=row_length, shard_tokens=50)
    for start in range(0, len(rows), 3):
        part = rows[start : start + 3]
        writer.append(np.concatenate(part).astype(int), np.array([len(row) for row in part]))
    writer.close()
    assert writer.token_counts_V.tolist() == _counted(rows, vocabulary)
    return TokenStore(folder)


def _counted(rows: list[list[int]], vocabulary: int) -> list[int]:
    return (
        np.bincount([token for row in rows for token in row], minlength=vocabulary)
        .astype(int)
        .tolist()
    )


rows_of_many_lengths = st.lists(
    st.lists(st.integers(0, V - 1), min_size=1, max_size=19), min_size=1, max_size=40
)


@settings(deadline=None)
@given(rows_of_many_lengths)
def test_lines_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    store = written(tmp_path_factory.mktemp("store") / "s", rows, row_length=None)
    assert len(store) == len(rows)
    assert store.tokens == sum(map(len, rows))
    assert [store[row].tolist() for row in range(len(rows))] == rows
    assert store.row_lengths(np.arange(len(rows))).tolist() == [len(row) for row in rows]
    assert store[-1].tolist() == rows[-1]


@settings(deadline=None)
@given(rows_of_many_lengths)
def test_rows_are_sorted_by_buckets_four_wide_and_stay_in_order_within(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]
) -> None:
    store = written(tmp_path_factory.mktemp("store") / "s", rows, row_length=None)
    expected = sorted(range(len(rows)), key=lambda row: len(rows[row]) // 4)
    assert store.rows_by_bucket(np.arange(len(rows))).tolist() == expected
    buckets = sorted(len(row) // 4 for row in rows)
    assert store.bucket_starts().tolist() == [
        *(buckets.index(b) for b in sorted(set(buckets))),
        len(rows),
    ]


def test_packed_rows_come_back_as_blocks(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).integers(0, V, (23, 7)).tolist()
    store = written(tmp_path / "s", rows, row_length=7)
    assert len(store) == 23
    assert [store[row].tolist() for row in range(23)] == rows
    assert store.row_lengths(np.arange(23)).tolist() == [7] * 23
    assert len(list((tmp_path / "s").glob("*.tokens"))) > 1


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(65_535, "uint16"), (65_536, "int32"), (30_522, "uint16")]
)
def test_ids_take_no_more_bytes_than_they_need(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    assert token_dtype(vocabulary) == dtype
    store = written(tmp_path / "s", [[vocabulary - 1, 0]], row_length=2, vocabulary=vocabulary)
    assert store[0].dtype == dtype
    assert store[0].tolist() == [vocabulary - 1, 0]


def test_rows_are_mapped_not_read(tmp_path: Path) -> None:
    store = written(tmp_path / "s", [[1, 2, 3]], row_length=3)
    assert isinstance(store[0].base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store[0][0] = 5


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    for row_length in (7, None):
        store = written(tmp_path / f"s{row_length}", [], row_length=row_length)
        assert len(store) == store.tokens == len(store.row_lengths(np.arange(0))) == 0
        with pytest.raises(IndexError, match="row 0 of a store with 0 rows"):
            store[0]


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "s", [[1, 2, 3]], row_length=3)
    shard = tmp_path / "s" / "shard-00000.tokens"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StorageError, match="is truncated or corrupt: expected 6 bytes, got 5"):
        TokenStore(tmp_path / "s")
