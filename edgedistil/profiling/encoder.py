"""Token ids of the profiled models' inputs, from a tokenizer.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistil.core.errors import CorpusError, ModelError

# Any text with a token: it shows which special tokens are before and after it.
_PROBE = "a"
_PAD = "[PAD]"


@dataclass(frozen=True)
class InputShape:
    """Sequences that all profiled models can take.

    Attributes:
        max_length: Positions in tokens; None if unknown.
        fixed_length: The only length, for graphs with fixed shapes; None if free.
        segments: Rows of the segment table; None if unknown.
    """

    max_length: int | None = None
    fixed_length: int | None = None
    segments: int | None = None

    @property
    def longest(self) -> int | None:
        """Most tokens of a sequence; None if unknown."""
        bounds = [length for length in (self.max_length, self.fixed_length) if length is not None]
        return min(bounds, default=None)


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer, and the special tokens that it puts before and after a text."""

    path: Path
    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    shape: InputShape

    @classmethod
    def load(cls, path: Path, shape: InputShape) -> TextEncoder:
        """Reads a tokenizer.json; its own truncation and padding are switched off.

        Raises:
            ModelError: The file cannot be read as a tokenizer.
        """
        from tokenizers import Tokenizer

        with _library_errors(path):
            tokenizer = Tokenizer.from_file(str(path))
            # Lengths are exact here, whatever the file was saved with.
            tokenizer.no_truncation()
            tokenizer.no_padding()
            probe = tokenizer.encode(_PROBE)
            mask = list(probe.special_tokens_mask)
        # A text without tokens of its own: all that is there goes before the others.
        first = mask.index(0) if 0 in mask else len(mask)
        last = len(mask) - mask[::-1].index(0) if 0 in mask else len(mask)
        return cls(path, tokenizer, tuple(probe.ids[:first]), tuple(probe.ids[last:]), shape)

    @property
    def special_tokens(self) -> int:
        """Special tokens of a single text."""
        return len(self.before) + len(self.after)

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
            with _library_errors(self.path):
                ids += self.tokenizer.encode(text, add_special_tokens=False).ids
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
        with _library_errors(self.path):
            offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        # Several tokens may be parts of one character, and a blank belongs to what is before it.
        starts = sorted({start for start, end in offsets if end > start})
        ends = [*starts, len(text)][1:]
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]

    def single(self, ids: Sequence[int]) -> dict[str, Any]:
        """Returns the inputs of one text."""
        return self._feeds([*self.before, *ids, *self.after], None)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns the inputs of pairs of texts, with token types, cut at the model's positions.

        Empty if the model is too short for a token of each text.
        """
        limit = self.shape.longest
        with _library_errors(self.path):
            if limit is not None:
                if limit < self.tokenizer.num_special_tokens_to_add(True) + 2:
                    return []
                # Tokens are removed from the longer text first, as transformers does.
                self.tokenizer.enable_truncation(limit)
            encodings = [self.tokenizer.encode(first, second) for first, second in pairs]
            self.tokenizer.no_truncation()
        return [self._feeds(encoding.ids, encoding.type_ids) for encoding in encodings]

    def _feeds(self, ids: Sequence[int], type_ids: Sequence[int] | None) -> dict[str, Any]:
        """Returns every input that a BERT-like encoder may have.

        The runner passes those that the graph has.
        """
        length = self.shape.fixed_length or len(ids)
        input_ids_BL = np.full((1, length), self._padding_id(), np.int64)
        attention_mask_BL = np.zeros_like(input_ids_BL)
        token_type_ids_BL = np.zeros_like(input_ids_BL)
        input_ids_BL[0, : len(ids)] = ids
        attention_mask_BL[0, : len(ids)] = 1
        if type_ids is not None:
            token_type_ids_BL[0, : len(ids)] = type_ids
        # A model with one segment has a table of one row.
        if self.shape.segments is not None:
            token_type_ids_BL = np.minimum(token_type_ids_BL, self.shape.segments - 1)
        return {
            "input_ids": input_ids_BL,
            "attention_mask": attention_mask_BL,
            "token_type_ids": token_type_ids_BL,
        }

    def _padding_id(self) -> int:
        padding = self.tokenizer.token_to_id(_PAD)
        return 0 if padding is None else int(padding)


@contextmanager
def _library_errors(path: Path) -> Iterator[None]:
    """Converts the errors of the tokenizers library into a ModelError."""
    try:
        yield
    except BaseException as error:
        # The library raises bare exceptions for every defect of the file, and the panics of its
        # Rust code are no subclass of Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"cannot read the tokenizer {path}: {error}",
            hint="save it again with transformers: tokenizer.save_pretrained(FOLDER)",
        ) from error
