"""Tables of calls with many texts: throughput, memory, sorting, and the largest safe batches."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.bulk_records import ArtefactLimit, BatchRow, SortingGain
from edgedistil.core.format import (
    ABSENT,
    DISTURBED,
    artefact_name,
    mebibytes,
    milliseconds,
    model_and_task,
    percent,
    plural,
    rate,
)
from edgedistil.core.precision import PRECISIONS
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import NotMeasured
from edgedistil.report.table import TableData

# Artefact, threads, tokens and texts of a call: a row of the table.
_Key = tuple[str, int, int, int]


def batch_tables(record: ProfileRecord) -> list[TableData]:
    """Tables of a profile with --batch or --memory-limit; empty ones are left out."""
    tables = []
    if record.batches:
        tables.append(throughput_table(record))
    if record.sorting:
        tables.append(sorting_table(record))
    if record.limits:
        tables.append(limits_table(record))
    return tables


# --- throughput and memory -----------------------------------------------------------------------


def throughput_table(record: ProfileRecord) -> TableData:
    """Throughput and memory of each shape, with the arena and without."""
    groups: dict[_Key, dict[bool, BatchRow]] = {}
    for row in record.batches:
        key = (artefact_name(row), row.threads, row.length, row.batch)
        groups.setdefault(key, {})[row.arena] = row
    rows = [_throughput_cells(group) for group in groups.values()]
    columns = [
        "artefact",
        "precision",
        "threads",
        "tokens",
        "texts",
        "ms a call",
        "texts/s",
        "tokens/s",
        "peak MiB",
        "after",
    ]
    notes = [*record.notes, *_invariance_notes(record.batches), *_row_notes(record.batches)]
    if record.method == "measured":
        columns += ["no arena: texts/s", "peak", "after"]
        notes.append("after: resident memory when the calls are over; an arena keeps what it took")
    title = f"{record.device}: {record.method} calls with many texts (median), memory of a process"
    return TableData(title, columns, rows, notes)


def _throughput_cells(group: dict[bool, BatchRow]) -> list[str]:
    row = group[True]
    cells = [
        model_and_task(row),
        row.precision,
        str(row.threads),
        str(row.length),
        str(row.batch),
        _time_cell(row, milliseconds(row.latency_ms)),
        _time_cell(row, rate(row.texts_per_s())),
        _time_cell(row, rate(row.tokens_per_s())),
        mebibytes(row.peak_memory_bytes),
        mebibytes(row.after_memory_bytes),
    ]
    if row.method != "measured":
        return cells
    other = group.get(False)
    if other is None:
        return [*cells, ABSENT, ABSENT, ABSENT]
    return [
        *cells,
        _time_cell(other, rate(other.texts_per_s())),
        mebibytes(other.peak_memory_bytes),
        mebibytes(other.after_memory_bytes),
    ]


def _time_cell(row: BatchRow, text: str) -> str:
    if not row.valid:
        return "invalid"
    return text + (DISTURBED if row.disturbed else "")


def _invariance_notes(rows: Sequence[BatchRow]) -> list[str]:
    """Says which precisions give a text the same outputs in any batch."""
    present = [name for name in PRECISIONS if any(row.precision == name for row in rows)]
    same = [name for name in present if PRECISIONS[name].invariant]
    other = [name for name in present if not PRECISIONS[name].invariant]
    notes = []
    if same:
        notes.append(f"{', '.join(same)}: a text has the same vector in any batch")
    if other:
        notes.append(
            f"{', '.join(other)}: a text has another vector in another batch; int8 has the same"
        )
    return notes


def _row_notes(rows: Sequence[BatchRow]) -> list[str]:
    """Reasons of invalid rows, and an example of disturbed ones."""
    notes = []
    for row in rows:
        if not row.valid:
            shape = f"{plural(row.batch, 'text')} of {row.length} tokens"
            notes.append(f"invalid: {artefact_name(row)}, {shape}: {row.invalid_reason}")
    disturbed = [row for row in rows if row.disturbed]
    if disturbed:
        first = disturbed[0]
        notes.append(
            f"{DISTURBED.strip()} {len(disturbed)} of {plural(len(rows), 'row')} disturbed by "
            f"other work in two measurements, for example {artefact_name(first)}, "
            f"{plural(first.batch, 'text')} of {first.length} tokens: {first.disturbed}"
        )
    return list(dict.fromkeys(notes))


# --- sorting -------------------------------------------------------------------------------------


def sorting_table(record: ProfileRecord) -> TableData:
    """Throughput of texts of many lengths in the order they come, and sorted by length."""
    rows = [_sorting_cells(gain) for gain in record.sorting]
    columns = ["artefact", "precision", "threads", "texts a call", "padding", "sorted"]
    columns += ["texts/s", "sorted", "times as fast"]
    notes = []
    for gain in record.sorting:
        if not gain.valid:
            notes.append(f"invalid: {artefact_name(gain)}: {gain.invalid_reason}")
        elif gain.disturbed:
            notes.append(f"{DISTURBED.strip()} {artefact_name(gain)}: disturbed: {gain.disturbed}")
    first = record.sorting[0]
    title = (
        f"{record.device}: {first.texts} sentence pairs of {first.tokens / first.texts:.0f} tokens "
        "on average, in batches as they come and by length"
    )
    return TableData(title, columns, rows, notes)


def _sorting_cells(gain: SortingGain) -> list[str]:
    mark = DISTURBED if gain.disturbed else ""
    times = f"{gain.gain:.2f} ({gain.low:.2f}–{gain.high:.2f}){mark}"
    return [
        model_and_task(gain),
        gain.precision,
        str(gain.threads),
        str(gain.batch),
        percent(gain.padding_unsorted, 0),
        percent(gain.padding_sorted, 0),
        rate(gain.unsorted_texts_per_s) + mark,
        rate(gain.sorted_texts_per_s) + mark,
        times if gain.valid else "invalid",
    ]


# --- limits --------------------------------------------------------------------------------------


def limits_table(record: ProfileRecord) -> TableData:
    """The most texts of a call at each length within a memory limit."""
    lengths = sorted({s.length for entry in record.limits for s in entry.limit.shapes})
    rows = [_limit_cells(entry, lengths) for entry in record.limits]
    heads = [str(length) for length in lengths]
    columns = ["artefact", "precision", "limit MiB", "threads", *heads, "peak MiB", "reserved"]
    notes = [
        "peak: of a process that made calls of all these shapes, and what is reserved for "
        "tokenizer, texts and vectors"
    ]
    reasons = [
        f"margin of {percent(entry.limit.margin, 0)}: {entry.limit.margin_reason}"
        for entry in record.limits
    ]
    files = [
        f"written to {entry.session_file}"
        if entry.session_file
        else f"{artefact_name(entry)}: not in an export folder, so no session.json was written"
        for entry in record.limits
    ]
    limit = record.limits[0].limit.limit_bytes / 2**20
    title = f"{record.device}: most texts of a call within {limit:.0f} MiB, by length in tokens"
    return TableData(title, columns, rows, [*notes, *dict.fromkeys([*reasons, *files])])


def _limit_cells(entry: ArtefactLimit, lengths: Sequence[int]) -> list[str]:
    limit = entry.limit
    batches = {shape.length: shape.batch for shape in limit.shapes}
    peak: int | NotMeasured = limit.peak_bytes
    if not batches:
        peak = NotMeasured(not_measured="no text fits")
    return [
        model_and_task(entry),
        entry.precision,
        f"{limit.limit_bytes / 2**20:.0f}",
        str(limit.threads),
        *[str(batches.get(length, "none")) for length in lengths],
        mebibytes(peak),
        mebibytes(limit.reserved_bytes),
    ]
