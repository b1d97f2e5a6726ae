"""The teacher's vectors are computed for blocks of rows only where that saves work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.data.batches import BatchOrder
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.distill import targets
from edgedistil.distill.targets import BLOCK_ROWS, TeacherTargets, is_worth_reusing

ROWS, BATCH = 4001, 16


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    lengths = np.random.default_rng(3).integers(3, 40, ROWS)
    writer = StoreWriter(tmp_path / "store", vocabulary=100, row_length=None)
    writer.append(np.ones(lengths.sum(), dtype=np.uint16), lengths)
    writer.close()
    return TokenStore(tmp_path / "store")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of texts that were encoded at once."""
    counts: list[int] = []

    def encode(encoder: object, ids_BL: Tensor, mask_BL: Tensor | None) -> Tensor:
        counts.append(len(ids_BL))
        return torch.zeros(len(ids_BL), 7)

    monkeypatch.setattr(targets, "encode_vectors", encode)
    return counts


def asked_rows(store: TokenStore, *, steps: int) -> NDArray[np.int64]:
    order = BatchOrder(store, seed=5, global_batch=BATCH, micro_batch=BATCH)
    return np.concatenate([order.rows(step) for step in range(steps)])


def test_blocks_encode_many_texts_for_a_short_run_and_each_text_once_for_a_long_one(
    store: TokenStore, encoded: list[int]
) -> None:
    teacher = TeacherTargets(None, store, pad_id=0, device=torch.device("cpu"))  # type: ignore[arg-type]
    few = asked_rows(store, steps=10)
    teacher.vectors(few)
    # The reason for the rule: a step draws its rows from many blocks.
    assert sum(encoded) > 10 * len(few)
    assert not is_worth_reusing(len(few) / ROWS, rows=ROWS, dimension=7)

    many = asked_rows(store, steps=2 * ROWS // BATCH)
    teacher.vectors(many)
    assert sum(encoded) <= ROWS
    assert max(encoded) == BLOCK_ROWS
    assert is_worth_reusing(len(many) / ROWS, rows=ROWS, dimension=7)


def test_vectors_that_do_not_fit_into_memory_are_not_reused() -> None:
    assert is_worth_reusing(3.0, rows=2**20, dimension=512)
    assert not is_worth_reusing(3.0, rows=2**20, dimension=513)
