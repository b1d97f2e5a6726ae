"""Rows that are measured a second time because the first measurement was disturbed."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.format import plural
from edgedistil.core.profile_records import ProfileRow

# A row at several threads that is slower than at one by more than this was disturbed, or its calls
# are too short for more threads; in neither case is it a figure to decide by.
_MAX_SLOWER = 1.1
# Fields of a row that come from its steady calls; the others are about the process's start.
_TIMES = ("latency_ms", "latency", "valid", "invalid_reason", "disturbed")


def mark_slower_than_one(
    rows: Sequence[ProfileRow], earlier: Sequence[ProfileRow]
) -> list[ProfileRow]:
    """Returns the rows, with a sign on those that are slower than with one thread.

    Args:
        rows: Rows of one artefact at one thread count.
        earlier: All rows before; those at one thread that are disturbed themselves do not count.
    """
    one_thread = {}
    for row in earlier:
        if row.threads == 1 and row.usable and isinstance(row.latency_ms, float):
            one_thread[row.artefact_sha256, row.form, row.length] = row.latency_ms
    marked = []
    for row in rows:
        alone_ms = one_thread.get((row.artefact_sha256, row.form, row.length))
        if row.threads > 1 and alone_ms is not None and isinstance(row.latency_ms, float):
            slower = row.latency_ms / alone_ms
            if slower > _MAX_SLOWER:
                threads = plural(row.threads, "thread")
                reason = f"{slower:.2f} times as long with {threads} as with one"
                if row.disturbed is not None:
                    reason = f"{row.disturbed}; {reason}"
                row = row.model_copy(update={"disturbed": reason})
        marked.append(row)
    return marked


def replace_times(rows: Sequence[ProfileRow], again: Sequence[ProfileRow]) -> list[ProfileRow]:
    """Returns the rows, with the times of the second measurement where there is one.

    Start and memory remain those of the first process: the second one began with another case.
    """
    second = {row.length: row for row in again}
    replaced = []
    for row in rows:
        if row.length in second:
            row = _replace_times(row, second[row.length])
        replaced.append(row)
    return replaced


def _replace_times(row: ProfileRow, again: ProfileRow) -> ProfileRow:
    # Energy was measured in the first process only.
    conditions = {
        **row.conditions,
        **again.conditions,
        "first measurement": f"disturbed: {row.disturbed}",
    }
    changes = {name: getattr(again, name) for name in _TIMES}
    return row.model_copy(update={**changes, "conditions": conditions})
