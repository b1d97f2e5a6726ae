"""What the loop eats: a step's micro-batches, masked and on the device, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from edgedistil.data.batches import BatchOrder, TokenBatch
from edgedistil.data.masking import (
    MaskedBatch,
    mask_bert,
    mask_rarity,
    rarity_weights,
    row_generator,
)
from edgedistil.distill.losses import TokenCounts, count_tokens


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        number: Its place among the micro-batches of the step over all processes; its dropout is seeded with it.
        attention_mask_BL: None where nothing is padded: attention is faster without.
        counts: Its tokens.
    """

    number: int
    input_ids_BL: Tensor
    attention_mask_BL: Tensor | None
    labels_BL: Tensor
    counts: TokenCounts


BatchesAt: TypeAlias = Callable[[int], list[MicroBatch]]
"""This process's micro-batches of a step."""


class Masker:
    """Masks batches: BERT's way or the original DistilBERT's, where rare tokens are chosen more often."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        token_counts_V: NDArray[np.int64],
        *,
        kind: Literal["bert", "rarity"],
        share: float,
        rarity_exponent: float,
        seed: int,
    ) -> None:
        self._share, self._seed = share, seed
        self._mask_id: int = tokenizer.mask_token_id
        self._special: Sequence[int] = tokenizer.all_special_ids
        self._vocabulary = len(token_counts_V)
        self._weights_V = None
        if kind == "rarity":
            counts_V = torch.from_numpy(token_counts_V)
            self._weights_V = rarity_weights(
                counts_V, exponent=rarity_exponent, special_ids=self._special
            )

    def mask(self, batch: TokenBatch, *, step: int, purpose: str = "mask") -> MaskedBatch:
        generator = row_generator(self._seed, step, batch.row_indices_B, purpose=purpose)
        if self._weights_V is None:
            return mask_bert(
                batch.input_ids_BL,
                batch.attention_mask_BL,
                generator=generator,
                share=self._share,
                mask_id=self._mask_id,
                vocabulary=self._vocabulary,
                special_ids=self._special,
            )
        return mask_rarity(
            batch.input_ids_BL,
            batch.attention_mask_BL,
            generator=generator,
            share=self._share,
            mask_id=self._mask_id,
            vocabulary=self._vocabulary,
            special_ids=self._special,
            token_weights_V=self._weights_V,
        )


def micro_batches_at(
    step: int,
    order: BatchOrder,
    masker: Masker,
    *,
    pad_id: int,
    device: torch.device,
    purpose: str = "mask",
) -> list[MicroBatch]:
    """This process's micro-batches of a step."""
    return [
        _micro_batch(
            batch, masker.mask(batch, step=step, purpose=purpose), order.micro_batch, device
        )
        for batch in order.micro_batches(step, pad_id=pad_id)
    ]


@contextmanager
def ahead(batches_at: BatchesAt, *, steps: int) -> Iterator[BatchesAt]:
    """`batches_at`, with the next step's batches made by a thread while this step is computed.

    On a GPU, reading and masking 4,096 sequences would otherwise keep it waiting. Batches are a function of the step,
    so nothing depends on the thread's pace.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed") as reader:
        coming: dict[int, Future[list[MicroBatch]]] = {}

        def at(step: int) -> list[MicroBatch]:
            now = coming.pop(step, None) or reader.submit(batches_at, step)
            if step + 1 < steps:
                coming[step + 1] = reader.submit(batches_at, step + 1)
            return now.result()

        yield at


def _micro_batch(
    batch: TokenBatch, masked: MaskedBatch, size: int, device: torch.device
) -> MicroBatch:
    counts = count_tokens(
        masked.labels_BL, batch.attention_mask_BL
    )  # before the move: no waiting for a device
    padded = int(counts.attended) < batch.input_ids_BL.numel()
    return MicroBatch(
        number=int(batch.row_indices_B[0]) // size,
        input_ids_BL=masked.input_ids_BL.to(device, non_blocking=True),
        attention_mask_BL=batch.attention_mask_BL.to(device, non_blocking=True) if padded else None,
        labels_BL=masked.labels_BL.to(device, non_blocking=True),
        counts=counts,
    )
