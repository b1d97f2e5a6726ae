"""Tokenizes text sources into a cached corpus.

A corpus is in the cache complete, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgedistil.core import console
from edgedistil.core.digests import changed_file
from edgedistil.core.distill_records import CorpusRecord, CorpusSource
from edgedistil.core.errors import CorpusError, StorageError
from edgedistil.core.fetch import cache_lock
from edgedistil.core.recipe import Corpus, SourceSpec
from edgedistil.core.records import read_record
from edgedistil.core.replacement import recover
from edgedistil.core.rundir import replacing, sha256_file, storage_errors, tree_manifest
from edgedistil.core.tokenizer import read_tokenizer, vocabulary_size
from edgedistil.core.unknown_tokens import warn_of_unknown_tokens
from edgedistil.data.fingerprint import source_fingerprint
from edgedistil.data.heldout_split import HeldoutSplit
from edgedistil.data.layouts import Layout, LayoutName, make_layout
from edgedistil.data.sources import describe_source, read_documents, source_bytes
from edgedistil.data.texts import Prompts, Text, cut_texts, with_prompts
from edgedistil.data.token_store import StoreWriter, TokenStore
from edgedistil.data.tokenization import (
    Framing,
    chunk_documents,
    load_tokenizer,
    map_in_order,
    read_framing,
)

# Version of the cache's content. Raise it when a reader, a layout or a file format changes: every
# cached corpus is then built again.
_FORMAT = 1


Part = Literal["train", "heldout"]


@dataclass(frozen=True)
class TokenizedCorpus:
    """A tokenized corpus in the cache, memory-mapped; its folder must not be changed."""

    folder: Path
    record: CorpusRecord
    train: TokenStore
    heldout: TokenStore

    @property
    def heldout_text(self) -> Path:
        """File of the held-out documents, one per line, UTF-8."""
        return self.folder / "heldout.txt"

    def texts(self, part: Part) -> Path:
        """Returns the file with the texts of a part's rows; with the layout `texts` only."""
        return self.folder / f"{part}.texts.jsonl"

    def store(self, part: Part) -> TokenStore:
        """Returns the rows of a part."""
        return self.train if part == "train" else self.heldout

    @property
    def token_counts_V(self) -> NDArray[np.int64]:  # noqa: N802 - the shape is part of the name
        """Occurrences of each token id in the training rows."""
        path = self.folder / "token_counts.npy"
        try:
            counts: NDArray[np.int64] = np.load(path)
        # numpy raises an EOFError for an empty file.
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        return counts


def prepare_corpus(
    settings: Corpus,
    tokenizer_folder: Path,
    *,
    cache: Path,
    workers: int | None = None,
    prompts: Prompts | None = None,
) -> TokenizedCorpus:
    """Returns the tokenized corpus, from the cache or built into it.

    Args:
        settings: The recipe's section `[corpus]`: sources, layout, row length, held-out part.
        tokenizer_folder: Model folder with tokenizer.json.
        cache: Root of the cache; the corpus is stored under `corpus/<key>`.
        workers: Threads that tokenize; None: one per core.
        prompts: Texts put before queries and documents, with the layout `texts`.
    Raises:
        CorpusError: A source is missing, corrupt or not UTF-8, or has too little text for one row.
        OfflineError: A source cannot be reached.
        ModelError: The folder has no usable tokenizer.
        StorageError: The cache cannot be written.
    """
    if settings.layout == "auto":
        settings = settings.model_copy(update={"layout": "packed"})
    tokenizing = _Tokenizing(tokenizer_folder, settings, workers, prompts or Prompts())
    corpus = _open_or_build(tokenizing, cache=cache)
    # Many unknown tokens mean text that the vocabulary was not made for.
    counts_V = corpus.token_counts_V
    unknown_id = read_framing(tokenizer_folder).unknown
    unknown = 0 if unknown_id is None else int(counts_V[unknown_id])
    warn_of_unknown_tokens(unknown, int(counts_V.sum()), text="the corpus")
    return corpus


def _open_or_build(tokenizing: _Tokenizing, *, cache: Path) -> TokenizedCorpus:
    settings = tokenizing.settings
    # Hash what goes in; text is read only where no cached corpus has this key.
    fingerprints = [source_fingerprint(spec, cache=cache) for spec in settings.sources]
    key = _cache_key(fingerprints, tokenizing)
    folder = cache / "corpus" / key

    recover(folder.parent)
    # Without the lock, because a cache that cannot be written may have it.
    cached = _open_if_intact(folder, settings.sources, cache=cache, warn=False)
    if cached is not None:
        return cached
    with cache_lock(folder):
        # Another process may have built it while this one waited for the lock.
        cached = _open_if_intact(folder, settings.sources, cache=cache)
        if cached is not None:
            return cached
        with replacing(folder) as unfinished:
            _build(unfinished, fingerprints, tokenizing, key)
        return _open(folder, settings.sources)


@dataclass(frozen=True)
class _Tokenizing:
    """Everything that turns documents into the rows of a store."""

    tokenizer_folder: Path
    settings: Corpus
    workers: int | None
    prompts: Prompts

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_folder)

    @property
    def framing(self) -> Framing:
        return read_framing(self.tokenizer_folder)

    def write_store(self, folder: Path, documents: Iterable[str]) -> StoreWriter:
        """Writes the rows of `documents` into a new store; returns its closed writer."""
        if self.settings.layout == "texts":
            path = folder.with_name(f"{folder.name}.texts.jsonl")
            documents = with_prompts(self._texts(documents), self.prompts, path)
        # A layout carries the rest of the token stream from chunk to chunk: one per store.
        layout: Layout = make_layout(
            cast(LayoutName, self.settings.layout),
            tokenizer=self.tokenizer,
            framing=self.framing,
            length=self.settings.block_length,
        )
        writer = StoreWriter(
            folder, vocabulary=vocabulary_size(self.tokenizer), row_length=layout.row_length
        )
        chunks = chunk_documents(documents)
        # Encoding runs in threads; rows are written here, in the order of the documents.
        workers = self.workers or os.cpu_count() or 1
        for encoded in map_in_order(layout.encode, chunks, workers=workers):
            layout.write(encoded, writer)
        writer.close()
        return writer

    def _texts(self, documents: Iterable[str]) -> Iterator[Text]:
        for document in documents:
            yield from cut_texts(
                document,
                block_length=self.settings.block_length,
                sentence_share=self.settings.sentence_share,
            )


def _build(folder: Path, fingerprints: Sequence[str], tokenizing: _Tokenizing, key: str) -> None:
    """Reads all sources once and write a complete corpus into `folder`."""
    settings = tokenizing.settings
    split = HeldoutSplit(settings.heldout_share, settings.heldout_max_documents)
    sources: list[CorpusSource] = []
    with storage_errors(folder):
        folder.mkdir()

    # Training documents are tokenized while they are read; the held-out ones stay in memory.
    total = _total_bytes(settings.sources)
    with console.progress("tokenizing the corpus", total, unit="bytes") as bar:
        training = _training_documents(settings, fingerprints, split, sources, bar)
        train = tokenizing.write_store(folder / "train", training)
    heldout_documents = split.documents()
    heldout = tokenizing.write_store(folder / "heldout", heldout_documents)
    _check_not_empty(folder, sources, len(heldout_documents), settings)

    # `cached_at` is filled in when the corpus is opened: the folder is renamed after this.
    record = CorpusRecord(
        sources=sources,
        layout=settings.layout,
        block_length=settings.block_length,
        vocabulary=vocabulary_size(tokenizing.tokenizer),
        train_tokens=int(train.token_counts_V.sum()),
        heldout_tokens=int(heldout.token_counts_V.sum()),
        heldout_documents=len(heldout_documents),
        cache_key=key,
        cached_at="",
    )
    # One document per line: white space inside a document, line ends included, becomes a space.
    heldout_lines = [" ".join(document.split()) + "\n" for document in heldout_documents]
    with storage_errors(folder):
        np.save(folder / "token_counts.npy", train.token_counts_V)
        (folder / "heldout.txt").write_text("".join(heldout_lines), encoding="utf-8")
        # The record comes last, because it has the digests of all other files.
        record = record.model_copy(update={"files": tree_manifest(folder)})
        text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False)
        (folder / "corpus.json").write_text(text + "\n", encoding="utf-8")


def _total_bytes(sources: Sequence[SourceSpec]) -> int | None:
    """Size of all sources in bytes; None if one is unknown."""
    total = 0
    for spec in sources:
        size = source_bytes(spec)
        if size is None:
            return None
        total += size
    return total


def _training_documents(
    settings: Corpus,
    fingerprints: Sequence[str],
    split: HeldoutSplit,
    sources: list[CorpusSource],
    bar: console.Bar,
) -> Iterator[str]:
    """Yields the documents of the training part; appends to `sources` as each ends."""
    for spec, fingerprint in zip(settings.sources, fingerprints, strict=True):
        documents, text_bytes = 0, 0
        content = hashlib.sha256()
        for document in read_documents(spec, on_bad_utf8=settings.on_bad_utf8, advance=bar.advance):
            documents += 1
            # `replace`: a JSON string may hold a lone surrogate, which UTF-8 cannot encode.
            raw = document.encode("utf-8", "replace")
            text_bytes += len(raw)
            if spec.hub is not None:
                content.update(raw)
            yield from split.add(document)
        description = describe_source(spec)
        # The fingerprint of a hub data set is its name and revision; its content is known only now.
        sha256 = content.hexdigest() if spec.hub is not None else fingerprint
        sources.append(
            CorpusSource(
                name=description.name,
                licence=description.licence,
                origin=description.origin,
                sha256=sha256,
                documents=documents,
                text_bytes=text_bytes,
            )
        )


def _check_not_empty(
    folder: Path, sources: Sequence[CorpusSource], heldout_documents: int, settings: Corpus
) -> None:
    """Raises CorpusError unless both parts have at least one row."""
    documents = sum(source.documents for source in sources)
    if documents == 0:
        raise CorpusError(
            "the corpus is empty: none of its sources has a line of text",
            hint="check corpus.sources in the recipe",
        )
    # A part may have documents and no row: too few tokens, or all rows dropped by a filter.
    counts = {"train": documents - heldout_documents, "heldout": heldout_documents}
    for part, count in counts.items():
        if len(TokenStore(folder / part)) == 0:
            raise CorpusError(
                f"the corpus is too small: its {part} part ({count} of {documents} documents) "
                f"fills no row of {settings.block_length} tokens ({settings.layout})",
                hint="add text, increase corpus.heldout_share or decrease corpus.block_length",
            )


def _cache_key(fingerprints: Sequence[str], tokenizing: _Tokenizing) -> str:
    """Hashes of everything that decides the content of the corpus."""
    settings, tokenizer_folder = tokenizing.settings, tokenizing.tokenizer_folder
    config = tokenizer_folder / "tokenizer_config.json"
    # These names are the key's format: another name or a new entry rebuilds every cached corpus.
    parts: dict[str, Any] = {
        "format": _FORMAT,
        "sources": list(fingerprints),
        "tokenizer": read_tokenizer(tokenizer_folder).sha256,
        "tokenizer_config": sha256_file(config) if config.is_file() else None,
        "layout": settings.layout,
        "block_length": settings.block_length,
        "heldout_share": settings.heldout_share,
        "heldout_max_documents": settings.heldout_max_documents,
        "on_bad_utf8": settings.on_bad_utf8,
    }
    if settings.layout == "texts":
        parts["sentence_share"] = settings.sentence_share
        parts["prompts"] = [tokenizing.prompts.query, tokenizing.prompts.document]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _open_if_intact(
    folder: Path, sources: Sequence[SourceSpec], *, cache: Path, warn: bool = True
) -> TokenizedCorpus | None:
    """Opens a cached corpus; None if it is missing or corrupt, with a warning if `warn`."""
    try:
        if not folder.is_dir():
            return None
        _check_intact(folder, sources, cache=cache)
        return _open(folder, sources)
    except (OSError, StorageError) as error:
        if warn:
            reason = error.message if isinstance(error, StorageError) else error
            console.warn(f"the cached corpus is corrupt and will be rebuilt: {reason}")
        return None


def _check_intact(folder: Path, sources: Sequence[SourceSpec], *, cache: Path) -> None:
    """Raises StorageError unless a cached corpus is as it was written."""
    record = read_record(folder / "corpus.json", CorpusRecord)
    if record.cache_key != folder.name or len(record.sources) != len(sources):
        raise StorageError(f"{folder / 'corpus.json'} belongs to another corpus")
    if not record.files:
        raise StorageError(f"{folder / 'corpus.json'} has no digests of the corpus's files")
    change = changed_file(folder, record.files, cache=cache)
    if change is not None:
        raise StorageError(change)


def _open(folder: Path, sources: Sequence[SourceSpec]) -> TokenizedCorpus:
    """Opens the corpus in a folder, with the recipe's names and licences.

    The cache is keyed by content, so another recipe may have named the same text differently.
    """
    stored = read_record(folder / "corpus.json", CorpusRecord)
    named = [
        source.model_copy(update=vars(describe_source(spec)))
        for source, spec in zip(stored.sources, sources, strict=True)
    ]
    record = stored.model_copy(update={"sources": named, "cached_at": str(folder)})
    return TokenizedCorpus(
        folder, record, TokenStore(folder / "train"), TokenStore(folder / "heldout")
    )
