"""Dynamic masking as pure functions of token ids and a generator.

The generator is a function of seed, step and each row's index in the step's global batch; it has no
state. So one process and many, and a run and its resumption mask the same tokens of the same rows.
With BERT's masking small micro-batches and large ones do, too; rarity masking draws its positions
over a micro-batch, so that they depend on its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistil.core.errors import ShapeError
from edgedistil.data.counter_rng import key_tensor, splitmix64, stream_key, uniform

# Label of a position that the MLM loss ignores; PyTorch's cross-entropy has the same default.
IGNORED = -100
# BERT's shares of the selected tokens: 80% become [MASK], 10% stay, the rest become a random id.
_MASK_SHARE, _UNCHANGED_SHARE = 0.8, 0.1

# Independent random streams of a row.
_SELECTION_STREAM, _FATE_STREAM, _RANDOM_ID_STREAM = 0, 1, 2


@dataclass(frozen=True)
class MaskedBatch:
    """A batch after masking; all tensors (B, L).

    Attributes:
        input_ids_BL: What the models read.
        labels_BL: The original ids at selected positions, IGNORED elsewhere.
        selected_BL: Which positions were selected; bool.
    """

    input_ids_BL: Tensor
    labels_BL: Tensor
    selected_BL: Tensor


@dataclass(frozen=True)
class RowGenerator:
    """Independent, stateless random numbers for each row, from one 64-bit key per row."""

    keys_B: Tensor

    def uniform_BL(self, length: int, *, stream: int) -> Tensor:  # noqa: N802
        """Returns float64 in (0, 1), shape (B, length).

        Column l of row b depends on the row's key, l and `stream` only, not on `length`.
        """
        columns_L = torch.arange(length, device=self.keys_B.device, dtype=torch.int64)
        row_keys_B1 = splitmix64(self.keys_B ^ stream)[:, None]
        return uniform(splitmix64(row_keys_B1 + columns_L[None, :]))

    def uniform_at(self, rows_N: Tensor, columns_N: Tensor, *, stream: int) -> Tensor:
        """Returns the numbers of `uniform_BL` at some positions, without computing the others."""
        row_keys_N = splitmix64(self.keys_B ^ stream)[rows_N]
        return uniform(splitmix64(row_keys_N + columns_N))


def row_generator(
    seed: int, step: int, row_indices: Tensor | Sequence[int], *, purpose: str = "mask"
) -> RowGenerator:
    """Creates the generator of some rows of a step's global batch.

    Args:
        seed: Seed of the run.
        step: Optimizer step.
        row_indices: Index of each row in the global batch (`TokenBatch.row_indices_B`), the same on
            any number of ranks.
        purpose: Separates streams, for example `heldout` from training.
    """
    indices_B = torch.as_tensor(row_indices, dtype=torch.int64)
    key = key_tensor(stream_key(seed, purpose, step)).to(indices_B.device)
    return RowGenerator(splitmix64(indices_B ^ key))


def mask_bert(
    ids_BL: Tensor,
    attention_mask_BL: Tensor,
    *,
    generator: RowGenerator,
    share: float,
    mask_id: int,
    vocabulary: int,
    special_ids: Sequence[int],
) -> MaskedBatch:
    """Masks like BERT: a share of each row's ordinary tokens, drawn evenly.

    A row of n ordinary tokens gets max(1, round(share · n)) selected ones, without replacement, so
    every row with an ordinary token has a label. Of these, 80% become [MASK], 10% stay, and 10%
    become a random id of the vocabulary.

    Args:
        ids_BL: Token ids, int64.
        attention_mask_BL: 1 at tokens, 0 at padding.
        generator: From `row_generator`, one key per row.
        share: Share of the ordinary tokens to select, in (0, 1).
        mask_id: Id of [MASK].
        vocabulary: Number of ids.
        special_ids: Ids that are never selected.
    Raises:
        ShapeError: ids, attention mask and generator differ in shape.
    Source: Devlin et al. 2018, §3.1. Differs from: no limit of 20 predictions per row.
    """
    candidates_BL = _candidates(ids_BL, attention_mask_BL, generator, special_ids)
    # Draws are below 1: with 2.0, positions that are no candidates come last.
    draws_BL = generator.uniform_BL(ids_BL.shape[1], stream=_SELECTION_STREAM)
    draws_BL = draws_BL.masked_fill(~candidates_BL, 2.0)

    # Rounded half up (torch.round would round half to even); at least 1, if the row has a token.
    ordinary_B = candidates_BL.sum(dim=1)
    rounded_B = torch.floor(share * ordinary_B.double() + 0.5).long()
    count_B = rounded_B.clamp(min=1).minimum(ordinary_B)

    # The positions with the `count` smallest draws of each row are selected.
    sorted_BL = draws_BL.sort(dim=1).values
    threshold_B1 = sorted_BL.gather(1, (count_B - 1).clamp(min=0)[:, None])
    selected_BL = candidates_BL & (draws_BL <= threshold_B1)
    return _replace_selected(ids_BL, selected_BL, generator, mask_id, vocabulary)


def mask_rarity(
    ids_BL: Tensor,
    attention_mask_BL: Tensor,
    *,
    generator: RowGenerator,
    share: float,
    mask_id: int,
    vocabulary: int,
    special_ids: Sequence[int],
    token_weights_V: Tensor,
) -> MaskedBatch:
    """Masks like the original DistilBERT: rare tokens are masked more often.

    ⌈share · attended tokens⌉ positions are drawn without replacement over the batch, each with the
    weight of its token, or all positions with a weight where there are fewer. Of these, 80% become
    [MASK], 10% stay, and 10% become a random id of the vocabulary.

    Args:
        ids_BL: Token ids, int64.
        attention_mask_BL: 1 at tokens, 0 at padding.
        generator: From `row_generator`, one key per row.
        share: In (0, 1), of all attended tokens, special tokens included.
        mask_id: Id of [MASK].
        vocabulary: Number of ids.
        special_ids: Ids that are never selected.
        token_weights_V: From `rarity_weights`.
    Raises:
        ShapeError: ids, attention mask, weights and generator differ in shape.
    Source: the original scripts; XLM's sampling.
    """
    if token_weights_V.shape != (vocabulary,):
        raise ShapeError(
            f"token_weights_V has shape {tuple(token_weights_V.shape)}, expected ({vocabulary},)"
        )
    candidates_BL = _candidates(ids_BL, attention_mask_BL, generator, special_ids)
    # The original masks an exact number of tokens of the batch, not of each row.
    weights_BL = token_weights_V.double().to(ids_BL.device)[ids_BL] * candidates_BL
    count = min(math.ceil(share * int(attention_mask_BL.sum())), int((weights_BL > 0).sum()))

    # Exponential races: the smallest −log(u) / w are a weighted draw without replacement
    # (Efraimidis, Spirakis 2006). Positions of weight 0 wait forever.
    draws_BL = generator.uniform_BL(ids_BL.shape[1], stream=_SELECTION_STREAM)
    waits_BL = -torch.log(draws_BL) / weights_BL
    winners_N = torch.topk(waits_BL.flatten(), count, largest=False).indices
    selected = torch.zeros_like(candidates_BL).flatten().index_fill(0, winners_N, True)
    selected_BL = selected.view_as(candidates_BL)
    return _replace_selected(ids_BL, selected_BL, generator, mask_id, vocabulary)


def rarity_weights(
    token_counts_V: Tensor, *, exponent: float, special_ids: Sequence[int]
) -> Tensor:
    """Returns the sampling weight of each id: max(count, 1)^−exponent, 0 for special ids.

    Returns:
        Float64, shape (V).
    """
    # An id that does not occur counts once, or its weight would be infinite.
    weights_V = torch.as_tensor(token_counts_V).double().clamp(min=1).pow(-exponent)
    weights_V[list(special_ids)] = 0
    return weights_V


def _candidates(
    ids_BL: Tensor, attention_mask_BL: Tensor, generator: RowGenerator, special_ids: Sequence[int]
) -> Tensor:
    """Positions that may be selected: tokens that are not special."""
    if ids_BL.shape != attention_mask_BL.shape or ids_BL.shape[:1] != generator.keys_B.shape:
        raise ShapeError(
            f"expected ids and attention mask of one shape (B, L) and a generator of B rows; got "
            f"ids {tuple(ids_BL.shape)}, attention mask {tuple(attention_mask_BL.shape)}, "
            f"generator rows {tuple(generator.keys_B.shape)}"
        )
    special = torch.tensor(list(special_ids), dtype=ids_BL.dtype, device=ids_BL.device)
    return attention_mask_BL.bool() & ~torch.isin(ids_BL, special)


def _replace_selected(
    ids_BL: Tensor, selected_BL: Tensor, generator: RowGenerator, mask_id: int, vocabulary: int
) -> MaskedBatch:
    """Replaces 80% of the selected ids by [MASK] and 10% by random ids."""
    # Few positions are selected: numbers are drawn there only (docs/log.md#corpus-and-masking).
    rows_N, columns_N = selected_BL.nonzero(as_tuple=True)
    fate_N = generator.uniform_at(rows_N, columns_N, stream=_FATE_STREAM)
    random_draws_N = generator.uniform_at(rows_N, columns_N, stream=_RANDOM_ID_STREAM)
    random_N = (random_draws_N * vocabulary).long()
    original_N = ids_BL[rows_N, columns_N]

    # One draw in [0, 1) decides: below 0.8 [MASK], below 0.9 unchanged, else random.
    unmasked_N = torch.where(fate_N < _MASK_SHARE + _UNCHANGED_SHARE, original_N, random_N)
    new_N = torch.where(fate_N < _MASK_SHARE, mask_id, unmasked_N)
    return MaskedBatch(
        input_ids_BL=ids_BL.index_put((rows_N, columns_N), new_N),
        labels_BL=torch.where(selected_BL, ids_BL, IGNORED),
        selected_BL=selected_BL,
    )
