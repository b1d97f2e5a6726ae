"""Inputs of probes: held-out text as padded batches of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from edgedistil.core.errors import CorpusError, ModelError
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens

# Longest padded length → numbers of sequences of the calls up to that length: one sequence alone
# without padding, then padded batches. No number equals a length: B = L would hide a swapped axis.
CALLS = {64: (1, 3, 5, 5), 128: (1, 3, 4), 512: (1, 2)}
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

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens."""

    cls: int
    sep: int
    pad: int
    mask: int


@dataclass(frozen=True)
class ProbeInputs:
    """Inputs of one call.

    Attributes:
        feeds: Name of the input → array, shape (B, L).
        masked_M2: (sequence, position) of every [MASK]; empty if nothing is masked.
    """

    feeds: dict[str, IntArray]
    masked_M2: IntArray


# --- calls and sizes -----------------------------------------------------------------------------


def plan_calls(positions: int) -> list[tuple[int, int]]:
    """Returns the calls for a model with that many positions, shortest first.

    Returns:
        (padded length, number of sequences) of each call.
    """
    longest = min(positions, LONGEST)
    lengths = {length for length in LENGTHS if length < longest} | {longest}
    # A model with few positions gets lengths between the usual ones.
    for eighths in (6, 4, 7, 5, 3):
        if len(lengths) < LEAST_LENGTHS:
            lengths.add(longest * eighths // 8)
    return [(length, count) for length in sorted(lengths) for count in _sequence_counts(length)]


def _sequence_counts(length: int) -> tuple[int, ...]:
    return next(counts for up_to, counts in CALLS.items() if length <= up_to)


def sequence_sizes(length: int, count: int) -> list[int]:
    """Tokens of each sequence of a batch: from the padded length down to two fifths of it."""
    if count == 1:
        return [length]
    shortest = max(_SHORTEST_TOKENS, length * 2 // 5)
    return [round(size) for size in np.linspace(length, shortest, count)]


# --- text → tokens -------------------------------------------------------------------------------


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Returns the ids of the special tokens.

    Raises:
        ModelError: The tokenizer lacks one of them.
    """
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    missing = [f"[{name.upper()}]" for name, token in ids.items() if token is None]
    if missing:
        raise ModelError(f"the tokenizer has no {', '.join(missing)} token")
    return SpecialTokens(**ids)


def tokenize_documents(
    tokenizer: PreTrainedTokenizerBase, text: Sequence[str], rng: np.random.Generator
) -> list[list[int]]:
    """Tokenizes documents without special tokens; a large text is sampled.

    Raises:
        CorpusError: The text has no tokens.
    """
    documents = _sample_documents(text, rng)
    encoded: list[list[int]] = []
    # Fast tokenizers reject an empty list.
    if documents:
        encoded = tokenizer(
            documents, add_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
    tokens = [ids for ids in encoded if ids]
    if not tokens:
        raise CorpusError(
            f"the text for the probes has no tokens ({len(text)} lines)",
            hint="give real text with --text FILE",
        )
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in tokens)
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
    special: SpecialTokens,
    rng: np.random.Generator,
    call: tuple[int, int],
    *,
    pairs: bool,
    masks: bool,
    token_types: bool,
) -> ProbeInputs:
    """Draws the padded batch of one call.

    Args:
        documents: Tokens of each document.
        special: Ids of the special tokens.
        rng: Selects the documents and the masked positions.
        call: Padded length and number of sequences.
        pairs: Whether a sequence is two texts.
        masks: Whether tokens are replaced by [MASK].
        token_types: Whether the model takes `token_type_ids`.
    """
    length, count = call
    sizes = sequence_sizes(length, count)
    sequences = [_sequence(documents, size, special, rng, pair=pairs) for size in sizes]
    feeds = _pad(sequences, length, special)
    # The graph of a family without segments has no such input.
    if not token_types:
        del feeds["token_type_ids"]
    masked_M2 = np.zeros((0, 2), np.int64)
    if masks:
        masked_M2 = _mask(feeds["input_ids"], special, rng)
    return ProbeInputs(feeds, masked_M2)


def _sequence(
    documents: list[list[int]],
    size: int,
    special: SpecialTokens,
    rng: np.random.Generator,
    *,
    pair: bool,
) -> tuple[list[int], list[int]]:
    """Token ids and token types of one sequence."""
    if not pair:
        tokens = _draw_tokens(documents, size - 2, rng)
        return [special.cls, *tokens, special.sep], [0] * size

    # A pair is cut after a third, as a question in front of its context.
    tokens = _draw_tokens(documents, size - 3, rng)
    cut = max(1, len(tokens) // 3)
    ids = [special.cls, *tokens[:cut], special.sep, *tokens[cut:], special.sep]
    return ids, [0] * (cut + 2) + [1] * (len(tokens) - cut + 1)


def _draw_tokens(documents: list[list[int]], size: int, rng: np.random.Generator) -> list[int]:
    """`size` tokens from the start of a random document; the next documents follow a short one."""
    tokens: list[int] = []
    index = int(rng.integers(len(documents)))
    while len(tokens) < size:
        tokens += documents[index % len(documents)]
        index += 1
    return tokens[:size]


def _pad(
    sequences: list[tuple[list[int], list[int]]], length: int, special: SpecialTokens
) -> dict[str, IntArray]:
    """Pads sequences to one length, with their mask and token types."""
    shape = (len(sequences), length)
    ids_BL = np.full(shape, special.pad, np.int64)
    mask_BL = np.zeros(shape, np.int64)
    types_BL = np.zeros(shape, np.int64)
    for row, (ids, types) in enumerate(sequences):
        ids_BL[row, : len(ids)] = ids
        mask_BL[row, : len(ids)] = 1
        types_BL[row, : len(ids)] = types
    return {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": types_BL}


def _mask(ids_BL: IntArray, special: SpecialTokens, rng: np.random.Generator) -> IntArray:
    """Replaces 15% of each sequence's tokens, at least one, by [MASK]; returns their places."""
    places: list[tuple[int, int]] = []
    for row, ids_L in enumerate(ids_BL):
        # Special tokens are never masked, as in pre-training.
        candidates = np.flatnonzero(~np.isin(ids_L, (special.cls, special.sep, special.pad)))
        count = max(1, round(MASK_SHARE * len(candidates)))
        sample = rng.choice(candidates, count, replace=False)
        places += [(row, position) for position in sorted(sample)]
    masked_M2 = np.array(places, dtype=np.int64)
    ids_BL[masked_M2[:, 0], masked_M2[:, 1]] = special.mask
    return masked_M2
