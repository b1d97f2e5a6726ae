"""Table of the candidates of a search."""

from __future__ import annotations

from edgedistil.core.format import mebibytes, millions, milliseconds
from edgedistil.core.search_records import Budget, Candidate, SearchRecord
from edgedistil.report.table import TableData

# Rows of the table; more do not fit on a screen.
_ROWS = 20


def search_table(record: SearchRecord) -> TableData:
    """Returns the best candidates, or the nearest ones if none fits."""
    counts = {"fits": 0, "may fit": 0, "does not fit": 0}
    for candidate in record.candidates:
        counts[candidate.fit] += 1
    rows = [_cells(candidate) for candidate in record.candidates[:_ROWS]]
    threads = "one thread" if record.threads == 1 else f"{record.threads} threads"
    notes = [
        "; ".join(f"{count} {fit}" for fit, count in counts.items())
        + f": {min(_ROWS, len(record.candidates))} of {len(record.candidates)} shown",
        f"bytes from shapes, times and memory predicted for {record.length} tokens and {threads} "
        f"(constants: {record.calibration}); nothing was trained: quality is unknown",
    ]
    title = f"Students of {record.teacher} on {record.device} under {_budget(record.budget)}"
    return TableData(title, _COLUMNS, rows, notes)


def _cells(candidate: Candidate) -> list[str]:
    middle = (candidate.file_bytes.low + candidate.file_bytes.high) / 2
    needs = ", ".join(f"{name} from {need}" for name, need in candidate.excess.items())
    return [
        str(candidate.layers),
        str(candidate.intermediate),
        f"{candidate.vocabulary:,}",
        candidate.precision,
        millions(candidate.parameters),
        mebibytes(middle),
        milliseconds(candidate.latency_ms),
        mebibytes(candidate.memory_bytes),
        f"{candidate.fit} ({needs})" if needs else candidate.fit,
    ]


def _budget(budget: Budget) -> str:
    limits = []
    if budget.latency_ms is not None:
        limits.append(f"{milliseconds(budget.latency_ms)} ms")
    if budget.file_bytes is not None:
        limits.append(f"{mebibytes(budget.file_bytes)} MiB")
    if budget.memory_bytes is not None:
        limits.append(f"{mebibytes(budget.memory_bytes)} MiB of memory")
    return ", ".join(limits)


_COLUMNS = (
    "layers",
    "feed-forward",
    "tokens",
    "precision",
    "parameters",
    "MiB",
    "ms",
    "peak MiB",
    "verdict",
)
