"""Dynamic masking: pure functions of (ids, generator).

A generator is a function of seed, step and each row's place in the step's global batch; it has no state. So one process
and many, small micro-batches and large ones, a run and its resumption hide the same tokens of the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedistil.core.errors import ShapeError
from edgedistil.data.counter_rng import key_of, mixed, tensor_key, uniform

IGNORED = -100  # the label of a position that no MLM loss looks at
_MASKED, _KEPT = 0.8, 0.1  # of the chosen tokens; the rest becomes a random id


@dataclass(frozen=True)
class MaskedBatch:
    input_ids_BL: Tensor
    labels_BL: Tensor
    selected_BL: Tensor


@dataclass(frozen=True)
class Generator:
    """Independent random numbers for each row: a 64-bit key a row, nothing that changes."""

    keys_B: Tensor

    def uniform_BL(self, length: int, *, stream: int) -> Tensor:  # noqa: N802
        """Float64 in (0, 1); column l of row b depends on the row's key, l and `stream` only, not on `length`."""
        columns_L = torch.arange(length, device=self.keys_B.device, dtype=torch.int64)
        return uniform(mixed(mixed(self.keys_B ^ stream)[:, None] + columns_L[None, :]))

    def uniform_at(self, rows_N: Tensor, columns_N: Tensor, *, stream: int) -> Tensor:
        """What `uniform_BL` has at these places: where few are wanted, few are computed."""
        return uniform(mixed(mixed(self.keys_B ^ stream)[rows_N] + columns_N))


def generator_for(
    seed: int, step: int, places: Tensor | Sequence[int], *, purpose: str = "mask"
) -> Generator:
    """The generator of rows at these places of a step's global batch.

    Args:
        seed: Of the run.
        step: Optimizer step.
        places: Place of each row in the global batch (`Batch.places_B`), the same on any number of ranks.
        purpose: Keeps streams apart, `heldout` from training say.
    """
    places_B = torch.as_tensor(places, dtype=torch.int64)
    return Generator(mixed(places_B ^ tensor_key(key_of(seed, purpose, step)).to(places_B.device)))


def mask_bert(
    ids_BL: Tensor,
    attention_mask_BL: Tensor,
    *,
    generator: Generator,
    share: float,
    mask_id: int,
    vocabulary: int,
    special_ids: Sequence[int],
) -> MaskedBatch:
    """BERT's masking: `share` of each row's ordinary tokens are chosen, 80% [MASK], 10% kept, 10% a random id.

    A row of n ordinary tokens gets max(1, round(share · n)) chosen ones, drawn evenly without replacement, so no row
    that has an ordinary token is without a label. Random ids come from the whole vocabulary.

    Args:
        ids_BL: Token ids, int64.
        attention_mask_BL: 1 where there is a token, 0 at padding.
        generator: From `generator_for`, a key a row.
        share: In (0, 1).
        mask_id: Id of [MASK].
        vocabulary: Number of ids.
        special_ids: Never chosen.
    Returns:
        Masked ids, labels (-100 where nothing was chosen) and what was chosen.
    Raises:
        ShapeError: ids, mask and generator do not fit each other.
    Source: Devlin et al. 2018, §3.1. Differs from: no cap of 20 predictions a row.
    """
    candidates_BL = _candidates(ids_BL, attention_mask_BL, generator, special_ids)
    draws_BL = generator.uniform_BL(ids_BL.shape[1], stream=0).masked_fill(~candidates_BL, 2.0)
    ordinary_B = candidates_BL.sum(dim=1)
    wanted_B = (
        torch.floor(share * ordinary_B.double() + 0.5).long().clamp(min=1).minimum(ordinary_B)
    )
    last_B1 = draws_BL.sort(dim=1).values.gather(1, (wanted_B - 1).clamp(min=0)[:, None])
    return _replaced(ids_BL, candidates_BL & (draws_BL <= last_B1), generator, mask_id, vocabulary)


def mask_rarity(
    ids_BL: Tensor,
    attention_mask_BL: Tensor,
    *,
    generator: Generator,
    share: float,
    mask_id: int,
    vocabulary: int,
    special_ids: Sequence[int],
    token_weights_V: Tensor,
) -> MaskedBatch:
    """The original DistilBERT's masking: rare tokens are chosen more often, an exact count over the whole batch.

    ⌈share · attended tokens⌉ positions are drawn without replacement over the batch, each with its token's weight; then
    80% [MASK], 10% kept, 10% a random id of the whole vocabulary. All positions with a weight when there are fewer.

    Args:
        ids_BL: Token ids, int64.
        attention_mask_BL: 1 where there is a token, 0 at padding.
        generator: From `generator_for`, a key a row.
        share: In (0, 1), of all attended tokens, special ones counted.
        mask_id: Id of [MASK].
        vocabulary: Number of ids.
        special_ids: Never chosen.
        token_weights_V: From `rarity_weights`.
    Returns:
        Masked ids, labels (-100 where nothing was chosen) and what was chosen.
    Raises:
        ShapeError: ids, mask, weights and generator do not fit each other.
    Source: the original scripts; XLM's sampling.
    """
    if token_weights_V.shape != (vocabulary,):
        raise ShapeError(
            f"token_weights_V has shape {tuple(token_weights_V.shape)}, expected ({vocabulary},)"
        )
    candidates_BL = _candidates(ids_BL, attention_mask_BL, generator, special_ids)
    weights_BL = token_weights_V.double().to(ids_BL.device)[ids_BL] * candidates_BL
    wanted = min(math.ceil(share * int(attention_mask_BL.sum())), int((weights_BL > 0).sum()))
    # Exponential races: the smallest -log(u) / w are a weighted draw without replacement (Efraimidis, Spirakis 2006).
    waits_BL = -torch.log(generator.uniform_BL(ids_BL.shape[1], stream=0)) / weights_BL
    chosen = torch.topk(waits_BL.flatten(), wanted, largest=False).indices
    selected_BL = (
        torch.zeros_like(candidates_BL).flatten().index_fill(0, chosen, True).view_as(candidates_BL)
    )
    return _replaced(ids_BL, selected_BL, generator, mask_id, vocabulary)


def rarity_weights(
    token_counts_V: Tensor, *, exponent: float, special_ids: Sequence[int]
) -> Tensor:
    """max(count, 1)^-exponent of each id, 0 for special ones; float64 (V)."""
    weights_V = torch.as_tensor(token_counts_V).double().clamp(min=1).pow(-exponent)
    weights_V[list(special_ids)] = 0
    return weights_V


def _candidates(
    ids_BL: Tensor, attention_mask_BL: Tensor, generator: Generator, special_ids: Sequence[int]
) -> Tensor:
    if ids_BL.shape != attention_mask_BL.shape or ids_BL.shape[:1] != generator.keys_B.shape:
        raise ShapeError(
            f"ids {tuple(ids_BL.shape)}, attention mask {tuple(attention_mask_BL.shape)} and the generator's rows "
            f"{tuple(generator.keys_B.shape)} do not fit each other"
        )
    special = torch.tensor(list(special_ids), dtype=ids_BL.dtype, device=ids_BL.device)
    return attention_mask_BL.bool() & ~torch.isin(ids_BL, special)


def _replaced(
    ids_BL: Tensor, selected_BL: Tensor, generator: Generator, mask_id: int, vocabulary: int
) -> MaskedBatch:
    rows_N, columns_N = selected_BL.nonzero(as_tuple=True)
    fate_N = generator.uniform_at(rows_N, columns_N, stream=1)
    random_N = (generator.uniform_at(rows_N, columns_N, stream=2) * vocabulary).long()
    kept_N = ids_BL[rows_N, columns_N]
    new_N = torch.where(
        fate_N < _MASKED, mask_id, torch.where(fate_N < _MASKED + _KEPT, kept_N, random_N)
    )
    return MaskedBatch(
        input_ids_BL=ids_BL.index_put((rows_N, columns_N), new_N),
        labels_BL=torch.where(selected_BL, ids_BL, IGNORED),
        selected_BL=selected_BL,
    )
