"""Tokenization without torch, so that training and the exported artefact read the same ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from edgedistil.core import console
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer

Ids = NDArray[np.int64]
# Texts and characters per call of the tokenizer. Each call also returns offsets and token strings,
# 20 bytes a character, which are freed before the next one: larger chunks cost memory, smaller ones
# cost calls.
_CHUNK = 4096
_CHUNK_CHARACTERS = 2**22


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sequence.

    Attributes:
        input_ids: Token ids, special tokens included.
        type_ids: For each token, 0 if it belongs to the first text and 1 for the second.
    """

    input_ids: list[int]
    type_ids: list[int]


def open_tokenizer(folder: Path) -> TextTokenizer:
    """Opens the tokenizer of a model folder.

    Raises:
        ModelError: The folder has no tokenizer, or one that does not fit the model.
    """
    return read_tokenizer(folder)


def pad_id(tokenizer: TextTokenizer) -> int:
    """Returns the id of the padding token, 0 if the vocabulary has none."""
    return tokenizer.pad_id


def count_unknown(tokenizer: TextTokenizer, sequences: Sequence[Encoded]) -> tuple[int, int]:
    """Returns the number of unknown tokens and of all tokens of some sequences."""
    # A tokenizer of bytes has no unknown token.
    token_id = tokenizer.token_id("unk")
    unknown = 0
    if token_id is not None:
        unknown = sum(sequence.input_ids.count(token_id) for sequence in sequences)
    return unknown, sum(len(sequence.input_ids) for sequence in sequences)


def encoded(tokenizer: TextTokenizer, encoding: Encoding) -> Encoded:
    """Returns the ids of an encoding; token types are 0 if the tokenizer does not return any."""
    type_ids = list(encoding.type_ids)
    if not tokenizer.gives_token_types:
        type_ids = [0] * len(type_ids)
    return Encoded(list(encoding.ids), type_ids)


def longest_sequence(tokenizer: TextTokenizer, max_length: int) -> int:
    """Returns `max_length`, or the number of positions of a model that has fewer."""
    return min(max_length, tokenizer.positions or max_length)


def encode_texts(
    tokenizer: TextTokenizer, texts: Sequence[tuple[str, ...]], max_length: int
) -> list[Encoded]:
    """Encodes texts and pairs of texts.

    Args:
        tokenizer: Tokenizer of the model; its truncation is changed.
        texts: One or two texts per example.
        max_length: Tokens of a sequence at most, special tokens included; a model with fewer
            positions decides. Of two texts, the longer one is truncated first.
    """
    backend = tokenizer.backend
    backend.enable_truncation(
        longest_sequence(tokenizer, max_length),
        strategy="longest_first",
        direction=tokenizer.truncation_side,
    )
    # The tokenizer takes a pair as a tuple and a single text as a string.
    inputs = [pair if len(pair) == 2 else pair[0] for pair in texts]
    sequences: list[Encoded] = []
    with console.progress("tokenizing", len(inputs), unit="texts") as bar:
        for start, end in _chunks([sum(map(len, item)) for item in texts]):
            chunk = backend.encode_batch(inputs[start:end])
            sequences += [encoded(tokenizer, item) for item in chunk]
            bar.advance(len(chunk))
    return sequences


def _chunks(characters: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields first and end of each chunk; a longer text is a chunk by itself."""
    start, total = 0, 0
    for index, count in enumerate(characters):
        total += count
        if index > start and (index - start == _CHUNK or total > _CHUNK_CHARACTERS):
            yield start, index
            start, total = index, count
    if characters:
        yield start, len(characters)


def length_groups(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Groups sequences of similar length into batches, longest first.

    Args:
        lengths: Tokens of each sequence.
        tokens: Tokens of a batch at most, padding included; a longer sequence is a batch by itself.
    Returns:
        Indices of the sequences in each batch.
    """
    # Longest first: if memory is too small, the first batch fails and not a later one.
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # The first sequence of a batch is its longest, so its length is that of the padded rows.
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def pad_batch(batch: Sequence[Encoded], pad: int) -> tuple[Ids, Ids, Ids]:
    """Returns input ids, attention mask and token types of a batch, shape (B, L) each.

    Args:
        batch: B sequences.
        pad: Id of the padding token.
    """
    mask = [[1] * len(sequence.input_ids) for sequence in batch]
    return (
        _pad_sequences([sequence.input_ids for sequence in batch], pad),
        _pad_sequences(mask, 0),
        _pad_sequences([sequence.type_ids for sequence in batch], 0),
    )


def _pad_sequences(sequences: Sequence[Sequence[int]], value: int) -> Ids:
    """Returns B sequences as one array, shape (B, L), where L is the longest one's length."""
    array_BL = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        array_BL[row, : len(sequence)] = sequence
    return array_BL
