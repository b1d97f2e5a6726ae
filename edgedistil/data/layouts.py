"""Documents' ids → rows: `packed` (full blocks across document ends) or `lines` (one sequence a document)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.data.token_store import StoreWriter, token_dtype
from edgedistil.data.tokenization import Chunk, SpecialIds

LayoutName = Literal["packed", "lines"]
_TOO_SHORT = 11  # the original drops sequences of 11 tokens or fewer, special tokens counted
_UNKNOWN_SHARE = 0.5  # … and those of which half or more are [UNK]

Ids = NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """Ids end to end, and the length of each sequence (empty for packed, which forgets the borders)."""

    ids: Ids
    lengths: NDArray[np.int64]


class Layout(Protocol):
    """Encodes chunks in any thread, then writes them in order."""

    row_length: int | None

    def encode(self, chunk: Chunk) -> Encoded: ...

    def write(self, encoded: Encoded, writer: StoreWriter) -> None: ...


def make_layout(
    name: LayoutName, *, tokenizer: Tokenizer, special: SpecialIds, length: int
) -> Layout:
    kind = Packed if name == "packed" else Lines
    return kind(tokenizer, special, length)


class Packed:
    """Rows of exactly `length`: [CLS], length - 2 tokens of the stream, [SEP].

    The stream is every document followed by [SEP], across sentence and document ends. There is no padding; what is left
    at the end of the stream and fills no row is dropped. One instance writes one store: it carries the stream's rest.
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialIds, length: int) -> None:
        self.row_length: int | None = length
        self._tokenizer, self._special, self._length = tokenizer, special, length
        self._dtype = token_dtype(tokenizer.get_vocab_size())
        self._rest: Ids = np.zeros(0, self._dtype)

    def encode(self, chunk: Chunk) -> Encoded:
        flat: list[int] = []
        encodings = self._tokenizer.encode_batch_fast(chunk.texts, add_special_tokens=False)
        for encoding, is_last in zip(encodings, chunk.ends, strict=True):
            flat += encoding.ids
            if is_last:
                flat.append(self._special.sep)
        return Encoded(np.array(flat, self._dtype), np.zeros(0, np.int64))

    def write(self, encoded: Encoded, writer: StoreWriter) -> None:
        stream = np.concatenate([self._rest, encoded.ids])
        inside = self._length - 2
        rows = len(stream) // inside
        self._rest = stream[rows * inside :]
        blocks_NL = np.empty((rows, self._length), self._dtype)
        blocks_NL[:, 0] = self._special.cls
        blocks_NL[:, 1:-1] = stream[: rows * inside].reshape(rows, inside)
        blocks_NL[:, -1] = self._special.sep
        writer.append(blocks_NL.ravel(), np.full(rows, self._length))


class Lines:
    """One row a document: [CLS] … [SEP]; longer ones are cut and get their special tokens again.

    The original's filters: rows of 11 tokens or fewer are dropped, and rows of which half or more are [UNK].
    """

    def __init__(self, tokenizer: Tokenizer, special: SpecialIds, length: int) -> None:
        self.row_length: int | None = None
        self._tokenizer, self._special, self._length = tokenizer, special, length
        self._dtype = token_dtype(tokenizer.get_vocab_size())

    def encode(self, chunk: Chunk) -> Encoded:
        flat: list[int] = []
        lengths: list[int] = []
        inside, special = self._length - 2, self._special
        for encoding in self._tokenizer.encode_batch_fast(chunk.texts, add_special_tokens=False):
            ids = encoding.ids
            for start in range(0, len(ids), inside):
                row = [special.cls, *ids[start : start + inside], special.sep]
                if len(row) > _TOO_SHORT and row.count(special.unk) < _UNKNOWN_SHARE * len(row):
                    flat += row
                    lengths.append(len(row))
        return Encoded(np.array(flat, self._dtype), np.array(lengths, np.int64))

    def write(self, encoded: Encoded, writer: StoreWriter) -> None:
        writer.append(encoded.ids, encoded.lengths)
