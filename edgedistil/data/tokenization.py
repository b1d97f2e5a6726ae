"""Text to token ids, in parallel and in order.

A fast tokenizer works outside Python's global lock, so threads are enough.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer

from edgedistil.core.tokenizer import read_tokenizer

# Text that a thread encodes at once. Smaller chunks pay overhead, larger ones make the allocator
# ask for fresh memory each time: 16 to 128 KiB measured equal, 256 KiB slower
# (docs/log.md#corpus-and-masking).
CHUNK_CHARACTERS = 1 << 16
# Longer documents are encoded in pieces: the library's Encoding takes some 100 bytes per token.
_PIECE_CHARACTERS = 1 << 15

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class SpecialIds:
    """Ids of BERT's special tokens."""

    cls: int
    sep: int
    pad: int
    mask: int
    unk: int


@dataclass(frozen=True)
class Chunk:
    """Pieces of text that are encoded together.

    Attributes:
        texts: The pieces, in order.
        ends: Whether a document ends with each piece.
    """

    texts: list[str]
    ends: list[bool]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads a model folder's tokenizer, without truncation and padding.

    Raises:
        ModelError: The folder has no tokenizer, or a corrupt one.
    """
    tokenizer = read_tokenizer(folder).backend
    # "[MASK]" in a text is text, not a special token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def special_ids(_tokenizer: Tokenizer, folder: Path) -> SpecialIds:
    """Looks up the special tokens of a model folder's tokenizer.

    Raises:
        ModelError: The vocabulary has no such token.
    """
    tokenizer = read_tokenizer(folder)
    kinds = ("cls", "sep", "pad", "mask", "unk")
    return SpecialIds(**{kind: tokenizer.require(kind) for kind in kinds})


def chunk_documents(
    documents: Iterable[str], *, characters: int = CHUNK_CHARACTERS
) -> Iterator[Chunk]:
    """Yields documents in chunks of about `characters`, so that memory stays constant."""
    texts: list[str] = []
    ends: list[bool] = []
    size = 0
    for document in documents:
        for piece, is_last in _pieces(document):
            texts.append(piece)
            ends.append(is_last)
            size += len(piece)
            if size >= characters:
                yield Chunk(texts, ends)
                texts, ends, size = [], [], 0
    if texts:
        yield Chunk(texts, ends)


def _pieces(document: str) -> Iterator[tuple[str, bool]]:
    """Yields (piece, whether it is the last); cuts long documents, at a space if possible."""
    start = 0
    while len(document) - start > _PIECE_CHARACTERS:
        cut = document.rfind(" ", start, start + _PIECE_CHARACTERS)
        stop = cut if cut > start else start + _PIECE_CHARACTERS
        yield document[start:stop], False
        start = stop
    yield document[start:], True


def map_in_order(work: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Yields `work(item)` for each item in order, computed by `workers` threads.

    At most two items per thread are in progress, so `items` is not read far ahead.
    """
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool,
        disable_tokenizer_pool(),
    ):
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                # The oldest result is waited for, which keeps the order.
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After a failure, or when the caller stops early.
            for future in pending:
                future.cancel()


@contextmanager
def disable_tokenizer_pool() -> Iterator[None]:
    """Keeps the tokenizer library from starting its own pool inside our threads.

    The two pools would compete for the cores, and the library's would not survive a fork.
    """
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
