"""Row layouts: `packed` blocks across document ends, `lines` of one document, or `texts`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core.tokenizer import vocabulary_size
from edgedistil.data.token_store import Ids, StoreWriter, token_dtype
from edgedistil.data.tokenization import Chunk, Framing

LayoutName = Literal["packed", "lines", "texts"]
# The original DistilBERT scripts drop sequences of 11 tokens or fewer, special tokens included …
_MAX_DROPPED_LENGTH = 11
# … and those of which half or more are unknown tokens.
_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True)
class EncodedChunk:
    """Token ids of a chunk.

    Attributes:
        ids: Ids of all sequences, end to end.
        lengths: Length of each sequence; empty for `packed`, whose rows are cut later.
    """

    ids: Ids
    lengths: NDArray[np.int64]


class Layout(Protocol):
    """Encodes chunks in any thread, then writes them in order."""

    row_length: int | None

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Tokenizes a chunk; safe in any thread."""

    def write(self, encoded: EncodedChunk, writer: StoreWriter) -> None:
        """Writes the rows of a chunk; called in the order of the chunks."""


def make_layout(name: LayoutName, *, tokenizer: Tokenizer, framing: Framing, length: int) -> Layout:
    """Creates a layout for one store.

    Args:
        name: `packed`, `lines` or `texts`.
        tokenizer: Fast tokenizer, without truncation and padding.
        framing: Special tokens of a row.
        length: Maximum tokens of a row, special tokens included.
    """
    return _LAYOUTS[name](tokenizer, framing, length)


class PackedLayout:
    """Rows of one length: special tokens, as many tokens of the stream as fit, special tokens.

    With BERT's tokens these are [CLS], length − 2 tokens, and [SEP]. The stream is every document
    followed by the separator ([SEP]), across sentence and document ends. There are no
    padding tokens; tokens at the end of the stream that fill no row are dropped. An instance writes
    one store, because it carries the rest of the stream from one chunk to the next.
    """

    def __init__(self, tokenizer: Tokenizer, framing: Framing, length: int) -> None:
        self.row_length: int | None = length
        self._tokenizer, self._framing, self._length = tokenizer, framing, length
        self._dtype = token_dtype(vocabulary_size(tokenizer))
        self._rest: Ids = np.zeros(0, self._dtype)

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Tokenizes a chunk; safe in any thread."""
        # Special tokens are added here and in `write`: the tokenizer would wrap every piece of a
        # long document in its own.
        ids: list[int] = []
        encodings = self._tokenizer.encode_batch_fast(chunk.texts, add_special_tokens=False)
        for encoding, is_last in zip(encodings, chunk.ends, strict=True):
            ids += encoding.ids
            if is_last:
                ids.append(self._framing.separator)
        return EncodedChunk(np.array(ids, self._dtype), np.zeros(0, np.int64))

    def write(self, encoded: EncodedChunk, writer: StoreWriter) -> None:
        """Writes the full rows of the stream; keeps the rest for the next chunk."""
        # Cut the stream into rows and keep what fills no row.
        stream = np.concatenate([self._rest, encoded.ids])
        inside = self._length - self._framing.size
        rows = len(stream) // inside
        self._rest = stream[rows * inside :]

        # Put the special tokens around each row.
        first = len(self._framing.before)
        blocks_NL = np.empty((rows, self._length), self._dtype)
        blocks_NL[:, :first] = self._framing.before
        blocks_NL[:, first : first + inside] = stream[: rows * inside].reshape(rows, inside)
        blocks_NL[:, first + inside :] = self._framing.after
        writer.append(blocks_NL.ravel(), np.full(rows, self._length))


class _DocumentRows:
    """Rows of one document each, between special tokens; a subclass cuts the documents."""

    def __init__(self, tokenizer: Tokenizer, framing: Framing, length: int) -> None:
        self.row_length: int | None = None
        self._tokenizer, self._framing = tokenizer, framing
        self._inside = length - framing.size
        self._dtype = token_dtype(vocabulary_size(tokenizer))

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Tokenizes a chunk and cuts it into rows; safe in any thread."""
        ids: list[int] = []
        lengths: list[int] = []
        encodings = self._tokenizer.encode_batch_fast(chunk.texts, add_special_tokens=False)
        for encoding in encodings:
            for row in self._rows(encoding.ids):
                ids += row
                lengths.append(len(row))
        return EncodedChunk(np.array(ids, self._dtype), np.array(lengths, np.int64))

    def write(self, encoded: EncodedChunk, writer: StoreWriter) -> None:
        """Writes the rows of a chunk."""
        writer.append(encoded.ids, encoded.lengths)

    def _rows(self, tokens: list[int]) -> Iterable[list[int]]:
        """Returns the rows of one document."""
        raise NotImplementedError

    def _framed(self, tokens: list[int]) -> list[int]:
        return [*self._framing.before, *tokens, *self._framing.after]


class LinesLayout(_DocumentRows):
    """One row per document, between special tokens.

    A document longer than a row is cut into several, each with its own special tokens. The
    original's filters apply: rows of 11 tokens or fewer are dropped, and rows of which half or more
    are unknown tokens.
    """

    def _rows(self, tokens: list[int]) -> Iterable[list[int]]:
        starts = range(0, len(tokens), self._inside)
        rows = (self._framed(tokens[start : start + self._inside]) for start in starts)
        return filter(self._is_kept, rows)

    def _is_kept(self, row: list[int]) -> bool:
        if len(row) <= _MAX_DROPPED_LENGTH:
            return False
        unknown = 0 if self._framing.unknown is None else row.count(self._framing.unknown)
        return unknown < _UNKNOWN_SHARE * len(row)


class TextsLayout(_DocumentRows):
    """One row per text, between special tokens; what exceeds the row is cut off.

    Every text has a row, so that the number of a row is the number of its text. A text is far
    shorter than a piece of a chunk, so each piece is a text.
    """

    def _rows(self, tokens: list[int]) -> Iterable[list[int]]:
        return [self._framed(tokens[: self._inside])]


_LAYOUTS: dict[LayoutName, type[PackedLayout | LinesLayout | TextsLayout]] = {
    "packed": PackedLayout,
    "lines": LinesLayout,
    "texts": TextsLayout,
}
