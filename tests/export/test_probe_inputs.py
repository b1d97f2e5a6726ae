from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer
from edgedistil.export.probe_inputs import (
    DOCUMENTS,
    LONGEST,
    draw_inputs,
    plan_calls,
    sequence_sizes,
    tokenize_documents,
)
from tests.fixtures.tokenizer_folders import our_text


@pytest.mark.parametrize("positions", [64, 67, 128, 512, 514])
def test_every_model_gets_enough_sequences_and_lengths(positions: int) -> None:
    calls = plan_calls(positions)
    lengths = [length for length, _ in calls]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert max(lengths) == min(positions, LONGEST)
    assert sum(count for _, count in calls) >= 64
    assert all(count != length for length, count in calls), "B = L would hide a swapped axis"


@pytest.mark.parametrize("positions", [6, 7, 8, 11, 16])
def test_a_model_with_few_positions_gets_batches_that_fit(positions: int) -> None:
    calls = plan_calls(positions)
    assert max(length for length, _ in calls) == positions
    assert all(count != length for length, count in calls)
    assert all(max(sequence_sizes(*call)) <= call[0] for call in calls)


def test_a_model_with_positions_for_too_few_tokens() -> None:
    with pytest.raises(ModelError, match="positions for 5 tokens; expected 6 or more"):
        plan_calls(5)


def test_sizes_decrease_from_the_full_length() -> None:
    assert sequence_sizes(16, 1) == [16]
    assert sequence_sizes(64, 3) == [64, 44, 25]
    assert sequence_sizes(8, 5) == [8, 7, 6, 6, 5]


def test_a_large_text_is_sampled(tokenizer: TextTokenizer) -> None:
    text = ["ban cer"] * (DOCUMENTS + 50)
    documents = tokenize_documents(tokenizer, text, np.random.default_rng(1))
    assert len(documents) == DOCUMENTS
    assert set(map(len, documents)) == {2}


def test_a_pair_is_a_short_text_and_a_long_one(tokenizer: TextTokenizer) -> None:
    inputs = draw_inputs(
        [[7, 8, 9]],
        tokenizer,
        np.random.default_rng(1),
        (11, 1),
        pairs="all",
        masks=False,
        token_types=True,
    )
    ids, types = inputs.feeds["input_ids"][0].tolist(), inputs.feeds["token_type_ids"][0].tolist()
    cls, sep = tokenizer.require("cls"), tokenizer.require("sep")
    assert ids == [cls, 7, 8, sep, 9, 7, 8, 9, 7, 8, sep]
    assert types == [0] * 4 + [1] * 7
    assert len(inputs.masked_M2) == 0


def test_masks_replace_tokens_and_are_listed(tokenizer: TextTokenizer) -> None:
    inputs = draw_inputs(
        [[7, 8, 9]],
        tokenizer,
        np.random.default_rng(1),
        (40, 3),
        pairs="none",
        masks=True,
        token_types=False,
    )
    ids_BL = inputs.feeds["input_ids"]
    assert set(inputs.feeds) == {"input_ids", "attention_mask"}
    assert np.argwhere(ids_BL == tokenizer.require("mask")).tolist() == inputs.masked_M2.tolist()
    assert inputs.feeds["attention_mask"].sum(axis=1).tolist() == sequence_sizes(40, 3)


@pytest.mark.parametrize("name", ["roberta", "eurobert", "albert model", "unigram"])
def test_probes_of_every_kind_of_tokenizer(tokenizer_folders: dict[str, Path], name: str) -> None:
    tokenizer = read_tokenizer(tokenizer_folders[name])
    documents = tokenize_documents(tokenizer, our_text(), np.random.default_rng(1))
    inputs = draw_inputs(
        documents,
        tokenizer,
        np.random.default_rng(1),
        (32, 5),
        pairs=False,
        masks=tokenizer.token_id("mask") is not None,
        token_types=False,
    )
    ids_BL, mask_BL = inputs.feeds["input_ids"], inputs.feeds["attention_mask"]
    before, after = tokenizer.framing
    for ids_L, mask_L in zip(ids_BL, mask_BL, strict=True):
        tokens = ids_L[mask_L == 1].tolist()
        assert tokens[: len(before)] == before
        assert tokens[len(tokens) - len(after) :] == after
        assert set(ids_L[mask_L == 0].tolist()) <= {tokenizer.pad_id}
    # Padding is where transformers puts it, and no special token is masked.
    padded = mask_BL.sum(axis=1) < 32
    assert padded.any()
    column = 0 if tokenizer.padding_side == "left" else 31
    assert not mask_BL[padded, column].any() and mask_BL[padded, 31 - column].all()
    for row, place in inputs.masked_M2:
        assert ids_BL[row, place] == tokenizer.require("mask")
