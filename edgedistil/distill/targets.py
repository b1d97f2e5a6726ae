"""Sentence vectors that a student learns: the teacher's own, or those of a file."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.data.batches import pad_rows
from edgedistil.data.token_store import TokenStore
from edgedistil.models.fast.encoder import encode
from edgedistil.models.sentence_encoder import SentenceEncoder

# Largest memory of computed vectors.
MEMORY_BYTES = 2 * 2**30
# Rows that the teacher encodes at once. Part of the vectors' last bits: a MatMul of other rows may
# add in another order.
BLOCK_ROWS = 64


class Targets(Protocol):
    """Source of the sentence vectors of a store's rows."""

    def vectors(self, rows_B: NDArray[np.int64]) -> Tensor:
        """Returns the vectors of rows, float32, (B, V)."""


def is_worth_reusing(passes: float, *, rows: int, dimension: int) -> bool:
    """Whether a process computes the vectors of all rows (`TeacherTargets`), not of each batch.

    A block has the rows of many batches, so in less than one pass most of it would be computed for
    nothing. A function of the recipe, the text and the number of processes: a resumed run computes
    as the interrupted one did.

    Args:
        passes: How often the process reads the text.
        rows: Rows of the text.
        dimension: Values of a vector.
    """
    return passes >= 1 and vectors_bytes(rows=rows, dimension=dimension) <= MEMORY_BYTES


def vectors_bytes(*, rows: int, dimension: int) -> int:
    """Returns the memory of float32 vectors."""
    return rows * dimension * np.dtype(np.float32).itemsize


def encode_vectors(
    encoder: SentenceEncoder, input_ids_BL: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    """Returns sentence vectors in float32, (B, V), with the states computed by the fast path."""
    states_BLD = encode(encoder.backbone, input_ids_BL, attention_mask_BL)
    return pooled_vectors(encoder, states_BLD, attention_mask_BL)


def pooled_vectors(
    encoder: SentenceEncoder, states_BLD: Tensor, attention_mask_BL: Tensor | None
) -> Tensor:
    """Returns the sentence vectors of states, computed in float32, (B, V)."""
    mask_BL = attention_mask_BL
    if mask_BL is None:
        mask_BL = torch.ones(states_BLD.shape[:2], dtype=torch.int64, device=states_BLD.device)
    # A mean of many 16-bit states would lose digits.
    with torch.autocast(states_BLD.device.type, enabled=False):
        return encoder.vectors(states_BLD.float(), mask_BL)


class TeacherTargets:
    """The teacher's vectors of a store's rows, computed once for each block of rows.

    Blocks are consecutive rows in the order of length, so a vector does not depend on the batch
    that asks for it, and a file of these vectors is equal to them in every bit.
    """

    def __init__(
        self, teacher: SentenceEncoder, store: TokenStore, *, pad_id: int, device: torch.device
    ) -> None:
        """Computes nothing yet.

        Args:
            teacher: The teacher, on the device.
            store: Its rows are texts.
            pad_id: Token of padded positions.
            device: Where it computes.
        """
        self._teacher, self._store = teacher, store
        self._pad_id, self._device = pad_id, device
        self._rows = store.rows_by_bucket(np.arange(len(store)))
        self._places = np.empty(len(store), np.int64)
        self._places[self._rows] = np.arange(len(store))
        self._blocks: dict[int, Tensor] = {}

    def vectors(self, rows_B: NDArray[np.int64]) -> Tensor:
        """Returns the vectors of rows, float32, (B, V)."""
        places_B = self._places[rows_B]
        parts = [
            self._block(place // BLOCK_ROWS)[place % BLOCK_ROWS] for place in places_B.tolist()
        ]
        return torch.stack(parts).to(self._device)

    def _block(self, block: int) -> Tensor:
        if block not in self._blocks:
            rows = self._rows[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS].tolist()
            ids_BL, mask_BL = pad_rows([self._store[row] for row in rows], pad_id=self._pad_id)
            is_padded = not bool(mask_BL.all())
            # The same with and without the loop's autocast, for the same bits.
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                vectors_BV = encode_vectors(
                    self._teacher,
                    ids_BL.to(self._device),
                    mask_BL.to(self._device) if is_padded else None,
                )
            self._blocks[block] = vectors_BV.cpu()
        return self._blocks[block]


class FileTargets:
    """Vectors of a file, one for each row of a store."""

    def __init__(self, vectors_RV: NDArray[np.float32], *, device: torch.device) -> None:
        """Takes the vectors of all rows, in the order of the rows."""
        self._vectors_RV, self._device = vectors_RV, device

    def vectors(self, rows_B: NDArray[np.int64]) -> Tensor:
        """Returns the vectors of rows, float32, (B, V)."""
        return torch.from_numpy(self._vectors_RV[rows_B]).to(self._device)
