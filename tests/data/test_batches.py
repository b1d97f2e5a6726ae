"""The order of the data is a pure function of the step, whatever the number of ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.core.errors import CorpusError, InputError
from edgedistil.data.batches import BatchOrder, TokenBatch
from edgedistil.data.masking import mask_bert, mask_rarity, row_generator
from edgedistil.data.token_store import StoreWriter, TokenStore

V = 1009


def make_store(folder: Path, lengths: list[int], *, row_length: int | None) -> TokenStore:
    """Row n is n+5 repeated."""
    writer = StoreWriter(folder, vocabulary=V, row_length=row_length)
    for number, length in enumerate(lengths):
        writer.append(np.full(length, number + 5), np.array([length]))
    writer.close()
    return TokenStore(folder)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return make_store(tmp_path_factory.mktemp("packed") / "s", [7] * 101, row_length=7)


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    lengths = np.random.default_rng(3).integers(12, 90, 487).tolist()
    return make_store(tmp_path_factory.mktemp("lines") / "s", lengths, row_length=None)


def rows_of(batch: TokenBatch) -> list[int]:
    return (batch.input_ids_BL[:, 0] - 5).tolist()


def test_an_epoch_reads_every_packed_row_once_and_goes_on_into_the_next(packed: TokenStore) -> None:
    order = BatchOrder(packed, seed=1, global_batch=8, micro_batch=4)
    read = np.concatenate([order.rows(step) for step in range(2 * 101 // 8 + 1)])
    assert sorted(read[:101].tolist()) == list(range(101))
    assert sorted(read[101:202].tolist()) == list(range(101))
    assert read[:101].tolist() != read[101:202].tolist()


def test_an_epoch_of_lines_leaves_out_less_than_a_group_and_other_rows_each_time(
    lines: TokenStore,
) -> None:
    order = BatchOrder(lines, seed=1, global_batch=32, micro_batch=8)
    left_out = []
    for epoch in range(3):
        read = np.concatenate([order.rows(step) for step in range(15 * epoch, 15 * (epoch + 1))])
        assert len(set(read.tolist())) == len(read) == 480
        left_out.append(set(range(487)) - set(read.tolist()))
    assert len(left_out[0] | left_out[1] | left_out[2]) > 7


def test_a_global_batch_larger_than_the_store_is_filled_from_several_epochs(
    packed: TokenStore, lines: TokenStore
) -> None:
    for store in (packed, lines):
        order = BatchOrder(store, seed=1, global_batch=1024, micro_batch=64)
        assert sum(len(rows_of(batch)) for batch in order.micro_batches(0)) == 1024
        counts = np.bincount(order.rows(0), minlength=len(store))
        assert counts.max() <= 1024 // len(store) + 2


@pytest.mark.parametrize("kind", ["packed", "lines"])
def test_a_step_is_the_same_asked_again_in_any_order(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue(kind)
    order, again = (BatchOrder(store, seed=5, global_batch=16, micro_batch=8) for _ in range(2))
    first = [order.micro_batches(step) for step in range(40)]
    for step in (39, 0, 17):
        for one, other in zip(first[step], again.micro_batches(step), strict=True):
            assert torch.equal(one.input_ids_BL, other.input_ids_BL)
            assert torch.equal(one.attention_mask_BL, other.attention_mask_BL)
            assert torch.equal(one.row_indices_B, other.row_indices_B)
    other_seed = BatchOrder(store, seed=6, global_batch=16, micro_batch=8)
    assert other_seed.rows(0).tolist() != order.rows(0).tolist()


@pytest.mark.parametrize("kind", ["packed", "lines"])
@settings(deadline=None, max_examples=30)
@given(
    world=st.sampled_from([1, 2, 3, 4, 6]),
    micro=st.sampled_from([1, 2, 5, 8, 24]),
    step=st.integers(0, 60),
)
def test_ranks_share_the_global_batch_whatever_their_number(
    packed, lines, kind, world, micro, step
) -> None:
    store = packed if kind == "packed" else lines
    orders = [
        BatchOrder(store, seed=5, global_batch=24, micro_batch=micro, world_size=world, rank=rank)
        for rank in range(world)
    ]
    parts = [order.micro_batches(step) for order in orders]
    assert {len(part) for part in parts} == {24 // world // orders[0].micro_batch}
    placed = {}
    for batch in (batch for part in parts for batch in part):
        assert len(rows_of(batch)) == orders[0].micro_batch <= micro
        placed.update(zip(batch.row_indices_B.tolist(), rows_of(batch), strict=True))
    assert [placed[place] for place in range(24)] == orders[0].rows(step).tolist()
    one_process = BatchOrder(store, seed=5, global_batch=24, micro_batch=24)
    assert orders[0].rows(step).tolist() == one_process.rows(step).tolist()


def test_ranks_do_about_the_same_work_and_pad_little(lines: TokenStore) -> None:
    orders = [
        BatchOrder(lines, seed=5, global_batch=32, micro_batch=8, world_size=2, rank=rank)
        for rank in (0, 1)
    ]
    width, tokens, waiting = 0, 0, 0
    for step in range(30):
        for one, other in zip(*(order.micro_batches(step) for order in orders), strict=True):
            waiting += abs(one.input_ids_BL.shape[1] - other.input_ids_BL.shape[1])
            width += one.input_ids_BL.numel() + other.input_ids_BL.numel()
            tokens += int(one.attention_mask_BL.sum() + other.attention_mask_BL.sum())
    assert waiting / (30 * 2) < 4  # tokens of width that the faster rank waits for
    assert tokens / width > 0.93


def test_the_longest_rows_come_first(lines: TokenStore) -> None:
    order = BatchOrder(lines, seed=5, global_batch=128, micro_batch=8)
    widths = [batch.input_ids_BL.shape[1] for batch in order.micro_batches(3)]
    assert widths == sorted(widths, reverse=True)


def test_padding_is_marked_and_filled(lines: TokenStore) -> None:
    for batch in BatchOrder(lines, seed=5, global_batch=16, micro_batch=16).micro_batches(
        0, pad_id=1
    ):
        assert batch.input_ids_BL.dtype == batch.attention_mask_BL.dtype == torch.int64
        lengths = [len(lines[row]) for row in rows_of(batch)]
        assert batch.attention_mask_BL.sum(1).tolist() == lengths
        assert (batch.input_ids_BL[batch.attention_mask_BL == 0] == 1).all()
        assert (batch.input_ids_BL[batch.attention_mask_BL == 1] != 1).all()


def masked(order: BatchOrder, step: int, kind: str) -> dict[int, list[int]]:
    """Return the masked ids of each row of the global batch, without padding."""
    settings = {"share": 0.3, "mask_id": 4, "vocabulary": V, "special_ids": range(5)}
    masked_rows = {}
    for batch in order.micro_batches(step):
        generator = row_generator(7, step, batch.row_indices_B)
        ids, attended = batch.input_ids_BL, batch.attention_mask_BL
        if kind == "bert":
            result = mask_bert(ids, attended, generator=generator, **settings)
        else:
            result = mask_rarity(
                ids,
                attended,
                generator=generator,
                **settings,
                token_weights_V=torch.ones(V).double(),
            )
        for place, row, length in zip(
            batch.row_indices_B.tolist(), result.input_ids_BL, attended.sum(1), strict=True
        ):
            masked_rows[place] = row[:length].tolist()
    return masked_rows


@pytest.mark.parametrize("mask", ["bert", "rarity"])
@pytest.mark.parametrize("kind", ["packed", "lines"])
def test_one_process_and_two_ranks_mask_alike(
    kind: str, mask: str, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue(kind)
    alone = BatchOrder(store, seed=5, global_batch=24, micro_batch=6)
    both = [
        BatchOrder(store, seed=5, global_batch=24, micro_batch=6, world_size=2, rank=rank)
        for rank in (0, 1)
    ]
    for step in (0, 41):
        assert masked(both[0], step, mask) | masked(both[1], step, mask) == masked(
            alone, step, mask
        )


def test_berts_masks_do_not_depend_on_the_micro_batch(lines: TokenStore) -> None:
    small, large = (
        BatchOrder(lines, seed=5, global_batch=24, micro_batch=micro) for micro in (3, 24)
    )
    assert masked(small, 2, "bert") == masked(large, 2, "bert")


def test_a_world_size_that_does_not_divide_the_global_batch_is_refused(packed: TokenStore) -> None:
    with pytest.raises(
        InputError, match=r"world size 3 does not divide the global batch 32\n.*multiple of 3"
    ):
        BatchOrder(packed, seed=1, global_batch=32, micro_batch=8, world_size=3)


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no rows to train on"):
        BatchOrder(
            make_store(tmp_path / "s", [], row_length=7), seed=1, global_batch=8, micro_batch=8
        )
