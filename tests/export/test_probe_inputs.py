from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from edgedistil.export.probe_inputs import (
    DOCUMENTS,
    LONGEST,
    draw_inputs,
    plan_calls,
    sequence_sizes,
    special_tokens,
    tokenize_documents,
)


@pytest.mark.parametrize("positions", [64, 67, 128, 512, 514])
def test_every_model_gets_enough_sequences_and_lengths(positions: int) -> None:
    calls = plan_calls(positions)
    lengths = [length for length, _ in calls]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert max(lengths) == min(positions, LONGEST)
    assert sum(count for _, count in calls) >= 64
    assert all(count != length for length, count in calls), "B = L would hide a swapped axis"


def test_sizes_decrease_from_the_full_length() -> None:
    assert sequence_sizes(16, 1) == [16]
    assert sequence_sizes(64, 3) == [64, 44, 25]
    assert sequence_sizes(8, 5) == [8, 7, 6, 6, 5]


def test_a_large_text_is_sampled(tokenizer: PreTrainedTokenizerFast) -> None:
    text = ["ban cer"] * (DOCUMENTS + 50)
    documents = tokenize_documents(tokenizer, text, np.random.default_rng(1))
    assert len(documents) == DOCUMENTS
    assert set(map(len, documents)) == {2}


def test_a_pair_is_a_short_text_and_a_long_one(tokenizer: PreTrainedTokenizerFast) -> None:
    special = special_tokens(tokenizer)
    inputs = draw_inputs(
        [[7, 8, 9]],
        special,
        np.random.default_rng(1),
        (11, 1),
        pairs=True,
        masks=False,
        token_types=True,
    )
    ids, types = inputs.feeds["input_ids"][0].tolist(), inputs.feeds["token_type_ids"][0].tolist()
    assert ids == [special.cls, 7, 8, special.sep, 9, 7, 8, 9, 7, 8, special.sep]
    assert types == [0] * 4 + [1] * 7
    assert len(inputs.masked_M2) == 0


def test_masks_replace_tokens_and_are_listed(tokenizer: PreTrainedTokenizerFast) -> None:
    special = special_tokens(tokenizer)
    inputs = draw_inputs(
        [[7, 8, 9]],
        special,
        np.random.default_rng(1),
        (40, 3),
        pairs=False,
        masks=True,
        token_types=False,
    )
    ids_BL = inputs.feeds["input_ids"]
    assert set(inputs.feeds) == {"input_ids", "attention_mask"}
    assert np.argwhere(ids_BL == special.mask).tolist() == inputs.masked_M2.tolist()
    assert inputs.feeds["attention_mask"].sum(axis=1).tolist() == sequence_sizes(40, 3)
