"""Batches of real text for distill_throughput.py: padded lines or full blocks."""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgedistil.core.places import cache_root
from edgedistil.data.masking import mask_bert, row_generator
from edgedistil.models.teacher import load_teacher

# Shorter pieces are left out, and pieces are sorted in steps of this many tokens.
_MIN_TOKENS = 10
_LENGTH_GROUP = 4
_MASK_SHARE = 0.15


@dataclass(frozen=True)
class Batch:
    """Inputs of one step, shape (B, L)."""

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    labels_BL: Tensor

    @property
    def attended(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask_BL.sum())


class Text:
    """A corpus as batches, which are functions of their number.

    Args:
        corpus: Text, one sequence per line.
        sequences: Sequences per batch.
        length: Maximum length of a sequence, special tokens included.
        lines: Number of lines to read.
    """

    def __init__(self, corpus: Path, *, sequences: int, length: int, lines: int) -> None:
        teacher = load_teacher("asset:minilm", revision=None, cache=cache_root())
        self._tokenizer = teacher.tokenizer
        self._sequences = sequences
        encodings = self._tokenizer.backend.encode_batch(
            _read_lines(corpus, lines), add_special_tokens=False
        )
        ids_by_line = [encoding.ids for encoding in encodings]
        # [CLS] and [SEP] are added to every row.
        inner = length - 2
        self._padded = _groups_of_similar_length(ids_by_line, inner, sequences)
        self._order = np.random.default_rng(7).permutation(len(self._padded))
        stream = list(chain.from_iterable(ids_by_line))
        starts = range(0, len(stream) - inner + 1, inner)
        self._blocks = [stream[start : start + inner] for start in starts]

    def batch(self, number: int, *, packed: bool) -> Batch:
        """Returns a masked batch of full blocks, or of padded lines."""
        rows = self._block_rows(number) if packed else self._padded_rows(number)
        ids_BL = self._pad(rows)
        mask_BL = (ids_BL != self._tokenizer.pad_id).long()
        masked = mask_bert(
            ids_BL,
            mask_BL,
            generator=row_generator(8, number, range(len(rows))),
            share=_MASK_SHARE,
            mask_id=self._tokenizer.require("mask"),
            vocabulary=self._tokenizer.size,
            special_ids=self._tokenizer.special_ids,
        )
        return Batch(masked.input_ids_BL, mask_BL, masked.labels_BL)

    def attended_share(self) -> float:
        """Share of the positions of padded batches that are not padding."""
        batches = [self.batch(number, packed=False) for number in range(50)]
        positions = sum(batch.input_ids_BL.numel() for batch in batches)
        return sum(batch.attended for batch in batches) / positions

    def _block_rows(self, number: int) -> list[list[int]]:
        first = number * self._sequences
        indices = range(first, first + self._sequences)
        return [self._blocks[index % len(self._blocks)] for index in indices]

    def _padded_rows(self, number: int) -> list[list[int]]:
        return self._padded[self._order[number % len(self._padded)]]

    def _pad(self, rows: list[list[int]]) -> Tensor:
        tokenizer = self._tokenizer
        longest = max(len(row) for row in rows) + 2
        ids_BL = torch.full((len(rows), longest), tokenizer.pad_id)
        for index, row in enumerate(rows):
            ids = [tokenizer.require("cls"), *row, tokenizer.require("sep")]
            ids_BL[index, : len(ids)] = torch.tensor(ids)
        return ids_BL


def _groups_of_similar_length(
    ids_by_line: list[list[int]], inner: int, sequences: int
) -> list[list[list[int]]]:
    """Cuts lines into pieces of at most `inner` tokens and groups them by length."""
    pieces = []
    for line in ids_by_line:
        pieces += [line[start : start + inner] for start in range(0, len(line), inner)]
    long_pieces = [piece for piece in pieces if len(piece) >= _MIN_TOKENS]
    ordered = sorted(long_pieces, key=lambda piece: len(piece) // _LENGTH_GROUP)
    starts = range(0, len(ordered) - sequences + 1, sequences)
    return [ordered[start : start + sequences] for start in starts]


def _read_lines(corpus: Path, lines: int) -> list[str]:
    with _open_text(corpus) as file:
        return [line.strip() for line in islice(file, lines)]


def _open_text(corpus: Path) -> io.TextIOBase:
    if corpus.suffix == ".zst":
        import zstandard

        return io.TextIOWrapper(zstandard.open(corpus, "rb"), encoding="utf-8")
    if corpus.suffix == ".gz":
        return io.TextIOWrapper(gzip.GzipFile(corpus), encoding="utf-8")
    return corpus.open(encoding="utf-8")
