"""Batches of texts of similar length, within a limit of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
# Token ids and token types of a text.
Framed = tuple[list[int], list[int]]


@dataclass(frozen=True)
class PaddedBatch:
    """Texts of one call.

    Attributes:
        indices: Numbers of the texts among those that were batched.
        ids_BL: Token ids.
        mask_BL: 1 at tokens, 0 at padding.
        type_ids_BL: Token types.
    """

    indices: list[int]
    ids_BL: Ids
    mask_BL: Ids
    type_ids_BL: Ids


def batch_indices(lengths: Sequence[int], *, max_tokens: int) -> Iterator[list[int]]:
    """Yields numbers of texts, so that a batch has few padded positions.

    Texts are ordered by length, the longest first: a size that does not fit into memory fails at
    once. A text that is longer than the limit is a batch by itself.

    Args:
        lengths: Tokens of each text.
        max_tokens: Positions of a batch at most, padding included.
    """
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        # The first text of a batch is its longest one.
        longest = longest or max(1, lengths[index])
        if batch and (len(batch) + 1) * longest > max_tokens:
            yield batch
            batch, longest = [], max(1, lengths[index])
        batch.append(index)
    if batch:
        yield batch


def pad_batch(
    texts: Sequence[Framed], indices: list[int], *, pad_id: int, on_the_left: bool
) -> PaddedBatch:
    """Pads texts to the longest of a batch.

    Args:
        texts: All texts.
        indices: Those of the batch.
        pad_id: Token id at padded positions.
        on_the_left: Whether padding comes before the tokens.
    """
    longest = max(1, *(len(texts[index][0]) for index in indices))
    shape = (len(indices), longest)
    ids_BL = np.full(shape, pad_id, np.int64)
    mask_BL, type_ids_BL = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, index in enumerate(indices):
        ids, type_ids = texts[index]
        place = slice(longest - len(ids), longest) if on_the_left else slice(0, len(ids))
        ids_BL[row, place], mask_BL[row, place], type_ids_BL[row, place] = ids, 1, type_ids
    return PaddedBatch(indices, ids_BL, mask_BL, type_ids_BL)
