"""Batches of texts: every text once, few padded positions, never more than the limit."""

from __future__ import annotations

import numpy as np
import pytest

from edgedistil.inference.batching import batch_indices, pad_batch, within_positions


@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_in_one_batch_within_the_limit(seed: int) -> None:
    lengths = [int(length) for length in np.random.default_rng(seed).integers(1, 60, 100)]
    batches = list(batch_indices(lengths, largest_batch=within_positions(128)))
    assert sorted(index for batch in batches for index in batch) == list(range(100))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) * longest <= 128
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert padded < 1.3 * sum(lengths), "texts of similar length share a batch"


def test_a_text_above_the_limit_is_alone() -> None:
    batches = batch_indices([3, 200, 4], largest_batch=within_positions(10))
    assert list(batches) == [[1], [2, 0]]


def test_no_texts_and_empty_texts() -> None:
    limit = within_positions(10)
    assert list(batch_indices([], largest_batch=limit)) == []
    assert list(batch_indices([0, 0], largest_batch=limit)) == [[0, 1]]


def test_padding_on_either_side() -> None:
    texts = [([5, 6, 7], [0, 0, 1]), ([8], [0])]
    right = pad_batch(texts, [0, 1], pad_id=9, on_the_left=False)
    assert right.ids_BL.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert right.mask_BL.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert right.type_ids_BL.tolist() == [[0, 0, 1], [0, 0, 0]]
    left = pad_batch(texts, [1, 0], pad_id=9, on_the_left=True)
    assert left.ids_BL.tolist() == [[9, 9, 8], [5, 6, 7]]
    assert left.mask_BL.tolist() == [[0, 0, 1], [1, 1, 1]]
