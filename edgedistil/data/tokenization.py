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

from edgedistil.core.errors import ModelError
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.tokenizer_files import SETTINGS_FILE

# Text that a thread encodes at once. Smaller chunks pay overhead, larger ones make the allocator
# ask for fresh memory each time: 16 to 128 KiB measured equal, 256 KiB slower
# (docs/log.md#corpus-and-masking).
CHUNK_CHARACTERS = 1 << 16
# Longer documents are encoded in pieces: the library's Encoding takes some 100 bytes per token.
_PIECE_CHARACTERS = 1 << 15

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Framing:
    """Special tokens of rows, as the tokenizer puts them around a text.

    Attributes:
        before: Ids in front of a row.
        after: Ids behind a row.
        separator: Id between two documents of a row.
        unknown: Id of the token for unknown text; None if the tokenizer needs no such token.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    separator: int
    unknown: int | None

    @property
    def size(self) -> int:
        """Special tokens of a row."""
        return len(self.before) + len(self.after)


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


def read_framing(folder: Path) -> Framing:
    """Returns the special tokens of rows for a model folder's tokenizer.

    Raises:
        ModelError: The tokenizer has no token that could separate documents.
    """
    tokenizer = read_tokenizer(folder)
    before, after = tokenizer.framing
    # Documents end with the token that ends a text: [SEP], </s>, or a decoder's end of text.
    separators = [*after[-1:], *before[:1], tokenizer.token_id("sep"), tokenizer.token_id("eos")]
    separator = next((token_id for token_id in separators if token_id is not None), None)
    if separator is None:
        raise ModelError(
            f"the tokenizer in {folder} has no special token that could separate documents",
            hint=f"name a sep_token in {SETTINGS_FILE}",
        )
    return Framing(tuple(before), tuple(after), separator, tokenizer.token_id("unk"))


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
