"""Records of bulk work: calls with many texts, and the largest ones within a memory limit."""

from __future__ import annotations

from typing import Literal

from edgedistil.core.bulk_limit import BulkLimit
from edgedistil.core.records import (
    ArtefactRecord,
    Band,
    Count,
    Figure,
    Method,
    NotMeasured,
)


class BatchRow(ArtefactRecord):
    """Calls of one artefact with a number of texts of one length."""

    method: Method
    # onnxruntime and its version.
    runtime: str
    threads: int
    # Texts of a call, and tokens of each.
    batch: int
    length: int
    # Whether memory is taken from an arena, which keeps what it has taken.
    arena: bool
    # Median call, from which the rates are computed, and every call.
    latency_ms: Figure | Band
    samples_ms: list[float] = []
    # Resident bytes of a process that makes only these calls: the most, and after them.
    peak_memory_bytes: Count | Band
    after_memory_bytes: Count
    # As in `ProfileRow`.
    valid: bool
    invalid_reason: str | None = None
    disturbed: str | None = None
    conditions: dict[str, str] = {}

    @property
    def usable(self) -> bool:
        """Whether comparisons may use the row's times."""
        return self.valid and self.disturbed is None

    def texts_per_s(self) -> Figure | Band:
        """Returns the texts per second of the median call."""
        return _per_second(self.batch, self.latency_ms)

    def tokens_per_s(self) -> Figure | Band:
        """Returns the tokens per second of the median call."""
        return _per_second(self.batch * self.length, self.latency_ms)


def _per_second(count: int, latency_ms: Figure | Band) -> Figure | Band:
    if isinstance(latency_ms, NotMeasured):
        return latency_ms
    if isinstance(latency_ms, Band):
        return Band(low=1000 * count / latency_ms.high, high=1000 * count / latency_ms.low)
    return 1000 * count / latency_ms


class SortingGain(ArtefactRecord):
    """Throughput of texts in batches of similar length, against batches in the order they come."""

    threads: int
    # Texts, tokens of all of them, and texts of a batch.
    texts: int
    tokens: int
    batch: int
    # Share of the positions that are padding, 0 to 1.
    padding_unsorted: float
    padding_sorted: float
    # Texts per second, medians of the passes.
    unsorted_texts_per_s: float
    sorted_texts_per_s: float
    # How many times faster: the median of neighbouring passes, the lowest, and the highest.
    gain: float
    low: float
    high: float
    valid: bool
    invalid_reason: str | None = None
    disturbed: str | None = None


class ArtefactLimit(ArtefactRecord):
    """The limit of one artefact, as `profile --memory-limit` found it."""

    method: Literal["measured"] = "measured"
    limit: BulkLimit
    # The session.json that has it; None for a graph outside of an export folder.
    session_file: str | None
