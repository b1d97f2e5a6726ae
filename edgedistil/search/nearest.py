"""Candidates that are nearest to a budget that none of them meets, and what they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from edgedistil.core.format import mebibytes, milliseconds, plural
from edgedistil.core.records import Band
from edgedistil.core.search_records import Budget, Candidate

# Candidates that an error lists.
_COUNT = 3
_MEBIBYTE = 2.0**20


class _Limited(NamedTuple):
    """A need with a limit."""

    name: str
    band: Band
    limit: float


def nearest_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns the nearest candidate of each depth, the nearest first.

    Candidates of one depth differ in the vocabulary, and of one depth and vocabulary in the width.

    Args:
        candidates: In the order of a search that nothing fits.
    """
    # With --keep, all candidates may have one depth, or one vocabulary, too.
    first: dict[int, Candidate] = {}
    for field in ("layers", "vocabulary", "intermediate"):
        first = {}
        for candidate in candidates:
            first.setdefault(getattr(candidate, field), candidate)
        if len(first) > 1:
            break
    return list(first.values())[:_COUNT]


def describe_needs(candidate: Candidate, budget: Budget) -> str:
    """Returns a candidate's sizes, and what it needs of each limit that it may exceed."""
    words = f"{candidate.vocabulary:,} tokens"
    if candidate.embedding is not None:
        words += f" of width {candidate.embedding}"
    needs = [_describe(need) for need in _limited(candidate, budget) if need.band.high > need.limit]
    return (
        f"{plural(candidate.layers, 'layer')}, feed-forward {candidate.intermediate}, "
        f"{plural(candidate.heads, 'head')}, {words}, {candidate.precision}: {'; '.join(needs)}"
    )


def flags_that_fit(candidate: Candidate, budget: Budget) -> str:
    """Returns limits that a candidate is below for sure, as flags of the command line."""
    flags = []
    for name, band, limit in _limited(candidate, budget):
        # A limit that the candidate does not exceed stays as it is.
        most = max(band.high, limit)
        if name == "latency":
            flags.append(f"--under {_rounded_up(most, digits=2)}ms")
        else:
            flag = "--under" if name == "file" else "--memory"
            flags.append(f"{flag} {_rounded_up(most / _MEBIBYTE, digits=1)}MiB")
    return " ".join(flags)


def _rounded_up(value: float, *, digits: int) -> str:
    """A limit that is not below the value, without zeros at its end."""
    scale = 10**digits
    return f"{math.ceil(value * scale) / scale:.{digits}f}".rstrip("0").rstrip(".")


def _limited(candidate: Candidate, budget: Budget) -> list[_Limited]:
    needs = (
        ("latency", candidate.latency_ms, budget.latency_ms),
        ("file", candidate.file_bytes, budget.file_bytes),
        ("memory", candidate.memory_bytes, budget.memory_bytes),
    )
    return [_Limited(name, band, limit) for name, band, limit in needs if limit is not None]


def _describe(need: _Limited) -> str:
    if need.name == "latency":
        return f"latency {milliseconds(need.band)} ms, limit {milliseconds(need.limit)} ms"
    ends = dict.fromkeys((mebibytes(need.band.low), mebibytes(need.band.high)))
    return f"{need.name} {'–'.join(ends)} MiB, limit {mebibytes(need.limit)} MiB"
