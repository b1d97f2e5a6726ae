"""Largest batches within a memory limit: what `profile --memory-limit` writes to session.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SafeShape:
    """The most texts of a call at a length.

    Attributes:
        length: Tokens of each text.
        batch: Texts of a call.
    """

    length: int
    batch: int

    def __post_init__(self) -> None:
        """Checks that both are positive; raises ValueError."""
        if min(self.length, self.batch) < 1:
            raise ValueError(f"length {self.length}, batch {self.batch}; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class BulkLimit:
    """Largest batches of an artefact with which a program stays within a memory limit.

    Attributes:
        limit_bytes: The limit of the program's resident memory.
        shapes: The largest batch at some lengths; longer texts than these do not fit.
        reserved_bytes: Part of the limit for tokenizer, texts and vectors.
        peak_bytes: Peak of a process that made calls of all shapes, and what is reserved.
        margin: Share of the limit that was left free.
        margin_reason: Why as much.
        threads: Threads of the session that was measured.
    """

    limit_bytes: int
    shapes: list[SafeShape]
    reserved_bytes: int
    peak_bytes: int
    margin: float
    margin_reason: str
    threads: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text that fits; 0 if none does."""
        return max((shape.length for shape in self.shapes), default=0)

    def largest_batch(self, length: int) -> int:
        """Returns the most texts of a call whose longest text has `length` tokens; 0 for none."""
        # A longer text needs more memory, so what fits at a larger length is safe.
        batches = [shape.batch for shape in self.shapes if shape.length >= length]
        return max(batches, default=0)
