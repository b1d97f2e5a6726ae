"""Micro-batches of a step, masked and on the device, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedistil.core.recipe import Masking, Train
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.data.batches import BatchOrder, TokenBatch
from edgedistil.data.corpus import TokenizedCorpus
from edgedistil.data.masking import (
    IGNORED,
    MaskedBatch,
    mask_bert,
    mask_rarity,
    rarity_weights,
    row_generator,
)
from edgedistil.distill.losses import TokenCounts, count_tokens

# Rows of a held-out micro-batch. Without gradients more would fit, but gain nothing.
HELDOUT_BATCH_ROWS = 32


@dataclass(frozen=True)
class MicroBatch:
    """Input of one forward pass.

    Attributes:
        number: Index among the micro-batches of the step over all processes; seeds its dropout.
        input_ids_BL: Token ids after masking.
        attention_mask_BL: 1 at tokens, 0 at padding; None without padding, because attention is
            faster without a mask.
        labels_BL: The original token at masked positions, IGNORED elsewhere.
        counts: Number of its tokens.
        rows_B: Number of each row in its store; empty for rows of no store.
    """

    number: int
    input_ids_BL: Tensor
    attention_mask_BL: Tensor | None
    labels_BL: Tensor
    counts: TokenCounts
    rows_B: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


# Returns this process's micro-batches of a step.
BatchesAt: TypeAlias = Callable[[int], list[MicroBatch]]


class Masker:
    """Masks batches, as BERT does or, with `rarity`, as the original DistilBERT does."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        token_counts_V: NDArray[np.int64],
        settings: Masking,
        *,
        seed: int,
    ) -> None:
        """Takes the tokens from the tokenizer, and their rarity from the counts.

        Args:
            tokenizer: Has the mask token, and the tokens that are never masked.
            token_counts_V: Occurrences of each token in the corpus, shape (V,).
            settings, seed: Recipe section [masking], and the seed of the masks.
        """
        self._share, self._seed = settings.share, seed
        self._special_ids: Sequence[int] = tokenizer.special_ids
        self._mask_id = tokenizer.require("mask")
        # A matrix may be padded to more rows than there are tokens; no text has those ids.
        self._vocabulary = min(tokenizer.size, len(token_counts_V))
        self._weights_V: Tensor | None = None
        # Only masking by rarity has a weight for each token.
        if settings.kind == "rarity":
            counts_V, special_ids = torch.from_numpy(token_counts_V), self._special_ids
            exponent = settings.rarity_exponent
            self._weights_V = rarity_weights(counts_V, exponent=exponent, special_ids=special_ids)

    def mask(self, batch: TokenBatch, *, step: int, purpose: str = "mask") -> MaskedBatch:
        """Masks a batch; the masks are a function of seed, step, purpose and rows."""
        generator = row_generator(self._seed, step, batch.row_indices_B, purpose=purpose)
        if self._weights_V is None:
            return mask_bert(
                batch.input_ids_BL,
                batch.attention_mask_BL,
                generator=generator,
                share=self._share,
                mask_id=self._mask_id,
                vocabulary=self._vocabulary,
                special_ids=self._special_ids,
            )
        return mask_rarity(
            batch.input_ids_BL,
            batch.attention_mask_BL,
            generator=generator,
            share=self._share,
            mask_id=self._mask_id,
            vocabulary=self._vocabulary,
            special_ids=self._special_ids,
            token_weights_V=self._weights_V,
        )


def micro_batches_at(
    step: int,
    order: BatchOrder,
    masker: Masker | None,
    *,
    pad_id: int,
    device: torch.device,
    purpose: str = "mask",
) -> list[MicroBatch]:
    """Returns this process's micro-batches of a step.

    Args:
        step: Optimizer step, from 0.
        order: Selects the rows.
        masker: Masks them; None leaves every token visible.
        pad_id: Token of padded positions.
        device: Where the tensors are moved.
        purpose: Names the stream of random numbers that the masks come from.
    """
    batches = []
    for batch in order.micro_batches(step, pad_id=pad_id):
        if masker is None:
            masked = _unmasked(batch)
        else:
            masked = masker.mask(batch, step=step, purpose=purpose)
        batches.append(_micro_batch(batch, masked, order.micro_batch, device))
    return batches


class RunBatches:
    """Micro-batches of a run: of the training part by step, and of the held-out part."""

    def __init__(
        self,
        corpus: TokenizedCorpus,
        tokenizer: TextTokenizer,
        settings: Masking | None,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Prepares order and masks; nothing is read yet.

        Args:
            corpus: The corpus.
            tokenizer: The teacher's tokenizer.
            settings: Recipe section [masking]; None masks nothing.
            seed: Seed of order and masks.
            device: Where the tensors are moved.
        """
        self._corpus, self._seed, self._device = corpus, seed, device
        self._masker: Masker | None = None
        if settings is not None:
            self._masker = Masker(tokenizer, corpus.token_counts_V, settings, seed=seed)
        self._pad_id: int = tokenizer.pad_id

    def training(self, settings: Train, *, world_size: int, rank: int) -> BatchesAt:
        """Returns a function from a step to the micro-batches of one process."""
        order = BatchOrder(
            self._corpus.train,
            seed=self._seed,
            global_batch=settings.global_batch,
            micro_batch=settings.micro_batch,
            world_size=world_size,
            rank=rank,
        )
        # Another purpose would draw other masks.
        return lambda step: self._at(step, order, purpose="mask")

    def heldout(self, *, tokens: int) -> list[MicroBatch]:
        """Returns the held-out micro-batches of all processes: fixed rows, fixed masks.

        Args:
            tokens: Maximum number of tokens, up to the last row.
        """
        store = self._corpus.heldout
        # At least one row, at most all.
        rows = max(1, min(len(store), tokens * len(store) // store.tokens))
        # Full batches only, if there is more than one.
        if rows > HELDOUT_BATCH_ROWS:
            rows -= rows % HELDOUT_BATCH_ROWS
        order = BatchOrder(
            store, seed=self._seed, global_batch=rows, micro_batch=HELDOUT_BATCH_ROWS
        )
        return self._at(0, order, purpose="heldout")

    def _at(self, step: int, order: BatchOrder, *, purpose: str) -> list[MicroBatch]:
        return micro_batches_at(
            step, order, self._masker, pad_id=self._pad_id, device=self._device, purpose=purpose
        )


@contextmanager
def prefetch(batches_at: BatchesAt, *, steps: int) -> Iterator[BatchesAt]:
    """Yields `batches_at` that prepares the next step's batches in a thread.

    A GPU would otherwise wait while thousands of sequences are read and masked. Batches are a
    function of the step, so results do not depend on the thread's pace.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as reader:
        pending: dict[int, Future[list[MicroBatch]]] = {}

        def prefetched(step: int) -> list[MicroBatch]:
            # The first step of a session is not prepared yet.
            current = pending.pop(step, None) or reader.submit(batches_at, step)
            if step + 1 < steps:
                pending[step + 1] = reader.submit(batches_at, step + 1)
            return current.result()

        yield prefetched


def _unmasked(batch: TokenBatch) -> MaskedBatch:
    ids_BL = batch.input_ids_BL
    nothing_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    return MaskedBatch(ids_BL, torch.full_like(ids_BL, IGNORED), nothing_BL)


def _micro_batch(
    batch: TokenBatch, masked: MaskedBatch, size: int, device: torch.device
) -> MicroBatch:
    # Counted before the tensors move: reading a count from a GPU waits for it.
    counts = count_tokens(masked.labels_BL, batch.attention_mask_BL)
    attention_mask_BL = None
    if int(counts.attended) < batch.input_ids_BL.numel():
        attention_mask_BL = batch.attention_mask_BL.to(device, non_blocking=True)
    return MicroBatch(
        number=int(batch.row_indices_B[0]) // size,
        input_ids_BL=masked.input_ids_BL.to(device, non_blocking=True),
        attention_mask_BL=attention_mask_BL,
        labels_BL=masked.labels_BL.to(device, non_blocking=True),
        counts=counts,
        rows_B=batch.rows_B,
    )
