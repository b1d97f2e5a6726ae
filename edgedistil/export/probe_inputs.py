"""Inputs of probes: held-out text as padded batches of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgedistil.core.errors import CorpusError, ModelError
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens

# Longest padded length → numbers of sequences of the calls up to that length: one sequence alone
# without padding, then padded batches. No number equals a length: B = L would hide a swapped axis.
CALLS = {64: (1, 3, 5, 5), 128: (1, 3, 4), 512: (1, 2)}
# (length, sequences) of further calls: no multiples of 4 or 8, whose last rows and columns a kernel
# computes by other code, and lengths between the usual ones.
IN_BETWEEN = ((5, 1), (7, 1), (13, 1), (37, 3), (61, 1), (127, 1), (200, 1), (333, 1))
# Padded lengths, and the longest one that the model has positions for, up to `LONGEST`.
LENGTHS = (8, 16, 32, 64, 128)
LONGEST = 512
LEAST_LENGTHS = 5
# As much text as probes can use; a larger file is sampled.
DOCUMENTS = 2000
DOCUMENT_CHARACTERS = 20_000
# As in BERT's pre-training.
MASK_SHARE = 0.15
# Tokens of the shortest sequence, in the batches whose two fifths would be fewer.
_SHORTEST_TOKENS = 5
# Tokens of the shortest batch: longer than its shortest sequence, and no number of sequences.
_SHORTEST_LENGTH = 6

IntArray = NDArray[np.int64]
# Which sequences of a batch are two texts.
Pairs = Literal["none", "half", "all"]


@dataclass(frozen=True)
class ProbeInputs:
    """Inputs of one call.

    Attributes:
        feeds: Name of the input → array, shape (B, L).
        masked_M2: (sequence, position) of every [MASK]; empty if nothing is masked.
        choices: Sequences of one question; None for a task without choices.
    """

    feeds: dict[str, IntArray]
    masked_M2: IntArray
    choices: int | None = None


# --- calls and sizes -----------------------------------------------------------------------------


def plan_calls(positions: int) -> list[tuple[int, int]]:
    """Returns the calls for a model with that many positions, shortest first.

    Returns:
        (padded length, number of sequences) of each call.
    Raises:
        ModelError: The model has positions for fewer tokens than the shortest batch has.
    """
    if positions < _SHORTEST_LENGTH:
        raise ModelError(
            f"the model has positions for {positions} tokens; expected {_SHORTEST_LENGTH} or more"
        )
    longest = min(positions, LONGEST)
    lengths = {length for length in LENGTHS if length < longest} | {longest}
    # A model with few positions gets lengths between the usual ones.
    for eighths in (6, 4, 7, 5, 3):
        if len(lengths) < LEAST_LENGTHS:
            lengths.add(max(_SHORTEST_LENGTH, longest * eighths // 8))
    calls = [(length, count) for length in sorted(lengths) for count in _sequence_counts(length)]
    return sorted([*calls, *(call for call in IN_BETWEEN if call[0] < longest)])


def _sequence_counts(length: int) -> tuple[int, ...]:
    return next(counts for up_to, counts in CALLS.items() if length <= up_to)


def choices_at(length: int) -> int:
    """Choices of a question at a padded length: 2 to 4, so that no number of them is fixed."""
    return 2 + length % 3


def sequence_sizes(length: int, count: int) -> list[int]:
    """Tokens of each sequence of a batch: from the padded length down to two fifths of it."""
    if count == 1:
        return [length]
    shortest = max(_SHORTEST_TOKENS, length * 2 // 5)
    return [round(size) for size in np.linspace(length, shortest, count)]


# --- text → tokens -------------------------------------------------------------------------------


def tokenize_documents(
    tokenizer: TextTokenizer, text: Sequence[str], rng: np.random.Generator
) -> list[list[int]]:
    """Tokenizes documents without special tokens; a large text is sampled.

    Raises:
        CorpusError: The text has no tokens.
    """
    documents = _sample_documents(text, rng)
    encoded: list[list[int]] = []
    # Fast tokenizers reject an empty list.
    if documents:
        encoded = tokenizer.encode_texts(documents)
    tokens = [ids for ids in encoded if ids]
    if not tokens:
        raise CorpusError(
            f"the text for the probes has no tokens ({len(text)} lines)",
            hint="give real text with --text FILE",
        )
    unknown_id = tokenizer.token_id("unk")
    unknown = sum(ids.count(unknown_id) for ids in tokens) if unknown_id is not None else 0
    warn_of_unknown_tokens(unknown, sum(map(len, tokens)), text="the text for the probes")
    return tokens


def _sample_documents(text: Sequence[str], rng: np.random.Generator) -> list[str]:
    documents = [document[:DOCUMENT_CHARACTERS] for document in text if document.strip()]
    if len(documents) <= DOCUMENTS:
        return documents
    sample = rng.choice(len(documents), DOCUMENTS, replace=False)
    return [documents[index] for index in sorted(sample)]


def draw_inputs(
    documents: list[list[int]],
    tokenizer: TextTokenizer,
    rng: np.random.Generator,
    call: tuple[int, int],
    *,
    pairs: Pairs,
    masks: bool,
    token_types: bool,
    choices: bool = False,
) -> ProbeInputs:
    """Draws the padded batch of one call.

    Args:
        documents: Tokens of each document.
        tokenizer: Puts the special tokens around a sequence.
        rng: Selects the documents and the masked positions.
        call: Padded length and number of sequences; with choices, of questions.
        pairs: Which sequences are two texts.
        masks: Whether tokens are replaced by [MASK].
        token_types: Whether the model takes `token_type_ids`.
        choices: Whether the model selects one of several sequences.
    """
    length, count = call
    per_question = choices_at(length) if choices else None
    count *= per_question or 1
    sizes = sequence_sizes(length, count)
    sequences = []
    for row, size in enumerate(sizes):
        # Also calls of one sequence differ: those of odd lengths are pairs.
        is_pair = pairs == "all" or (pairs == "half" and (row + length) % 2 == 1)
        sequences.append(_sequence(documents, size, tokenizer, rng, pair=is_pair))
    feeds = pad_sequences(sequences, length, tokenizer)
    # The graph of a family without segments has no such input.
    if not token_types:
        del feeds["token_type_ids"]
    masked_M2 = np.zeros((0, 2), np.int64)
    if masks:
        masked_M2 = _mask(feeds["input_ids"], tokenizer, rng)
    return ProbeInputs(feeds, masked_M2, per_question)


def _sequence(
    documents: list[list[int]],
    size: int,
    tokenizer: TextTokenizer,
    rng: np.random.Generator,
    *,
    pair: bool,
) -> tuple[list[int], list[int]]:
    """Token ids and token types of one sequence."""
    tokens = _draw_tokens(documents, size - tokenizer.special_count(pair=pair), rng)
    if not pair:
        return tokenizer.frame(tokens)
    # A pair is cut after a third, as a question in front of its context.
    cut = max(1, len(tokens) // 3)
    return tokenizer.frame(tokens[:cut], tokens[cut:])


def _draw_tokens(documents: list[list[int]], size: int, rng: np.random.Generator) -> list[int]:
    """`size` tokens from the start of a random document; the next documents follow a short one."""
    tokens: list[int] = []
    index = int(rng.integers(len(documents)))
    while len(tokens) < size:
        tokens += documents[index % len(documents)]
        index += 1
    return tokens[:size]


def pad_sequences(
    sequences: Sequence[tuple[list[int], list[int]]], length: int, tokenizer: TextTokenizer
) -> dict[str, IntArray]:
    """Pads sequences to one length, with their mask and token types.

    Args:
        sequences: Token ids and token types of each sequence.
        length: Tokens of the longest sequence, or more.
        tokenizer: Says which id is at padded positions, and on which side they are.
    """
    shape = (len(sequences), length)
    ids_BL = np.full(shape, tokenizer.pad_id, np.int64)
    mask_BL = np.zeros(shape, np.int64)
    types_BL = np.zeros(shape, np.int64)
    for row, (ids, types) in enumerate(sequences):
        start = length - len(ids) if tokenizer.padding_side == "left" else 0
        tokens = slice(start, start + len(ids))
        ids_BL[row, tokens] = ids
        mask_BL[row, tokens] = 1
        types_BL[row, tokens] = types
    return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}


def _mask(ids_BL: IntArray, tokenizer: TextTokenizer, rng: np.random.Generator) -> IntArray:
    """Replaces 15% of each sequence's tokens, at least one, by [MASK]; returns their places."""
    places: list[tuple[int, int]] = []
    before, after = tokenizer.framing
    framing_ids = [*before, *after, tokenizer.pad_id]
    for row, ids_L in enumerate(ids_BL):
        # Special tokens are never masked, as in pre-training.
        candidates = np.flatnonzero(~np.isin(ids_L, framing_ids))
        count = max(1, round(MASK_SHARE * len(candidates)))
        sample = rng.choice(candidates, count, replace=False)
        places += [(row, position) for position in sorted(sample)]
    masked_M2 = np.array(places, dtype=np.int64)
    ids_BL[masked_M2[:, 0], masked_M2[:, 1]] = tokenizer.require("mask")
    return masked_M2
