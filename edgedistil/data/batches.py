"""The order of the data: which rows a rank reads at a step.

A pure function of the step, so that resuming needs nothing but the step's number. The global order
does not depend on ranks or micro-batches. Rows are shuffled again each epoch; for `lines` they come
in groups of similar length, so that little of a batch is padding. Rows that do not fill a global
batch at the end of an epoch continue into the next epoch (for `lines`, fewer rows than a group are
left out of an epoch, different ones each time).

A batch has three forms on its way to the models: `TokenBatch` (here: rows as they are on disk,
padded), `masking.MaskedBatch` (tokens hidden, with labels), and the training loop's micro-batch (on
the device, with its token counts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.core.errors import CorpusError, InputError
from edgedistil.data.counter_rng import permute, stream_key
from edgedistil.data.token_store import TokenStore

# Rows of similar length that are shuffled as one. Larger groups would leave more rows out of an
# epoch and mix less; smaller ones would pad more.
_MAX_GROUP_ROWS = 64


@dataclass(frozen=True)
class TokenBatch:
    """One micro-batch of one rank before masking.

    All tensors are int64; rows are padded to the longest of them.

    Attributes:
        input_ids_BL: Token ids.
        attention_mask_BL: 1 at tokens, 0 at padding.
        row_indices_B: Index of each row in the step's global batch, independent of rank and
            micro-batch size: `masking.row_generator` draws from it.
        rows_B: Number of each row in its store.
    """

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    row_indices_B: Tensor
    rows_B: NDArray[np.int64]


class BatchOrder:
    """The order in which a training run reads a store.

    Every rank gets the same number of micro-batches of the same size, and those of one micro-step
    hold rows of neighbouring lengths, so ranks wait little for each other. The global batch is cut
    into micro-batches first, which are then dealt to the ranks: one process and two read the very
    same micro-batches when their size is the same.
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
        """Prepares the order; nothing is read yet.

        Args:
            store: Rows to read.
            seed: Seed of the order.
            global_batch: Rows of an optimizer step over all ranks.
            micro_batch: Maximum rows of a forward pass on one rank; fewer if it does not divide a
                rank's rows.
            world_size: Number of ranks.
            rank: This rank, from 0.
        Raises:
            InputError: The world size does not divide the global batch.
            CorpusError: The store is empty.
        """
        # Every rank must get as many rows as the others, or an all-reduce would wait forever.
        if global_batch % world_size:
            raise InputError(
                f"world size {world_size} does not divide the global batch {global_batch}",
                hint=f"set train.global_batch to a multiple of {world_size}, "
                "or start another number of processes",
            )
        if len(store) == 0:
            raise CorpusError("there are no rows to train on")
        self._store, self._seed = store, seed
        self._global_batch, self._world_size, self._rank = global_batch, world_size, rank
        self.micro_batch = micro_batch_rows(
            global_batch=global_batch, micro_batch=micro_batch, processes=world_size
        )

        # Only rows of different lengths are grouped: packed rows are shuffled one by one.
        self._bucket_starts = store.bucket_starts()
        self._group_rows = 1
        if store.row_length is None:
            # A divisor of the global batch, so that a step has entire groups.
            self._group_rows = _largest_divisor(global_batch, min(len(store), _MAX_GROUP_ROWS))
        self._groups_per_epoch = len(store) // self._group_rows

    def micro_batches(self, step: int, *, pad_id: int = 0) -> list[TokenBatch]:
        """Returns this rank's micro-batches of an optimizer step, longest rows first."""
        rows = self.rows(step)
        # Dealt in turn, so that micro-batches of neighbouring lengths run at the same time.
        numbers = range(self._rank, len(rows) // self.micro_batch, self._world_size)
        return [self._batch(rows, number * self.micro_batch, pad_id) for number in numbers]

    def rows(self, step: int) -> NDArray[np.int64]:
        """Returns the rows of a step's global batch, the same on every rank.

        They are row numbers of the store; for `lines` they are sorted by falling length.
        """
        groups_per_step = self._global_batch // self._group_rows
        places = np.arange(step * groups_per_step, (step + 1) * groups_per_step)
        # A step may reach over the end of an epoch, or over several for a small store.
        epochs = places // self._groups_per_epoch
        parts = []
        for epoch in np.unique(epochs).tolist():
            in_epoch = places[epochs == epoch] % self._groups_per_epoch
            parts.append(self._rows_of_groups(epoch, in_epoch))
        rows = np.concatenate(parts)
        # Rows of `lines` are sorted so that a micro-batch holds neighbouring lengths. Stable: equal
        # lengths come in the same order on every rank.
        if self._store.row_length is not None:
            return rows
        return rows[np.argsort(-self._store.row_lengths(rows), kind="stable")]

    def _rows_of_groups(self, epoch: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the groups at these places of an epoch's shuffled order."""
        key = stream_key(self._seed, "groups", epoch)
        groups = permute(places, self._groups_per_epoch, key=key)
        if self._group_rows == 1:
            return self._store.rows_by_bucket(groups)

        # The rows that fill no group are left out at a random end of the order by length.
        spare = len(self._store) - self._groups_per_epoch * self._group_rows
        first = stream_key(self._seed, "spare", epoch) % (spare + 1)
        inside = np.arange(self._group_rows)
        sorted_places = (groups[:, None] * self._group_rows + inside).ravel() + first
        return self._store.rows_by_bucket(self._shuffle_within_buckets(sorted_places, epoch))

    def _shuffle_within_buckets(self, places: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Exchanges rows within a length bucket: a group has other rows each epoch."""
        # A permutation inside of a bucket keeps the order by length.
        result = np.empty_like(places)
        buckets = np.searchsorted(self._bucket_starts, places, side="right") - 1
        for bucket in np.unique(buckets).tolist():
            here = buckets == bucket
            start, stop = self._bucket_starts[bucket : bucket + 2].tolist()
            key = stream_key(self._seed, "bucket", epoch, bucket)
            result[here] = start + permute(places[here] - start, stop - start, key=key)
        return result

    def _batch(self, rows: NDArray[np.int64], first: int, pad_id: int) -> TokenBatch:
        rows_B = rows[first : first + self.micro_batch]
        ids = [self._store[row] for row in rows_B.tolist()]
        input_ids_BL, attention_mask_BL = pad_rows(ids, pad_id=pad_id)
        indices_B = torch.arange(first, first + len(ids))
        return TokenBatch(input_ids_BL, attention_mask_BL, indices_B, rows_B)


def pad_rows(rows: list[NDArray[np.int64]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Pads rows at their ends to the longest of them.

    Returns:
        Ids and attention mask, int64, shape (B, L).
    """
    # One masked assignment instead of a copy for each row.
    lengths = np.array([len(row) for row in rows])
    attended_BL = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids_BL = np.full(attended_BL.shape, pad_id, np.int64)
    ids_BL[attended_BL] = np.concatenate(rows)
    return torch.from_numpy(ids_BL), torch.from_numpy(attended_BL.astype(np.int64))


def micro_batch_rows(*, global_batch: int, micro_batch: int, processes: int) -> int:
    """Returns the rows of a forward pass on one rank: all of its micro-batches have as many.

    Args:
        global_batch: Rows of an optimizer step over all ranks; a multiple of `processes`.
        micro_batch: Maximum rows of a forward pass.
        processes: Number of ranks.
    """
    return _largest_divisor(global_batch // processes, micro_batch)


def _largest_divisor(number: int, maximum: int) -> int:
    """Largest divisor of `number` that is at most `maximum`."""
    candidates = range(min(number, maximum), 0, -1)
    return next(divisor for divisor in candidates if number % divisor == 0)
