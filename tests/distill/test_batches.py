"""Micro-batches: the same on one process and several, and prepared one step in advance."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistil.core.recipe import Masking
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.data.batches import BatchOrder
from edgedistil.data.masking import IGNORED
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill.batches import Masker, MicroBatch, micro_batches_at, prefetch

VOCABULARY = 82


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    """37 rows of 5 to 23 tokens."""
    writer = StoreWriter(tmp_path / "store", vocabulary=VOCABULARY, row_length=None)
    random = np.random.default_rng(3)
    for _ in range(37):
        row = random.integers(5, VOCABULARY, size=random.integers(5, 24))
        writer.append(row, np.array([len(row)]))
    writer.close()
    yield TokenStore(tmp_path / "store")


@pytest.mark.parametrize("kind", ["bert", "rarity"])
def test_ranks_share_the_micro_batches_of_one(
    kind: str, store: TokenStore, tiny_teacher: Path
) -> None:
    counts_V = np.ones(VOCABULARY, np.int64)
    masking = Masking(kind=kind, share=0.3, rarity_exponent=0.7)  # type: ignore[arg-type]
    masker = Masker(read_tokenizer(tiny_teacher), counts_V, masking, seed=7)

    def at(world_size: int, rank: int) -> list[MicroBatch]:
        order = BatchOrder(
            store, seed=7, global_batch=12, micro_batch=3, world_size=world_size, rank=rank
        )
        return micro_batches_at(2, order, masker, pad_id=0, device=torch.device("cpu"))

    alone = at(1, 0)
    shared = sorted([*at(2, 0), *at(2, 1)], key=lambda batch: batch.number)
    assert [b.number for b in alone] == [b.number for b in shared] == [0, 1, 2, 3]
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one.input_ids_BL, two.input_ids_BL)
        assert torch.equal(one.labels_BL, two.labels_BL)
        assert one.counts == two.counts
        assert int((one.labels_BL != IGNORED).sum()) == one.counts.masked > 0


def test_an_attention_mask_only_where_rows_are_padded(
    store: TokenStore, tiny_teacher: Path
) -> None:
    masker = Masker(
        read_tokenizer(tiny_teacher), np.ones(VOCABULARY, np.int64), Masking(share=0.3), seed=7
    )
    for micro_batch in (1, 6):
        order = BatchOrder(store, seed=7, global_batch=12, micro_batch=micro_batch)
        batches = micro_batches_at(0, order, masker, pad_id=0, device=torch.device("cpu"))
        for batch in batches:
            padded = int(batch.counts.attended) < batch.input_ids_BL.numel()
            assert (batch.attention_mask_BL is not None) == padded
        assert any(b.attention_mask_BL is not None for b in batches) == (micro_batch == 6)


def test_prefetch_returns_every_step_and_prepares_the_next_one() -> None:
    requested: list[int] = []
    second_began = threading.Event()

    def batches_at(step: int) -> list[MicroBatch]:
        requested.append(step)
        if step == 6:
            second_began.set()
        return [step]  # type: ignore[list-item]

    with prefetch(batches_at, steps=8) as prefetched:
        assert prefetched(5) == [5]
        assert second_began.wait(10)
        assert [prefetched(6), prefetched(7)] == [[6], [7]]
    assert requested == [5, 6, 7]


def test_prefetch_raises_the_errors_of_its_thread() -> None:
    def batches_at(step: int) -> list[MicroBatch]:
        raise OSError("the shard is gone")

    with (
        prefetch(batches_at, steps=2) as prefetched,
        pytest.raises(OSError, match="the shard is gone"),
    ):
        prefetched(0)
