"""Tables of profiles; measured, emulated and predicted figures never share a table."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.format import (
    ABSENT,
    DISTURBED,
    artefact_name,
    form_name,
    mebibytes,
    milliseconds,
    model_and_task,
    percent,
    plural,
    precision_and_form,
    with_interval,
)
from edgedistil.core.paper import SPEED_ROW
from edgedistil.core.profile_records import (
    AtLeast,
    Claim,
    LatencyStats,
    MemoryFit,
    MemoryStats,
    ProfileRecord,
    ProfileRow,
    RuntimeComparison,
    Sustained,
)
from edgedistil.core.records import Figure, NotMeasured
from edgedistil.report.batch_tables import batch_tables
from edgedistil.report.table import TableData

# Tokens at which the share of tokenization is shown: a paragraph.
_TOKENIZATION_LENGTH = 128


def main_tables(record: ProfileRecord) -> list[TableData]:
    """Tables of a profile that are shown first; empty ones are left out."""
    tables = []
    # An emulator's time says nothing about the device, so its table has no latency.
    if record.rows and record.method == "emulated":
        tables.append(emulation_table(record))
    elif record.rows:
        tables.append(latency_table(record))
    if record.runtimes:
        tables.append(runtimes_table(record))
    if record.sustained:
        tables.append(sustained_table(record))
    if record.fits:
        tables.append(memory_limit_table(record))
    return [*tables, *batch_tables(record)]


# --- latency -------------------------------------------------------------------------------------


def latency_table(record: ProfileRecord) -> TableData:
    """Median latency at each length, one row per artefact and thread count."""
    lengths = list(dict.fromkeys(row.length for row in record.rows))
    rows = []
    for group in _group_by_artefact(record.rows):
        by_length = {row.length: row for row in group}
        medians = [_median_cell(by_length.get(length)) for length in lengths]
        # Loading and memory do not depend on the length, so the first row has them.
        first = group[0]
        names = [model_and_task(first), precision_and_form(first), first.method, str(first.threads)]
        start = [milliseconds(first.load_ms), milliseconds(first.first_call_ms)]
        rows.append([*names, *medians, *start, mebibytes(first.peak_memory_bytes)])
    # Short heads keep the table narrow enough for a terminal.
    heads = [str(length).replace("sentence-pairs", "pairs") for length in lengths]
    return TableData(
        f"{record.device}: {record.method} milliseconds per call (median), by length in tokens",
        ["artefact", "precision", "method", "threads", *heads, "load", "first call", "peak MiB"],
        rows,
        [
            *record.notes,
            *_disturbed_notes(record.rows),
            *_sentence_pair_notes(record.rows),
            *_token_notes(record.rows),
            *_tokenization_notes(record.rows),
        ],
    )


def _group_by_artefact(rows: Sequence[ProfileRow]) -> list[list[ProfileRow]]:
    """Groups rows that differ in length only: they become one row of the table."""
    groups: dict[tuple[str, int], list[ProfileRow]] = {}
    for row in rows:
        groups.setdefault((form_name(row), row.threads), []).append(row)
    return list(groups.values())


def _median_cell(row: ProfileRow | None) -> str:
    if row is None:
        return ABSENT
    if not row.valid:
        # The reason is in the table of all rows.
        return "invalid"
    mark = DISTURBED if row.disturbed else ""
    return milliseconds(row.latency_ms) + mark


def _disturbed_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """Explains the mark of disturbed rows, with the reasons of the first one."""
    disturbed = [row for row in rows if row.disturbed]
    if not disturbed:
        return []
    # All reasons are in the table of all rows.
    first = disturbed[0]
    return [
        f"{DISTURBED.strip()} {len(disturbed)} of {plural(len(rows), 'row')} disturbed by other "
        "work in two measurements; no verdict comes from them. For example "
        f"{form_name(first)}, {plural(first.threads, 'thread')}, {first.length}: "
        f"{first.disturbed}"
    ]


def _sentence_pair_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """Total time of each artefact's longest pass over sentence pairs, then the paper's."""
    longest: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.length != "sentence-pairs" or not row.usable:
            continue
        if not isinstance(row.latency, LatencyStats):
            continue
        # The samples add up to the time of the pass: calls followed one another.
        calls = row.latency.calls
        seconds = sum(row.latency.samples_ms) / 1000
        name = form_name(row)
        note = (
            f"{name}, {plural(row.threads, 'thread')}:"
            f" {seconds:.3g} s for {plural(calls, 'sentence pair')}"
        )
        longest[name] = max(longest.get(name, (0, "")), (calls, note))
    if not longest:
        return []
    # The paper reports one pass over the sentence pairs of STS-B.
    notes = [note for _, note in longest.values()]
    return [*notes, f"in the paper: {SPEED_ROW}"]


def _token_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """Tokens of a sentence pair for each model, where their vocabularies differ."""
    tokens = {row.model: row.tokens_per_pair for row in rows if row.tokens_per_pair is not None}
    if len(set(tokens.values())) < 2:
        return []
    described = ", ".join(f"{count:.1f} for {model}" for model, count in tokens.items())
    return [
        f"tokens of a sentence pair: {described}; pairs are the same texts, and the other columns "
        "equal numbers of tokens"
    ]


def _tokenization_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """Tokenization's time, and its share in the time from text to output, for each language."""
    own = [(row, row.tokenization_ms, row.tokenization_share) for row in rows]
    in_cpp = [(row, row.tokenization_cpp_ms, row.tokenization_cpp_share) for row in rows]
    language = rows[0].tokenization_in if rows else "Python"
    return [*_tokenization_note(language, own), *_tokenization_note("C++", in_cpp)]


def _tokenization_note(
    language: str, rows: Sequence[tuple[ProfileRow, Figure, float | None]]
) -> list[str]:
    """Rows with their times and shares, at the length that is nearest to a paragraph's."""
    timed = [entry for entry in rows if entry[2] is not None and entry[0].usable]
    if not timed:
        return []
    nearest = min((e[0] for e in timed), key=lambda r: abs(int(r.length) - _TOKENIZATION_LENGTH))
    same = [e for e in timed if (e[0].length, e[0].threads) == (nearest.length, nearest.threads)]
    shares = [f"{form_name(row)} {percent(share or 0)}" for row, _, share in same]
    times = sorted({milliseconds(time) for _, time, _ in same})
    return [
        f"tokenization of {nearest.length} tokens in {language}: {' to '.join(times)} ms, which "
        f"the calls exclude; its share from text to output: {', '.join(shares)}"
    ]


def profile_table(record: ProfileRecord) -> TableData:
    """Every row of a profile with its percentiles."""
    rows = [_profile_cells(row) for row in record.rows]
    columns = [
        "artefact",
        "precision",
        "method",
        "threads",
        "length",
        "calls",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "tokenization ms",
        "load ms",
        "first ms",
        "peak MiB",
        "own + file MiB",
        "PSS MiB",
    ]
    title = f"{record.device}: {record.method}, all rows"
    return TableData(title, columns, rows, _missing_percentile_notes(record.rows))


def _profile_cells(row: ProfileRow) -> list[str]:
    calls, p95, p99 = ABSENT, ABSENT, ABSENT
    if isinstance(row.latency, LatencyStats):
        calls = str(row.latency.calls)
        p95 = milliseconds(row.latency.p95_ms)
        p99 = milliseconds(row.latency.p99_ms)
    method: str = row.method
    if not row.valid:
        # Invalid rows stay visible, because leaving them out would hide a throttled device.
        method = f"{row.method}, INVALID: {row.invalid_reason}"
    elif row.disturbed:
        method = f"{row.method}, DISTURBED: {row.disturbed}"
    return [
        model_and_task(row),
        precision_and_form(row),
        method,
        str(row.threads),
        str(row.length),
        calls,
        milliseconds(row.latency_ms),
        p95,
        p99,
        milliseconds(row.tokenization_ms),
        milliseconds(row.load_ms),
        milliseconds(row.first_call_ms),
        mebibytes(row.peak_memory_bytes),
        *_memory_parts(row),
    ]


def _memory_parts(row: ProfileRow) -> list[str]:
    """The process's own memory and that of mapped files after a run, and the PSS."""
    memory = row.memory
    if isinstance(memory, NotMeasured) or isinstance(memory.anonymous_bytes, NotMeasured):
        return [ABSENT, ABSENT]
    parts = f"{mebibytes(memory.anonymous_bytes)} + {mebibytes(memory.file_bytes)}"
    return [parts, mebibytes(memory.pss_bytes)]


def _missing_percentile_notes(rows: Sequence[ProfileRow]) -> list[str]:
    """How many rows have a bound or nothing for a percentile, with an example of the reason."""
    latencies = [row.latency for row in rows if isinstance(row.latency, LatencyStats)]
    percentiles = {
        "p95": [latency.p95_ms for latency in latencies],
        "p99": [latency.p99_ms for latency in latencies],
    }
    notes = []
    for name, figures in percentiles.items():
        bounds = [figure.reason for figure in figures if isinstance(figure, AtLeast)]
        reasons = [figure.not_measured for figure in figures if isinstance(figure, NotMeasured)]
        # One example is enough: the reasons differ only in the number of samples.
        if bounds:
            notes.append(
                f"≥: {name} is at least this (95%) in {len(bounds)} of {len(figures)} rows, "
                f"for example: {bounds[0]}"
            )
        if reasons:
            notes.append(
                f"no {name} in {len(reasons)} of {len(figures)} rows, for example: {reasons[0]}"
            )
    return notes


# --- other runtimes ------------------------------------------------------------------------------


def runtimes_table(record: ProfileRecord) -> TableData:
    """Time of another runtime's forms against onnxruntime's of ours, at each length."""
    lengths = sorted({entry.length for entry in record.runtimes})
    groups: dict[tuple[str, str, int], dict[int, RuntimeComparison]] = {}
    for entry in record.runtimes:
        group = groups.setdefault((form_name(entry), entry.against, entry.threads), {})
        group[entry.length] = entry
    rows = []
    for (name, against, threads), by_length in groups.items():
        cells = [_ratio_cell(by_length.get(length)) for length in lengths]
        rows.append([name, against, str(threads), *cells])
    versions = ", ".join(dict.fromkeys(entry.runtimes for entry in record.runtimes))
    title = f"{record.device}: its time / onnxruntime's of our artefact, by length in tokens"
    columns = ["artefact in another runtime", "against our", "threads", *map(str, lengths)]
    notes = [f"above 1, ours is faster; {versions}; models that took turns, 95% intervals"]
    undecided = [entry.ratio for entry in record.runtimes if isinstance(entry.ratio, NotMeasured)]
    if undecided:
        notes.append(f"{ABSENT}: not decided: {undecided[0].not_measured}")
    return TableData(title, columns, rows, notes)


def _ratio_cell(entry: RuntimeComparison | None) -> str:
    if entry is None:
        return ABSENT
    return with_interval(entry.ratio, entry.low, entry.high, lambda value: f"{value:.2f}")


# --- sustained -----------------------------------------------------------------------------------


def sustained_table(record: ProfileRecord) -> TableData:
    """Median call of the first and the last minute of a long series of calls."""
    rows = [_sustained_cells(row) for row in record.sustained]
    columns = ["artefact", "precision", "threads", "tokens", "seconds", "first p50 ms"]
    columns += ["last p50 ms", "change", "clock", "temperature"]
    notes = []
    for row in record.sustained:
        if row.throttled is not None:
            notes.append(f"{artefact_name(row)}: {row.throttled}")
        if row.disturbed is not None:
            notes.append(f"{DISTURBED.strip()} {artefact_name(row)}: disturbed: {row.disturbed}")
    windows = {f"{row.window_s:g} s" for row in record.sustained}
    title = f"{record.device}: calls without a pause, first against last {' or '.join(windows)}"
    return TableData(title, columns, rows, notes)


def _sustained_cells(row: Sustained) -> list[str]:
    mark = DISTURBED if row.disturbed is not None else ""
    return [
        model_and_task(row),
        row.precision,
        str(row.threads),
        str(row.length),
        f"{row.seconds:.0f}",
        milliseconds(row.first_p50_ms) + mark,
        milliseconds(row.last_p50_ms) + mark,
        percent(row.change, 0, sign=True) + mark,
        row.conditions.get("clock", ABSENT),
        row.conditions.get("temperature", ABSENT),
    ]


# --- emulation -----------------------------------------------------------------------------------


def emulation_table(record: ProfileRecord) -> TableData:
    """Whether artefacts start under emulation, with their parity, kernels and memory."""
    rows = [_emulation_cells(row) for row in record.rows]
    columns = [
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
    ]
    title = f"{record.device}: emulated, memory in MiB; emulation gives no latency"
    return TableData(title, columns, rows, record.notes)


def _emulation_cells(row: ProfileRow) -> list[str]:
    loaded, after_run = ABSENT, ABSENT
    if isinstance(row.memory, MemoryStats):
        loaded = mebibytes(row.memory.after_load_bytes)
        after_run = mebibytes(row.memory.after_run_bytes)
    # The conditions are sentences; the cell needs their first words only.
    parity = row.conditions.get("parity", ABSENT).partition(" under these kernels")[0]
    kernels = row.conditions.get("int8 kernels", ABSENT).partition(":")[0]
    return [
        model_and_task(row),
        row.precision,
        row.method,
        str(row.length),
        "starts" if row.valid else f"NO: {row.invalid_reason}",
        parity,
        kernels,
        loaded,
        after_run,
        mebibytes(row.peak_memory_bytes),
    ]


# --- memory limit --------------------------------------------------------------------------------


def memory_limit_table(record: ProfileRecord) -> TableData:
    """Artefacts under a memory limit: whether each fits, its peak, and what enforced the limit."""
    rows = [_memory_limit_cells(fit) for fit in record.fits]
    columns = [
        "artefact",
        "precision",
        "limit MiB",
        "outcome",
        "peak MiB",
        "peak without",
        "tokens",
        "threads",
        "method",
        "enforced by",
    ]
    return TableData(f"{record.device}: memory limit", columns, rows)


def _memory_limit_cells(fit: MemoryFit) -> list[str]:
    return [
        model_and_task(fit),
        fit.precision,
        f"{fit.limit_bytes / 2**20:.0f}",
        # The way in which a process ended distinguishes a limit from a crash.
        _fit_outcome(fit),
        mebibytes(fit.peak_memory_bytes),
        mebibytes(fit.needed_bytes),
        str(fit.length),
        str(fit.threads),
        fit.method,
        fit.enforced_by,
    ]


def _fit_outcome(fit: MemoryFit) -> str:
    if not fit.fits:
        return f"does not fit: {fit.ended}"
    if fit.dropped_bytes:
        return f"fits, by dropping {mebibytes(fit.dropped_bytes)} MiB of file pages"
    return "fits"


# --- claims --------------------------------------------------------------------------------------


def claims_table(claims: Sequence[Claim]) -> TableData:
    """Claims about teacher and student, each with its verdict; the paper's figures as notes."""
    rows = [
        [claim.verdict, claim.sentence, _claim_figure(claim), claim.method, claim.conditions]
        for claim in claims
    ]
    # A claim without a figure in the paper says so: "not in the paper".
    papers = [claim.paper for claim in claims if not claim.paper.startswith("not ")]
    # Several claims share one row of the paper.
    notes = [f"in the paper: {paper}" for paper in dict.fromkeys(papers)]
    columns = ["verdict", "claim", "figure", "method", "conditions"]
    return TableData("Claims", columns, rows, notes)


def _claim_figure(claim: Claim) -> str:
    return with_interval(claim.value, claim.low, claim.high, lambda value: f"{value:.2f}")
