"""Sources → a tokenized corpus on disk: held-out part split off first, cached by what went in, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core import console
from edgedistil.core.errors import CorpusError, StorageError
from edgedistil.core.recipe import SourceSpec
from edgedistil.core.records import CorpusRecord, Source, read_record
from edgedistil.core.rundir import replacing, sha256_file, storage_errors
from edgedistil.data.building import only_builder, remove_remains
from edgedistil.data.fingerprint import source_identity
from edgedistil.data.heldout import HeldOut
from edgedistil.data.layouts import Layout, LayoutName, make_layout
from edgedistil.data.sources import describe_source, read_documents, source_bytes
from edgedistil.data.text_files import OnBadUtf8
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.data.tokenization import (
    SpecialIds,
    chunks,
    load_tokenizer,
    map_in_order,
    special_ids,
)

_FORMAT = 1  # of the cache: raise it when a reader, a layout or a file format changes


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus, memory-mapped. `folder` is in the cache and is not to be changed."""

    folder: Path
    record: CorpusRecord
    train: TokenStore
    heldout: TokenStore

    @property
    def heldout_text(self) -> Path:
        """The held-out documents, one a line, UTF-8."""
        return self.folder / "heldout.txt"

    @property
    def token_counts_V(self) -> NDArray[np.int64]:  # noqa: N802 - the shape is part of the name
        """How often each id stands in the training rows."""
        counts: NDArray[np.int64] = np.load(self.folder / "token_counts.npy")
        return counts


@dataclass(frozen=True)
class _Settings:
    layout: LayoutName
    block_length: int
    heldout_share: float
    heldout_max_documents: int
    on_bad_utf8: OnBadUtf8


def prepare_corpus(
    sources: Sequence[SourceSpec],
    tokenizer_folder: Path,
    *,
    layout: LayoutName,
    block_length: int,
    heldout_share: float,
    heldout_max_documents: int,
    on_bad_utf8: OnBadUtf8,
    cache: Path,
    workers: int | None = None,
) -> Corpus:
    """The corpus of these sources, out of the cache or built into it.

    Args:
        sources: What is read, in order.
        tokenizer_folder: Model folder with tokenizer.json.
        layout: packed (rows of exactly block_length, no padding) or lines (a sequence a document).
        block_length: Most tokens of a row, special tokens included.
        heldout_share: Share of the documents that nobody trains on; which ones, their hashes decide.
        heldout_max_documents: Most of them.
        on_bad_utf8: refuse or replace.
        cache: The cache's root; the corpus lies under corpus/<key>.
        workers: Threads that tokenize; None is one a core.
    Raises:
        CorpusError: A source is missing, damaged or not UTF-8, or there is too little text for one row.
        OfflineError: A source cannot be reached.
        ModelError: No usable tokenizer.
        StorageError: The cache cannot be written.
    """
    settings = _Settings(layout, block_length, heldout_share, heldout_max_documents, on_bad_utf8)
    identities = [source_identity(spec, cache=cache) for spec in sources]
    key = _cache_key(identities, tokenizer_folder, settings)
    folder = cache / "corpus" / key
    found = _open_if_whole(folder, sources)
    if found is not None:
        return found
    with only_builder(folder):
        found = _open_if_whole(folder, sources)  # another process may have built it while we waited
        if found is not None:
            return found
        remove_remains(folder)
        with replacing(folder) as aside:
            _build(
                aside,
                sources,
                identities,
                tokenizer_folder,
                settings,
                key,
                workers or os.cpu_count() or 1,
            )
        return _open(folder, sources)


def _build(
    aside: Path,
    sources: Sequence[SourceSpec],
    identities: Sequence[str],
    tokenizer_folder: Path,
    settings: _Settings,
    key: str,
    workers: int,
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder)
    special = special_ids(tokenizer, tokenizer_folder)
    split = HeldOut(settings.heldout_share, settings.heldout_max_documents)
    facts: list[Source] = []
    with storage_errors(aside):
        aside.mkdir()
    sizes = [source_bytes(spec) for spec in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    with console.progress("tokenizing the corpus", total, unit="bytes") as bar:
        training = _training_documents(sources, identities, settings, split, facts, bar)
        train = _write_store(aside / "train", training, tokenizer, special, settings, workers)
    held = split.documents()
    heldout = _write_store(aside / "heldout", iter(held), tokenizer, special, settings, workers)
    _refuse_empty(aside, facts, len(held), settings)
    record = CorpusRecord(
        sources=facts,
        layout=settings.layout,
        block_length=settings.block_length,
        vocabulary=tokenizer.get_vocab_size(),
        train_tokens=int(train.token_counts_V.sum()),
        heldout_tokens=int(heldout.token_counts_V.sum()),
        heldout_documents=len(held),
        cache_key=key,
        cached_at="",
    )
    with storage_errors(aside):
        np.save(aside / "token_counts.npy", train.token_counts_V)
        (aside / "heldout.txt").write_text(
            "".join(" ".join(d.split()) + "\n" for d in held), encoding="utf-8"
        )
        text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)
        (aside / "corpus.json").write_text(text + "\n", encoding="utf-8")


def _training_documents(
    sources: Sequence[SourceSpec],
    identities: Sequence[str],
    settings: _Settings,
    split: HeldOut,
    facts: list[Source],
    bar: console.Bar,
) -> Iterator[str]:
    """Every document that is not held out; `facts` gets an entry as each source ends."""
    for spec, identity in zip(sources, identities, strict=True):
        documents, text_bytes = 0, 0
        content = hashlib.sha256()
        for document in read_documents(spec, on_bad_utf8=settings.on_bad_utf8, advance=bar.advance):
            documents += 1
            raw = document.encode("utf-8", "replace")
            text_bytes += len(raw)
            if spec.hub is not None:
                content.update(raw)
            yield from split.offer(document)
        sha256 = content.hexdigest() if spec.hub is not None else identity
        origin = describe_source(spec)
        facts.append(
            Source(
                name=origin.name,
                licence=origin.licence,
                origin=origin.origin,
                sha256=sha256,
                documents=documents,
                text_bytes=text_bytes,
            )
        )


def _write_store(
    folder: Path,
    documents: Iterator[str],
    tokenizer: Tokenizer,
    special: SpecialIds,
    settings: _Settings,
    workers: int,
) -> StoreWriter:
    layout: Layout = make_layout(
        settings.layout, tokenizer=tokenizer, special=special, length=settings.block_length
    )
    writer = StoreWriter(
        folder, vocabulary=tokenizer.get_vocab_size(), row_length=layout.row_length
    )
    for encoded in map_in_order(layout.encode, chunks(documents), workers=workers):
        layout.write(encoded, writer)
    writer.close()
    return writer


def _refuse_empty(aside: Path, facts: Sequence[Source], held: int, settings: _Settings) -> None:
    documents = sum(source.documents for source in facts)
    if documents == 0:
        raise CorpusError(
            "the corpus is empty: no source has a line of text",
            hint="look at corpus.sources in the recipe",
        )
    for part, what in (("train", documents - held), ("heldout", held)):
        if len(TokenStore(aside / part)) == 0:
            raise CorpusError(
                f"the corpus is too small: its {part} part ({what} of {documents} documents) fills no row of "
                f"{settings.block_length} tokens ({settings.layout})",
                hint="give more text, a larger corpus.heldout_share or a smaller corpus.block_length",
            )


def _cache_key(identities: Sequence[str], tokenizer_folder: Path, settings: _Settings) -> str:
    load_tokenizer(tokenizer_folder)  # a missing tokenizer is told before anything else
    config = tokenizer_folder / "tokenizer_config.json"
    what: dict[str, Any] = {
        "format": _FORMAT,
        "sources": list(identities),
        "tokenizer": sha256_file(tokenizer_folder / "tokenizer.json"),
        "tokenizer_config": sha256_file(config) if config.is_file() else None,
        **vars(settings),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _open_if_whole(folder: Path, sources: Sequence[SourceSpec]) -> Corpus | None:
    if not folder.is_dir():
        return None
    try:
        return _open(folder, sources)
    except StorageError as error:
        console.warn(f"the cached corpus is damaged and is built anew: {error.message}")
        return None


def _open(folder: Path, sources: Sequence[SourceSpec]) -> Corpus:
    """The corpus in a folder; names and licences are today's, for the cache knows a source by its content alone."""
    stored = read_record(folder / "corpus.json", CorpusRecord)
    named = [
        source.model_copy(update=vars(describe_source(spec)))
        for source, spec in zip(stored.sources, sources, strict=True)
    ]
    record = stored.model_copy(update={"sources": named, "cached_at": str(folder)})
    return Corpus(folder, record, TokenStore(folder / "train"), TokenStore(folder / "heldout"))
