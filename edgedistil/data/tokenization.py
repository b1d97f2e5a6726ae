"""Text to ids, in parallel, in order: a fast tokenizer in threads (it works outside Python's lock)."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer

from edgedistil.core.errors import ModelError

CHUNK_CHARACTERS = (
    1 << 16
)  # small enough that an allocator reuses what it has: larger ones are slower
_PIECE_CHARACTERS = (
    1 << 15
)  # longer documents are encoded in pieces: an Encoding takes some 100 bytes a token

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

    @property
    def all(self) -> tuple[int, ...]:
        return (self.cls, self.sep, self.pad, self.mask, self.unk)


@dataclass(frozen=True)
class Chunk:
    """Pieces of text that are encoded together; `ends[i]` says whether a document ends with piece i."""

    texts: list[str]
    ends: list[bool]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model folder, without the truncation and padding that its file may have baked in.

    Raises:
        ModelError: No tokenizer.json, or a damaged one.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json",
            hint="a fast tokenizer is needed: save it with transformers 5",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[MASK]" in a text is text
    return tokenizer


def special_ids(tokenizer: Tokenizer, folder: Path) -> SpecialIds:
    """Ids of the special tokens, under the names that the folder's tokenizer_config.json gives them.

    Raises:
        ModelError: The vocabulary lacks one.
    """
    config = folder / "tokenizer_config.json"
    named: dict[str, Any] = (
        json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    )
    ids = {
        kind: _special_id(tokenizer, named, kind, folder)
        for kind in ("cls", "sep", "pad", "mask", "unk")
    }
    return SpecialIds(**ids)


def _special_id(tokenizer: Tokenizer, named: dict[str, Any], kind: str, folder: Path) -> int:
    given = named.get(f"{kind}_token") or f"[{kind.upper()}]"
    token = given["content"] if isinstance(given, dict) else str(given)
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ModelError(
            f"the tokenizer in {folder} has no {token}", hint="a BERT tokenizer is needed"
        )
    return int(found)


def chunks(documents: Iterable[str], *, characters: int = CHUNK_CHARACTERS) -> Iterator[Chunk]:
    """Documents in portions of about `characters`, so that memory does not grow with the corpus."""
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
    """A long document cut at white space where there is some: (piece, whether it is the last)."""
    start = 0
    while len(document) - start > _PIECE_CHARACTERS:
        cut = document.rfind(" ", start, start + _PIECE_CHARACTERS)
        stop = cut if cut > start else start + _PIECE_CHARACTERS
        yield document[start:stop], False
        start = stop
    yield document[start:] if start else document, True


def map_in_order(work: Callable[[T], R], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """`work(item)` of each item, in order, by `workers` threads with at most two items each under way."""
    with ThreadPoolExecutor(workers, thread_name_prefix="tokenize") as pool, one_thread_a_call():
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Keeps the tokenizer library from starting its own pool inside our threads (it also would not survive a fork)."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
