"""Which rows a rank reads at a step: a pure function of the step, so that resuming needs nothing but its number.

The global order does not know about ranks or micro-batches. Rows are shuffled anew each epoch; for `lines` they come in
groups of like length, so that little of a batch is padding. What does not fill a global batch at an epoch's end goes
on into the next epoch (for `lines`, fewer rows than a group are left out of an epoch, other ones each time).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.core.errors import CorpusError, InputError
from edgedistil.data.counter_rng import key_of, permuted
from edgedistil.data.token_store import TokenStore

_MOST_GROUP = 64


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank; int64, rows padded to the longest of them.

    `places_B` says where each row stands in the step's global batch, whatever the rank and the size of a micro-batch:
    `masking.generator_for(seed, step, batch.places_B)` draws from it.
    """

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    places_B: Tensor


class BatchOrder:
    """The order in which a training run reads a store.

    Every rank gets the same number of micro-batches of the same size, and those of one micro-step hold rows of
    neighbouring lengths, so ranks wait little for each other. Micro-batches are made of the global batch and then dealt
    out: one process and two read the very same micro-batches when their size is the same.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        """
        Args:
            store: What is read.
            seed: Of the order.
            global_batch: Rows of an optimizer step over all ranks.
            micro_batch: Most rows of a forward pass on one rank; fewer where the global batch asks for it.
            world_size: Number of ranks.
            rank: This one, from 0.
        Raises:
            InputError: The world size does not divide the global batch.
            CorpusError: The store is empty.
        """
        if global_batch % world_size:
            raise InputError(
                f"world size {world_size} does not divide the global batch {global_batch}",
                hint=f"set train.global_batch to a multiple of {world_size}, or start another number of processes",
            )
        if len(store) == 0:
            raise CorpusError("there are no rows to train on")
        self._store, self._seed = store, seed
        self._global_batch, self._world_size, self._rank = global_batch, world_size, rank
        self.micro_batch = _micro_batch(global_batch // world_size, micro_batch)
        self._starts = store.bucket_starts()
        self._group = _group(global_batch, len(store)) if store.row_length is None else 1
        self._groups = len(store) // self._group  # of an epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that an epoch takes, the last one shared with the next epoch."""
        return -(-self._groups * self._group // self._global_batch)

    @property
    def micro_batches_per_step(self) -> int:
        """Of each rank."""
        return self._global_batch // self._world_size // self.micro_batch

    def micro_batches(self, step: int, *, pad_id: int = 0) -> list[Batch]:
        """This rank's micro-batches of an optimizer step, longest rows first."""
        rows = self.rows(step)
        mine = range(self._rank, len(rows) // self.micro_batch, self._world_size)
        return [self._batch(rows, index * self.micro_batch, pad_id) for index in mine]

    def rows(self, step: int) -> NDArray[np.int64]:
        """The store's rows of a step's global batch, the same on every rank; for `lines` by falling length."""
        per_step = self._global_batch // self._group
        places = np.arange(step * per_step, (step + 1) * per_step)
        epochs = places // self._groups
        parts = [
            self._rows_of(int(epoch), places[epochs == epoch] % self._groups)
            for epoch in np.unique(epochs)
        ]
        rows = np.concatenate(parts)
        if self._store.row_length is not None:
            return rows
        return rows[np.argsort(-self._store.row_lengths(rows), kind="stable")]

    def _rows_of(self, epoch: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the groups at these places of an epoch's shuffled order."""
        chosen = permuted(groups, self._groups, key=key_of(self._seed, "groups", epoch))
        if self._group == 1:
            return self._store.rows_by_bucket(chosen)
        spare = len(self._store) - self._groups * self._group
        first = key_of(self._seed, "spare", epoch) % (spare + 1)
        places = (chosen[:, None] * self._group + np.arange(self._group)).ravel() + first
        return self._store.rows_by_bucket(self._shuffled_within_buckets(places, epoch))

    def _shuffled_within_buckets(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        result = np.empty_like(places)
        buckets = np.searchsorted(self._starts, places, side="right") - 1
        for bucket in np.unique(buckets):
            here = buckets == bucket
            start, stop = int(self._starts[bucket]), int(self._starts[bucket + 1])
            key = key_of(self._seed, "bucket", epoch, int(bucket))
            result[here] = start + permuted(places[here] - start, stop - start, key=key)
        return result

    def _batch(self, rows: NDArray[np.int64], first: int, pad_id: int) -> Batch:
        ids = [self._store[int(row)] for row in rows[first : first + self.micro_batch]]
        places = torch.arange(first, first + len(ids))
        return Batch(*padded(ids, pad_id=pad_id), places)


def padded(rows: list[NDArray[np.int64]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of rows padded at their ends to the longest, int64 (B, L)."""
    lengths = np.array([len(row) for row in rows])
    attended_BL = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids_BL = np.full(attended_BL.shape, pad_id, np.int64)
    ids_BL[attended_BL] = np.concatenate(rows)
    return torch.from_numpy(ids_BL), torch.from_numpy(attended_BL.astype(np.int64))


def _micro_batch(rows: int, most: int) -> int:
    """Rows of a micro-batch: the largest divisor of a rank's rows that is not above `most`."""
    return next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)


def _group(global_batch: int, rows: int) -> int:
    """Rows that travel together because of their length: a divisor of the global batch, so steps hold whole groups."""
    return next(
        size
        for size in range(min(global_batch, rows, _MOST_GROUP), 0, -1)
        if global_batch % size == 0
    )
