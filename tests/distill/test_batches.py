from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistil.data.batches import BatchOrder
from edgedistil.data.masking import IGNORED
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill.batches import Masker, MicroBatch, ahead, micro_batches_at
from edgedistil.models.teacher import read_tokenizer

VOCABULARY = 82


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    """37 rows of 5 to 23 tokens."""
    writer = StoreWriter(tmp_path / "store", vocabulary=VOCABULARY, row_length=None)
    chosen = np.random.default_rng(3)
    for _ in range(37):
        row = chosen.integers(5, VOCABULARY, size=chosen.integers(5, 24))
        writer.append(row, np.array([len(row)]))
    writer.close()
    yield TokenStore(tmp_path / "store")


@pytest.mark.parametrize("kind", ["bert", "rarity"])
def test_ranks_share_the_micro_batches_of_one(
    kind: str, store: TokenStore, tiny_teacher: Path
) -> None:
    counts_V = np.ones(VOCABULARY, np.int64)
    masker = Masker(
        read_tokenizer(tiny_teacher),
        counts_V,
        kind=kind,
        share=0.3,
        rarity_exponent=0.7,
        seed=7,  # type: ignore[arg-type]
    )

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


def test_a_mask_only_where_something_is_padded(store: TokenStore, tiny_teacher: Path) -> None:
    masker = Masker(
        read_tokenizer(tiny_teacher),
        np.ones(VOCABULARY, np.int64),
        kind="bert",
        share=0.3,
        rarity_exponent=0,
        seed=7,
    )
    for micro_batch in (1, 6):
        order = BatchOrder(store, seed=7, global_batch=12, micro_batch=micro_batch)
        batches = micro_batches_at(0, order, masker, pad_id=0, device=torch.device("cpu"))
        for batch in batches:
            padded = int(batch.counts.attended) < batch.input_ids_BL.numel()
            assert (batch.attention_mask_BL is not None) == padded
        assert any(b.attention_mask_BL is not None for b in batches) == (micro_batch == 6)


def test_ahead_gives_every_step_in_order_and_works_on_the_next() -> None:
    asked: list[int] = []
    second_began = threading.Event()

    def batches_at(step: int) -> list[MicroBatch]:
        asked.append(step)
        if step == 6:
            second_began.set()
        return [step]  # type: ignore[list-item]

    with ahead(batches_at, steps=8) as coming:
        assert coming(5) == [5]
        assert second_began.wait(10)
        assert [coming(6), coming(7)] == [[6], [7]]
    assert asked == [5, 6, 7]


def test_ahead_raises_what_the_reader_raises() -> None:
    def batches_at(step: int) -> list[MicroBatch]:
        raise OSError("the shard is gone")

    with ahead(batches_at, steps=2) as coming, pytest.raises(OSError, match="the shard is gone"):
        coming(0)
