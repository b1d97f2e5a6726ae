"""The held-out split, decided by the documents' hashes."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class HeldoutSplit:
    """Splits a stream of documents into training and held-out ones.

    A document is held out if its hash is below `share` of all hashes and among the `max_documents`
    smallest. A copy of a held-out document is dropped, so that no training text equals a held-out
    one. Memory holds `max_documents` documents.

    Attributes:
        share: Share of the documents that may be held out, 0 to 1.
        max_documents: Largest number of them.
        salt: Selects other documents than a split with another salt. A run's held-out documents all
            have small hashes, so a second split of them needs one.
    """

    share: float
    max_documents: int
    salt: str = ""
    # A heap of (−hash, document): the held-out document with the largest hash comes first.
    _heap: list[tuple[int, str]] = field(default_factory=list)
    _hashes: set[int] = field(default_factory=set)

    def add(self, document: str) -> Iterator[str]:
        """Takes one document; yields the documents that belong to training now.

        That is this document, a document that it displaced from the held-out part, or nothing.
        """
        hashed = document_hash(self.salt + document)
        # A copy of a held-out document belongs to neither part.
        if hashed in self._hashes:
            return
        is_full = len(self._heap) == self.max_documents
        above_share = hashed >= self.share * 2**64
        if above_share or (is_full and hashed > -self._heap[0][0]):
            yield document
            return

        self._hashes.add(hashed)
        heapq.heappush(self._heap, (-hashed, document))
        if len(self._heap) > self.max_documents:
            displaced, text = heapq.heappop(self._heap)
            self._hashes.remove(-displaced)
            yield text

    def documents(self) -> list[str]:
        """Returns the held-out documents by rising hash, independent of the sources' order."""
        return [text for _hash, text in sorted(self._heap, key=lambda entry: -entry[0])]


def document_hash(document: str) -> int:
    """Hashes a document's text to 64 bits, ignoring white space and case."""
    normal = " ".join(document.lower().split())
    # `replace`: a JSON string may hold a lone surrogate, which UTF-8 cannot encode.
    raw = normal.encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
