"""Token ids of the profiled models' inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import CorpusError
from edgedistil.core.library_errors import library_errors
from edgedistil.core.tokenizer import TextTokenizer, read_tokenizer


@dataclass(frozen=True)
class InputShape:
    """Sequences that all profiled models can take.

    Attributes:
        max_length: Positions in tokens; None if unknown.
        fixed_length: The only length, for graphs with fixed shapes; None if free.
        segments: Rows of the segment table; None if unknown.
        batch: Sequences per call.
    """

    max_length: int | None = None
    fixed_length: int | None = None
    segments: int | None = None
    batch: int = 1

    @property
    def longest(self) -> int | None:
        """Most tokens of a sequence; None if unknown."""
        bounds = [length for length in (self.max_length, self.fixed_length) if length is not None]
        return min(bounds, default=None)


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, and the shape of the inputs that it makes."""

    tokenizer: TextTokenizer
    shape: InputShape

    @classmethod
    def load(cls, folder: Path, shape: InputShape) -> TextEncoder:
        """Reads the tokenizer of a model folder; raises ModelError if that is not possible."""
        return cls(read_tokenizer(folder), shape)

    @property
    def special_tokens(self) -> int:
        """Special tokens around a single text."""
        return self.tokenizer.special_count(pair=False)

    def stream(self, texts: Sequence[str], *, needed: int) -> Iterator[int]:
        """Yields token ids of the texts without special tokens, repeated without end.

        Args:
            texts: Encoded until `needed` ids are there; the rest is not read.
            needed: Number of ids that the caller takes.
        Raises:
            CorpusError: The texts have no tokens.
        """
        ids: list[int] = []
        for text in texts:
            ids += self._encode(text).ids
            if len(ids) >= needed:
                break
        if not ids:
            raise CorpusError(
                "the tokenizer returns no tokens for this text",
                hint="check that the tokenizer and the text are of the same language",
            )
        while True:
            yield from ids

    def split_tokens(self, text: str) -> list[str]:
        """Returns the parts of a text, one per token."""
        offsets = self._encode(text).offsets
        # Several tokens may be parts of one character, and a blank belongs to what is before it.
        starts = sorted({start for start, end in offsets if end > start})
        ends = [*starts, len(text)][1:]
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]

    def single(self, ids: Sequence[int]) -> dict[str, Any]:
        """Returns the inputs of one text."""
        return self._feeds(*self.tokenizer.frame(ids))

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns the inputs of pairs of texts, with token types, cut at the model's positions.

        Empty if the model is too short for a token of each text.
        """
        limit = self.shape.longest
        if limit is not None and limit < self.tokenizer.special_count(pair=True) + 2:
            return []
        backend = self.tokenizer.backend
        with self._library_errors():
            if limit is not None:
                # Tokens are removed from the longer text first, as transformers does.
                backend.enable_truncation(limit, direction=self.tokenizer.truncation_side)
            encodings = [backend.encode(first, second) for first, second in pairs]
            backend.no_truncation()
        return [self._feeds(encoding.ids, encoding.type_ids) for encoding in encodings]

    def _encode(self, text: str) -> Any:
        """Returns the library's encoding of a text, without special tokens."""
        with self._library_errors():
            return self.tokenizer.backend.encode(text, add_special_tokens=False)

    def _library_errors(self) -> Any:
        return library_errors(f"the tokenizer in {self.tokenizer.folder} cannot encode this text")

    def _feeds(self, ids: Sequence[int], type_ids: Sequence[int]) -> dict[str, Any]:
        """Returns every input that a BERT-like encoder may have.

        The runner passes those that the graph has.
        """
        length = self.shape.fixed_length or len(ids)
        input_ids_BL = np.full((1, length), self.tokenizer.pad_id, np.int64)
        attention_mask_BL = np.zeros_like(input_ids_BL)
        token_type_ids_BL = np.zeros_like(input_ids_BL)
        input_ids_BL[0, : len(ids)] = ids
        attention_mask_BL[0, : len(ids)] = 1
        token_type_ids_BL[0, : len(ids)] = type_ids
        # A model with one segment has a table of one row.
        if self.shape.segments is not None:
            token_type_ids_BL = np.minimum(token_type_ids_BL, self.shape.segments - 1)
        return {
            "input_ids": input_ids_BL,
            "attention_mask": attention_mask_BL,
            "token_type_ids": token_type_ids_BL,
        }
