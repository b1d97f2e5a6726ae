"""Profile records → tables. What was measured, emulated and predicted never share a table, and every row says which."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core import console
from edgedistil.core.format import ABSENT, mebibytes, milliseconds
from edgedistil.core.paper import SPEED_ROW
from edgedistil.core.records import (
    Claim,
    LatencyStats,
    MemoryStats,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.rundir import RunDir
from edgedistil.report.tables import TableData


def main_tables(record: ProfileRecord) -> list[TableData]:
    """What is seen first: latency or, under emulation, what it is for; and what fits."""
    first = emulation_table if record.method == "emulated" else latency_table
    return [
        *([first(record)] if record.rows else []),
        *([fit_table(record)] if record.fits else []),
    ]


def latency_table(record: ProfileRecord) -> TableData:
    """The median at each length, one line an artefact and thread count: what fits on a screen."""
    lengths = list(dict.fromkeys(row.length for row in record.rows))
    together: dict[tuple[str, str, int], list[ProfileRow]] = {}
    for row in record.rows:
        together.setdefault((_artefact(row), row.precision, row.threads), []).append(row)
    rows = []
    for (artefact, precision, threads), of_it in together.items():
        by_length = {row.length: row for row in of_it}
        medians = [_median_cell(by_length.get(length)) for length in lengths]
        first = of_it[0]
        rows.append(
            [
                *(artefact, precision, first.method, str(threads), *medians),
                *(
                    milliseconds(first.load_ms),
                    milliseconds(first.first_call_ms),
                    mebibytes(first.peak_memory_bytes),
                ),
            ]
        )
    heads = [str(length).replace("sentence-pairs", "pairs") for length in lengths]
    return TableData(
        f"{record.device}: {record.method} milliseconds a call (median), by length in tokens",
        ["artefact", "precision", "method", "threads", *heads, "load", "first call", "peak MiB"],
        rows,
        [*record.notes, *_passes(record.rows)],
    )


def _passes(rows: Sequence[ProfileRow]) -> list[str]:
    """What each artefact's pass over the sentence pairs took (its longest one), beside the paper's."""
    longest: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.length == "sentence-pairs" and row.valid and isinstance(row.latency, LatencyStats):
            calls, seconds = row.latency.calls, sum(row.latency.samples_ms) / 1000
            threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
            name = f"{_artefact(row)} {row.precision}"
            told = f"{name}, {threads}: {seconds:.3g} s for {calls:,} sentence pairs"
            longest[name] = max(longest.get(name, (0, "")), (calls, told))
    return [
        *(told for _, told in longest.values()),
        *([f"the paper's pass: {SPEED_ROW}"] if longest else []),
    ]


def _artefact(row: ProfileRow) -> str:
    return f"{row.model} {row.task}"


def _median_cell(row: ProfileRow | None) -> str:
    if row is None:
        return ABSENT
    return milliseconds(row.latency_ms) if row.valid else "invalid"


def emulation_table(record: ProfileRecord) -> TableData:
    """Does it start there, are its answers right there, which kernels ran, what does it hold. No latency."""
    rows = []
    for row in record.rows:
        memory = row.memory if isinstance(row.memory, MemoryStats) else None
        held = (
            [mebibytes(memory.after_load_bytes), mebibytes(memory.after_run_bytes)]
            if memory
            else [ABSENT, ABSENT]
        )
        rows.append(
            [
                *(_artefact(row), row.precision, row.method, str(row.length)),
                "starts" if row.valid else f"NO: {row.invalid_reason}",
                row.conditions.get("parity", ABSENT).partition(" under these kernels")[0],
                row.conditions.get("int8 kernels", ABSENT).partition(":")[0],
                *held,
                mebibytes(row.peak_memory_bytes),
            ]
        )
    return TableData(
        f"{record.device}: emulated, MiB of memory; no latency comes of it",
        [
            "artefact",
            "precision",
            "method",
            "tokens",
            "starts",
            "parity",
            "int8 kernels",
            "loaded",
            "after a run",
            "peak",
        ],
        rows,
        record.notes,
    )


def fit_table(record: ProfileRecord) -> TableData:
    """What fits into a memory limit, with the peak and what enforced the limit."""
    rows = [
        [
            *(f"{fit.model} {fit.task}", fit.precision, f"{fit.limit_bytes / 2**20:.0f}"),
            *(
                "fits" if fit.fits else f"does not fit: {fit.ended}",
                mebibytes(fit.peak_memory_bytes),
            ),
            *(str(fit.length), str(fit.threads), fit.method, fit.enforced_by),
        ]
        for fit in record.fits
    ]
    heads = [
        "artefact",
        "precision",
        "limit MiB",
        "outcome",
        "peak MiB",
        "tokens",
        "threads",
        "method",
        "limited by",
    ]
    return TableData(f"{record.device}: does it fit?", heads, rows)


def profile_table(record: ProfileRecord) -> TableData:
    """Every row with its percentiles."""
    rows = [_profile_cells(row) for row in record.rows]
    heads = [
        "artefact",
        "precision",
        "method",
        "threads",
        "length",
        "calls",
        "p50 ms",
        "p95 ms",
        "p99 ms",
    ]
    return TableData(
        f"{record.device}: {record.method}, every row",
        [*heads, "load ms", "first ms", "peak MiB"],
        rows,
        _refused(record.rows),
    )


def _profile_cells(row: ProfileRow) -> list[str]:
    latency = row.latency if isinstance(row.latency, LatencyStats) else None
    return [
        _artefact(row),
        row.precision,
        row.method if row.valid else f"{row.method}, INVALID: {row.invalid_reason}",
        str(row.threads),
        str(row.length),
        str(latency.calls) if latency else ABSENT,
        milliseconds(row.latency_ms),
        milliseconds(latency.p95_ms) if latency else ABSENT,
        milliseconds(latency.p99_ms) if latency else ABSENT,
        milliseconds(row.load_ms),
        milliseconds(row.first_call_ms),
        mebibytes(row.peak_memory_bytes),
    ]


def _refused(rows: Sequence[ProfileRow]) -> list[str]:
    """Why some rows have no p95 or p99: in how many, and the reason of the first."""
    notes = []
    for name in ("p95_ms", "p99_ms"):
        figures = [
            getattr(row.latency, name) for row in rows if isinstance(row.latency, LatencyStats)
        ]
        absent = [each.not_measured for each in figures if isinstance(each, NotMeasured)]
        if absent:
            notes.append(
                f"no {name[:3]} in {len(absent)} of {len(figures)} rows, for example: {absent[0]}"
            )
    return notes


def claims_table(claims: Sequence[Claim]) -> TableData:
    """Each claim with its verdict; what the paper has stands below."""
    rows = [[c.verdict, c.sentence, _claim_value(c), c.method, c.conditions] for c in claims]
    papers = list(dict.fromkeys(c.paper for c in claims if not c.paper.startswith("not ")))
    return TableData(
        "Claims",
        ["verdict", "claim", "figure", "method", "conditions"],
        rows,
        [f"the paper: {p}" for p in papers],
    )


def _claim_value(claim: Claim) -> str:
    if isinstance(claim.value, NotMeasured):
        return ABSENT
    if isinstance(claim.low, NotMeasured) or isinstance(claim.high, NotMeasured):
        return f"{claim.value:.2f}"
    return f"{claim.value:.2f} ({claim.low:.2f}–{claim.high:.2f})"


def show_profiles(run: RunDir | None, records: Sequence[ProfileRecord]) -> None:
    if run is not None:
        console.result(f"\nrun {run.name} ({run.profiles})")
    for record in records:
        for table in main_tables(record):
            table.show()
        for claim in record.claims:
            console.result(f"  {claim.verdict.upper()}: {claim.sentence}")
