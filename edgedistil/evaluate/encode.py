"""Text → token ids by the model folder's own tokenizer, without torch: training and artefact read the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core import console
from edgedistil.core.errors import ModelError

Ids = NDArray[np.int64]
_CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """One sequence of a model: token ids, and which of the two texts a token belongs to."""

    input_ids: list[int]
    type_ids: list[int]


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, with the truncation and padding that its file may carry switched off.

    Raises:
        ModelError: The folder has no `tokenizer.json`.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json", hint="save the model's fast tokenizer beside it"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pad_id(tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id("[PAD]")
    return 0 if found is None else int(found)


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[tuple[str, ...]], max_length: int
) -> list[Encoded]:
    """One or two texts an example, cut to `max_length` tokens (the longer of two first), special tokens included."""
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    inputs = [pair if len(pair) == 2 else pair[0] for pair in texts]
    found: list[Encoded] = []
    with console.progress("tokenizing", len(inputs), unit="texts") as bar:
        for start in range(
            0, len(inputs), _CHUNK
        ):  # a chunk's offsets and token strings are freed before the next
            chunk = tokenizer.encode_batch(inputs[start : start + _CHUNK])
            found += [Encoded(list(each.ids), list(each.type_ids)) for each in chunk]
            bar.advance(len(chunk))
    return found


def length_groups(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first, each at most `tokens` padded tokens (or one sequence)."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def padded(sequences: Sequence[Sequence[int]], value: int) -> Ids:
    """Sequences as one array, shape (B, L of the longest)."""
    array = np.full((len(sequences), max(map(len, sequences))), value, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        array[row, : len(sequence)] = sequence
    return array
