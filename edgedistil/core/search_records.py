"""Record of a search for students under a budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgedistil.core.precision import Precision
from edgedistil.core.records import Band, Provenance, Record

Fit = Literal["fits", "may fit", "does not fit"]


class Budget(Record):
    """Limits of a search; None without one."""

    latency_ms: float | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None


class Candidate(Record):
    """One student that could be made of the teacher, and whether it fits."""

    layers: int
    # Width of the feed-forward.
    intermediate: int
    vocabulary: int
    precision: Precision
    parameters: int
    # Size of the exported graph with its weights, from shapes.
    file_bytes: Band
    # Time of one call on the device, and peak memory of a process.
    latency_ms: Band
    memory_bytes: Band
    fit: Fit
    # Limit → what the candidate needs at least, of limits that it exceeds for sure.
    excess: dict[str, str] = Field(default_factory=dict)
    # Largest ratio of a need to its limit; above 1 if a limit is exceeded.
    worst_ratio: float


class SearchRecord(Record):
    """The result of `search`."""

    recipe: str
    teacher: str
    device: str
    # Sources of the cost model's constants.
    calibration: str
    # Tokens of a text, threads.
    length: int
    threads: int
    budget: Budget
    candidates: list[Candidate]
    provenance: Provenance
