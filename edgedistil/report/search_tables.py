"""Table of the candidates of a search."""

from __future__ import annotations

from collections.abc import Sequence

from edgedistil.core.format import mebibytes, millions, milliseconds, plural
from edgedistil.core.records import Band, Figure, NotMeasured
from edgedistil.core.search_records import (
    Budget,
    Candidate,
    SearchRecord,
    StudentSizes,
    TrainedSearch,
    TrainedStudent,
)
from edgedistil.report.table import TableData

# Rows of the table; more do not fit on a screen.
_ROWS = 20


def search_table(record: SearchRecord) -> TableData:
    """Returns the best candidates, or the nearest ones if none fits."""
    counts = {"fits": 0, "may fit": 0, "does not fit": 0}
    for candidate in record.candidates:
        counts[candidate.fit] += 1
    shown = _different_needs(record.candidates)[:_ROWS]
    rows = [_cells(candidate) for candidate in shown]
    threads = "one thread" if record.threads == 1 else f"{record.threads} threads"
    notes = [
        "; ".join(f"{fit}: {count}" for fit, count in counts.items())
        + f"; {len(shown)} of {len(record.candidates)} shown",
        f"bytes from shapes, times and memory predicted for {record.length} tokens and {threads} "
        f"(constants: {record.calibration}); nothing was trained: quality is unknown",
    ]
    measured = sum(candidate.is_measured for candidate in record.candidates)
    if measured:
        notes.append(
            f"size, time and memory of {measured} candidates measured on {record.device}, with "
            "random weights: one number is measured, a range predicted"
        )
    notes += _recipe_notes(record)
    title = f"Students of {record.teacher} on {record.device} under {_budget(record.budget)}"
    return TableData(title, _COLUMNS, rows, notes)


def _different_needs(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Candidates that fit; if none does, the largest one of those with the same excess."""
    if candidates[0].fit != "does not fit":
        return candidates
    first: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        first.setdefault((*candidate.excess, *candidate.excess.values()), candidate)
    return list(first.values())


def _recipe_notes(record: SearchRecord) -> list[str]:
    """What the search says about the student of its recipe."""
    own = record.recipe_sizes
    if own is None:
        return []
    # One candidate for each precision.
    sizes = own.model_dump()
    verdicts = [
        f"{candidate.fit} in {candidate.precision}"
        for candidate in record.candidates
        if candidate.model_dump(include=set(sizes)) == sizes
    ]
    student = f"{plural(own.layers, 'layer')}, feed-forward {own.intermediate}, "
    student += plural(own.heads, "head")
    varied = "--keep layers holds its depth in all candidates"
    if record.fixed_sizes:
        varied = f"all candidates have its {', '.join(record.fixed_sizes)}"
    return [
        f"the recipe's own student ({student}, {_words(own)} tokens): {', '.join(verdicts)}; "
        f"{varied}"
    ]


def _words(sizes: Candidate | StudentSizes) -> str:
    """Tokens, and the width of word embeddings that are narrower than the teacher's."""
    width = "" if sizes.embedding is None else f" × {sizes.embedding}"
    return f"{sizes.vocabulary:,}{width}"


def _cells(candidate: Candidate) -> list[str]:
    middle = (candidate.file_bytes.low + candidate.file_bytes.high) / 2
    needs = ", ".join(f"{name} from {need}" for name, need in candidate.excess.items())
    return [
        str(candidate.layers),
        str(candidate.intermediate),
        str(candidate.heads),
        _words(candidate),
        candidate.precision,
        millions(candidate.parameters),
        mebibytes(middle),
        milliseconds(_figure(candidate.latency_ms)),
        mebibytes(_figure(candidate.memory_bytes)),
        f"{candidate.fit} ({needs})" if needs else candidate.fit,
    ]


def _figure(band: Band) -> float | Band:
    """A measured figure, which is a band without width, as one number; or the predicted band."""
    return band.low if band.low == band.high else band


def trained_table(record: TrainedSearch) -> TableData:
    """Returns the trained students of a search, the best first."""
    rows = [_trained_cells(student) for student in record.students]
    threads = "one thread" if record.threads == 1 else f"{record.threads} threads"
    notes = [
        f"score: {record.metric}; {record.tokens:,} training tokens in {record.rounds} rounds of "
        "successive halving, one seed",
        f"times for {record.length} tokens and {threads}: a number is measured, a range predicted",
        "Pareto: no student of the same round is as good, as small and as fast, and better in one",
    ]
    title = f"Trained students on {record.device} under {_budget(record.budget)}"
    return TableData(title, _TRAINED_COLUMNS, rows, notes)


def _trained_cells(student: TrainedStudent) -> list[str]:
    candidate = student.candidate
    # What the artefact needs, or what was predicted of one that was not made.
    latency = _figure(candidate.latency_ms) if student.latency_ms is None else student.latency_ms
    middle = (candidate.file_bytes.low + candidate.file_bytes.high) / 2
    return [
        str(student.round),
        f"{student.score:.4f}",
        "yes" if student.is_pareto else "no",
        str(candidate.layers),
        str(candidate.intermediate),
        str(candidate.heads),
        _words(candidate),
        candidate.precision,
        mebibytes(student.file_bytes or middle),
        _milliseconds(latency),
        _outcome(student),
    ]


def _milliseconds(latency: Figure | Band) -> str:
    return "–" if isinstance(latency, NotMeasured) else milliseconds(latency)


def _outcome(student: TrainedStudent) -> str:
    if student.failure is None:
        return "not exported"
    return "within the budget" if student.passed else student.failure


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
    "heads",
    "tokens",
    "precision",
    "parameters",
    "MiB",
    "ms",
    "peak MiB",
    "verdict",
)
_TRAINED_COLUMNS = (
    "round",
    "score",
    "Pareto",
    "layers",
    "feed-forward",
    "heads",
    "tokens",
    "precision",
    "MiB",
    "ms",
    "artefact",
)
