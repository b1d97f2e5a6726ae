"""Batches of texts of similar length, within a limit of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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


def batch_indices(
    lengths: Sequence[int], *, largest_batch: Callable[[int], int]
) -> Iterator[list[int]]:
    """Yields numbers of texts, so that a batch has few padded positions.

    Texts are ordered by length, the longest first: a size that does not fit into memory fails at
    once, and later batches fit into what the runtime has taken.

    Args:
        lengths: Tokens of each text.
        largest_batch: Most texts of a batch, at least 1, by the tokens of its longest text.
    """
    ordered = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    start = 0
    while start < len(ordered):
        # The first text of a batch is its longest one.
        count = max(1, largest_batch(max(1, lengths[ordered[start]])))
        yield ordered[start : start + count]
        start += count


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


def within_positions(positions: int) -> Callable[[int], int]:
    """Returns the `largest_batch` of calls with at most this many positions, padding included."""
    return lambda length: positions // length
