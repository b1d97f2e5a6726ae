"""The held-out split: which documents nobody trains on, by their hash, whatever their order or source."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class HeldOut:
    """Takes documents one by one and keeps the held-out ones: those with the smallest hashes.

    A document is held out if its hash is below `share` of all hashes and among the `most` smallest. A copy of a
    held-out document is dropped, so that no training text equals a held-out one. Memory holds `most` documents.
    """

    share: float
    most: int
    _heap: list[tuple[int, str]] = field(
        default_factory=list
    )  # largest hash first: hashes are negated
    _hashes: set[int] = field(default_factory=set)

    def offer(self, document: str) -> Iterator[str]:
        """What goes to the training side now: this document, one that it displaced, or nothing."""
        hashed = document_hash(document)
        if hashed in self._hashes:
            return
        if hashed >= self.share * 2**64 or (
            len(self._heap) == self.most and hashed > -self._heap[0][0]
        ):
            yield document
            return
        self._hashes.add(hashed)
        heapq.heappush(self._heap, (-hashed, document))
        if len(self._heap) > self.most:
            displaced, text = heapq.heappop(self._heap)
            self._hashes.remove(-displaced)
            yield text

    def documents(self) -> list[str]:
        """The held-out documents by rising hash: the order of the sources leaves no trace."""
        return [text for _hash, text in sorted(self._heap, key=lambda entry: -entry[0])]


def document_hash(document: str) -> int:
    """64 bits of a document's text, white space and case aside."""
    normal = " ".join(document.lower().split())
    return int.from_bytes(
        hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=8).digest(), "big"
    )
