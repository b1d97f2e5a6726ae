"""Masking: exact counts, no special or padding tokens, BERT's shares, the same in any batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgedistil.core.errors import ShapeError
from edgedistil.data.masking import (
    IGNORED,
    MaskedBatch,
    RowGenerator,
    mask_bert,
    mask_rarity,
    rarity_weights,
    row_generator,
)

PAD, UNK, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3, 4)
V = 101


def rows(lengths: list[int], width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """[CLS] … [SEP] rows with one [SEP] inside the longer ones, padded to `width`."""
    ids_BL = torch.randint(
        len(SPECIAL), V, (len(lengths), width), generator=torch.Generator().manual_seed(seed)
    )
    attended_BL = (torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]).long()
    ids_BL[:, 0] = CLS
    for row, length in enumerate(lengths):
        ids_BL[row, length - 1] = SEP
        ids_BL[row, length // 2] = SEP
    return ids_BL.masked_fill(attended_BL == 0, PAD), attended_BL


def bert(
    ids_BL: Tensor, attended_BL: Tensor, generator: RowGenerator, share: float = 0.15
) -> MaskedBatch:
    return mask_bert(
        ids_BL,
        attended_BL,
        generator=generator,
        share=share,
        mask_id=MASK,
        vocabulary=V,
        special_ids=SPECIAL,
    )


def rarity(
    ids_BL: Tensor,
    attended_BL: Tensor,
    generator: RowGenerator,
    weights_V: Tensor | None = None,
    share: float = 0.15,
) -> MaskedBatch:
    even_V = rarity_weights(torch.ones(V), exponent=0.7, special_ids=SPECIAL)
    return mask_rarity(
        ids_BL,
        attended_BL,
        generator=generator,
        share=share,
        mask_id=MASK,
        vocabulary=V,
        special_ids=SPECIAL,
        token_weights_V=even_V if weights_V is None else weights_V,
    )


batches = st.lists(st.integers(3, 23), min_size=1, max_size=7)
kinds = pytest.mark.parametrize("mask", [bert, rarity])


@kinds
@settings(deadline=None)
@given(lengths=batches, seed=st.integers(0, 99), share=st.sampled_from([0.05, 0.15, 0.5, 0.95]))
def test_special_and_padding_tokens_are_never_chosen_and_the_rest_stays(
    mask, lengths, seed, share
) -> None:
    ids_BL, attended_BL = rows(lengths, 23, seed)
    masked = mask(ids_BL, attended_BL, row_generator(seed, 5, range(len(lengths))), share=share)
    chosen_BL = masked.selected_BL
    assert not torch.isin(ids_BL[chosen_BL], torch.tensor(SPECIAL)).any()
    assert attended_BL[chosen_BL].all()
    assert torch.equal(masked.input_ids_BL[~chosen_BL], ids_BL[~chosen_BL])
    assert torch.equal(masked.labels_BL, torch.where(chosen_BL, ids_BL, IGNORED))
    assert masked.input_ids_BL.min() >= 0 and masked.input_ids_BL.max() < V


@settings(deadline=None)
@given(lengths=batches, seed=st.integers(0, 99), share=st.sampled_from([0.05, 0.15, 0.5]))
def test_bert_chooses_its_share_of_each_row_and_at_least_one(lengths, seed, share) -> None:
    ids_BL, attended_BL = rows(lengths, 23, seed)
    masked = bert(ids_BL, attended_BL, row_generator(seed, 0, range(len(lengths))), share=share)
    ordinary = (~torch.isin(ids_BL, torch.tensor(SPECIAL))).sum(1).tolist()
    expected = [min(n, max(1, math.floor(share * n + 0.5))) for n in ordinary]
    assert masked.selected_BL.sum(1).tolist() == expected


@settings(deadline=None)
@given(lengths=batches, seed=st.integers(0, 99), share=st.sampled_from([0.05, 0.15, 0.3]))
def test_rarity_chooses_an_exact_count_over_the_batch(lengths, seed, share) -> None:
    ids_BL, attended_BL = rows(lengths, 23, seed)
    masked = rarity(ids_BL, attended_BL, row_generator(seed, 0, range(len(lengths))), share=share)
    ordinary = int((~torch.isin(ids_BL, torch.tensor(SPECIAL))).sum())
    assert int(masked.selected_BL.sum()) == min(math.ceil(share * sum(lengths)), ordinary)


def test_a_batch_of_special_tokens_only_is_left_alone() -> None:
    ids_BL = torch.tensor([[CLS, SEP, PAD]])
    for mask in (bert, rarity):
        masked = mask(ids_BL, torch.tensor([[1, 1, 0]]), row_generator(1, 0, [0]))
        assert torch.equal(masked.input_ids_BL, ids_BL)
        assert (masked.labels_BL == IGNORED).all()


@kinds
def test_eighty_ten_ten(mask) -> None:
    ids_BL = torch.full((331, 301), 7)
    masked = mask(ids_BL, torch.ones_like(ids_BL), row_generator(3, 1, range(331)), share=0.5)
    fates = masked.input_ids_BL[masked.selected_BL]
    count = len(fates)
    deviation = 4 * math.sqrt(0.8 * 0.2 / count)
    assert abs((fates == MASK).double().mean() - (0.8 + 0.1 / V)) < deviation
    assert abs((fates == 7).double().mean() - (0.1 + 0.1 / V)) < deviation
    random_ids = fates[(fates != MASK) & (fates != 7)]
    assert len(random_ids.unique()) == V - 2  # from the complete vocabulary, special ids too


@kinds
def test_every_position_is_as_likely(mask) -> None:
    ids_BL = torch.full((2003, 17), 7)
    masked = mask(ids_BL, torch.ones_like(ids_BL), row_generator(3, 1, range(2003)), share=0.25)
    share_L = masked.selected_BL.double().mean(0)
    expected = float(share_L.mean())
    assert (share_L - expected).abs().max() < 4 * math.sqrt(expected * (1 - expected) / 2003)


def test_rarity_prefers_rare_tokens_by_the_power_of_their_count() -> None:
    counts_V = torch.ones(V)
    counts_V[11], counts_V[13] = 1000, 10
    weights_V = rarity_weights(counts_V, exponent=0.7, special_ids=SPECIAL)
    ids_BL = torch.tensor([11, 13]).repeat(5003, 50)
    masked = rarity(
        ids_BL, torch.ones_like(ids_BL), row_generator(1, 1, range(5003)), weights_V, share=0.02
    )
    selected = ids_BL[masked.selected_BL]
    ratio = float((selected == 13).sum() / (selected == 11).sum())
    assert ratio == pytest.approx((1000 / 10) ** 0.7, rel=0.2)


def test_weights_are_the_originals() -> None:
    weights_V = rarity_weights(torch.tensor([9, 0, 1, 1000, 32]), exponent=0.7, special_ids=[0])
    assert weights_V.tolist() == pytest.approx([0, 1, 1, 1000**-0.7, 32**-0.7])


def test_a_row_is_masked_alike_in_any_micro_batch_of_any_padding() -> None:
    lengths = [11, 7, 5, 19, 13, 3]
    ids_BL, attended_BL = rows(lengths, 23)
    whole = bert(ids_BL, attended_BL, row_generator(9, 4, range(6)))
    for places, width in (([4], 13), ([3, 1], 19), ([5, 2, 1], 7)):
        part = bert(
            ids_BL[places, :width], attended_BL[places, :width], row_generator(9, 4, places)
        )
        assert torch.equal(part.input_ids_BL, whole.input_ids_BL[places, :width])
        assert torch.equal(part.selected_BL, whole.selected_BL[places, :width])


@kinds
def test_the_same_again_and_something_else_at_another_step_seed_place_or_purpose(mask) -> None:
    ids_BL, attended_BL = rows([19] * 5, 19)
    first = mask(ids_BL, attended_BL, row_generator(9, 4, range(5)))
    again = mask(ids_BL, attended_BL, row_generator(9, 4, torch.arange(5)))
    assert torch.equal(first.input_ids_BL, again.input_ids_BL)
    for generator in (
        row_generator(9, 5, range(5)),
        row_generator(8, 4, range(5)),
        row_generator(9, 4, range(5, 10)),
        row_generator(9, 4, range(5), purpose="heldout"),
    ):
        assert not torch.equal(first.selected_BL, mask(ids_BL, attended_BL, generator).selected_BL)


def test_inputs_are_not_changed() -> None:
    ids_BL, attended_BL = rows([19] * 5, 23)
    before = ids_BL.clone()
    for mask in (bert, rarity):
        mask(ids_BL, attended_BL, row_generator(1, 1, range(5)))
    assert torch.equal(ids_BL, before)


def test_shapes_that_do_not_fit_are_reported() -> None:
    ids_BL, attended_BL = rows([5, 7], 7)
    with pytest.raises(ShapeError, match=r"expected .* got ids \(2, 7\).*rows \(3,\)"):
        bert(ids_BL, attended_BL, row_generator(1, 1, range(3)))
    with pytest.raises(ShapeError, match=r"token_weights_V has shape \(7,\), expected \(101,\)"):
        rarity(ids_BL, attended_BL, row_generator(1, 1, range(2)), torch.ones(7))
