"""Blocks of timed calls and counted parameters → claims with a verdict, next to the paper's figures."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Literal

from edgedistil.core import paper
from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.records import (
    Band,
    Claim,
    Count,
    Figure,
    MemoryFit,
    Method,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.task import ENCODER_TASK
from edgedistil.profiling.artefacts import Artefact
from edgedistil.profiling.latency import Ratio, speed_ratio
from edgedistil.runtime.protocol import Block

Kind = Literal["speed", "deploy", "int8-pays"]
Verdict = Literal["holds", "does not hold", "inconclusive"]

_FIGURES = {
    "speed": "speed ratio",
    "deploy": "speed ratio as deployed",
    "int8-pays": "speed ratio of int8",
}


def told_threads(count: int) -> str:
    """ "1 thread", "4 threads"."""
    return f"{count} thread{'' if count == 1 else 's'}"


def verdict(low: float, high: float, threshold: float) -> Verdict:
    """What an interval says about "at least `threshold`"."""
    if low >= threshold:
        return "holds"
    return "does not hold" if high < threshold else "inconclusive"


def speed_claim(
    kind: Kind,
    name: str,
    first: Artefact,
    second: Artefact,
    processes: Sequence[Sequence[Block]],
    *,
    device: str,
    method: Method,
    threads: int,
    runtime: str,
    text: str,
) -> Claim:
    """The speed of `second` against `first` from blocks in which they took turns.

    Args:
        name: What is compared, in words: "encoders", "fill-mask models".
        processes: Blocks by process.
    """
    ratio = speed_ratio(
        [[(sum(b.first_ns), sum(b.second_ns)) for b in blocks] for blocks in processes]
    )
    threshold = 1.0 if kind == "int8-pays" else paper.SPEED_RATIO
    decided = verdict(ratio.low, ratio.high, threshold)
    return Claim(
        claim=kind,
        verdict=decided,
        sentence=_speed_sentence(kind, name, first, second, ratio, decided, device),
        method=method,
        device=device,
        conditions=f"{first.label} against {second.label}, {runtime}, {told_threads(threads)}, {text}; median of "
        f"{ratio.blocks} blocks that took turns in {len(processes)} processes, {ratio.confidence:.0%} interval",
        figure=f"{_FIGURES[kind]}, {name}, {told_threads(threads)}",
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        threshold=threshold,
        paper=paper.SPEED_ROW if kind == "speed" else "not in the paper",
    )


def predicted_claim(
    kind: Kind,
    name: str,
    first: Artefact,
    second: Artefact,
    middle: float,
    band: Band,
    *,
    device: str,
    conditions: str,
    threads: int,
) -> Claim:
    """The speed of `second` against `first` as the cost model predicts it."""
    threshold = 1.0 if kind == "int8-pays" else paper.SPEED_RATIO
    decided = verdict(band.low, band.high, threshold)
    ratio = Ratio(middle, band.low, band.high, 0, 0.0)
    return Claim(
        claim=kind,
        verdict=decided,
        sentence="Predicted, not measured: "
        + _speed_sentence(kind, name, first, second, ratio, decided, device),
        method="predicted",
        device=device,
        conditions=conditions,
        figure=f"{_FIGURES[kind]}, {name}, {told_threads(threads)}",
        value=middle,
        low=band.low,
        high=band.high,
        threshold=threshold,
        paper=paper.SPEED_ROW if kind == "speed" else "not in the paper",
    )


def _speed_sentence(
    kind: Kind,
    name: str,
    first: Artefact,
    second: Artefact,
    ratio: Ratio,
    decided: Verdict,
    device: str,
) -> str:
    figure = f"{ratio.value:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f})"
    files = f"{second.file_bytes / 1e6:.1f} MB against {first.file_bytes / 1e6:.1f} MB on disk"
    if kind == "int8-pays":
        return f"That {second.precision} pays on {device} {decided}: it is {figure} as {first.precision}; {files}."
    who = f"the {second.precision} student" if kind == "deploy" else "the student"
    against = f"the {first.precision} teacher" if kind == "deploy" else "its teacher"
    return f'"60% faster" {decided} for the {name} on {device}: {who} is {figure} as {against}; {files}.'


def size_claims(artefacts: Sequence[Artefact], *, device: str, method: Method) -> list[Claim]:
    """Parameters saved by the encoders, counted on the artefacts; nothing when one of them is missing."""
    by = {(a.role, a.task, a.precision): a for a in artefacts}
    teacher, student = (
        by.get(("teacher", ENCODER_TASK, "fp32")),
        by.get(("student", ENCODER_TASK, "fp32")),
    )
    if teacher is None or student is None:
        return []
    saved = 1 - student.parameters / teacher.parameters
    decided = verdict(saved, saved, paper.PARAMETERS_SAVED)
    return [
        Claim(
            claim="size",
            verdict=decided,
            sentence=f'"40% smaller" {decided}: the student has {student.parameters / 1e6:.1f}M parameters, '
            f"its teacher {teacher.parameters / 1e6:.1f}M, {saved:.1%} fewer; "
            f"{student.file_bytes / 1e6:.1f} MB against {teacher.file_bytes / 1e6:.1f} MB on disk.",
            method=method,
            device=device,
            conditions="encoders as exported, counted to the parameter, as is the paper's own pair for the threshold",
            figure="parameters saved",
            value=saved,
            low=saved,
            high=saved,
            threshold=paper.PARAMETERS_SAVED,
            paper=paper.SIZE_ROW,
        )
    ]


# --- requirements ---------------------------------------------------------------------------------------

_REQUIREMENT = re.compile(r"\s*([a-z0-9_-]+)\s*(>=|<=|>|<)\s*([0-9]+(?:\.[0-9]+)?)\s*")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CLAIM_NAMES = {
    "speedup": ("speed", "encoders"),
    "fill_mask_speedup": ("speed", "fill-mask models"),
    "deploy_speedup": ("deploy", "encoders"),
    "int8_speedup": ("int8-pays", "encoders"),
    "size_saved": ("size", ""),
}
_ROW_NAMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "peak_mib")


def require(records: Sequence[ProfileRecord], requirements: Sequence[str]) -> None:
    """Does nothing when every requirement holds for sure.

    Args:
        requirements: "speedup>=1.6", "size_saved>=0.4", "int8_speedup>1", "p95_ms<=40", "peak_mib<=400" and the like.
            A ratio is judged by its interval, a row's figure by the student's worst row, a prediction by its whole
            band.
    Raises:
        InputError: A requirement that cannot be read.
        ClaimError: A requirement does not hold or is inconclusive; the message lists all of them.
    """
    failed = [told for text in requirements for told in [_unmet(records, text)] if told is not None]
    if failed:
        raise ClaimError(
            "; ".join(failed), hint="the profile is written; --require made this an error"
        )


def read_requirement(text: str) -> re.Match[str]:
    """Name, sign and figure of "speedup>=1.6".

    Raises:
        InputError: It is none.
    """
    match = _REQUIREMENT.fullmatch(text)
    if match is None or match[1] not in (*_CLAIM_NAMES, *_ROW_NAMES):
        known = ", ".join((*_CLAIM_NAMES, *_ROW_NAMES))
        raise InputError(
            f'--require "{text}": expected NAME>=FIGURE (or <=, >, <) with one of {known}'
        )
    return match


def _unmet(records: Sequence[ProfileRecord], text: str) -> str | None:
    match = read_requirement(text)
    name, sign, wanted = match[1], match[2], float(match[3])
    bounds = _claim_bounds(records, name) if name in _CLAIM_NAMES else _row_bounds(records, name)
    if isinstance(bounds, str):
        return f"{name}{sign}{match[3]} is inconclusive: {bounds}"
    low, high = bounds
    compare = _COMPARE[sign]
    if compare(low, wanted) and compare(high, wanted):
        return None
    shown = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    both = "is inconclusive" if compare(low, wanted) or compare(high, wanted) else "does not hold"
    return f"{name}{sign}{match[3]} {both}: it is {shown}"


def _claim_bounds(records: Sequence[ProfileRecord], name: str) -> tuple[float, float] | str:
    kind, what = _CLAIM_NAMES[name]
    found = [c for record in records for c in record.claims if c.claim == kind and what in c.figure]
    measured = [c for c in found if c.method == "measured"] or found
    if not measured:
        return "no artefacts of this profile answer it"
    chosen = measured[0]
    if isinstance(chosen.low, NotMeasured) or isinstance(chosen.high, NotMeasured):
        return chosen.sentence
    return chosen.low, chosen.high


def _row_bounds(records: Sequence[ProfileRecord], name: str) -> tuple[float, float] | str:
    rows = [row for record in records for row in record.rows if row.role != "teacher"]
    figures = [_row_figure(row, name) for row in rows]
    if name == "peak_mib":
        fits = [fit for record in records for fit in record.fits if fit.role != "teacher"]
        figures += [_bounds(_peak_if_it_fits(fit), 2**20) for fit in fits]
    if not figures:
        return "there is no row of a student"
    for each in figures:
        if isinstance(each, NotMeasured):
            return each.not_measured
    told = [each for each in figures if not isinstance(each, NotMeasured)]
    return max(each[0] for each in told), max(each[1] for each in told)


def _row_figure(row: ProfileRow, name: str) -> tuple[float, float] | NotMeasured:
    if name == "peak_mib":
        return _bounds(row.peak_memory_bytes, 2**20)
    if not row.valid:
        return NotMeasured(not_measured=row.invalid_reason or "a row is not valid")
    if name == "p50_ms" or isinstance(row.latency, NotMeasured):
        if name != "p50_ms":
            return NotMeasured(not_measured=f"{name} of a row that was not measured ({row.method})")
        return _bounds(row.latency_ms, 1)
    figure: Figure = getattr(row.latency, name)
    return _bounds(figure, 1)


def _peak_if_it_fits(fit: MemoryFit) -> Count:
    if fit.fits:
        return fit.peak_memory_bytes
    limit = f"{fit.limit_bytes / 2**20:.0f} MiB"
    return NotMeasured(
        not_measured=f"{fit.model} {fit.task} {fit.precision} does not fit in {limit}"
    )


def _bounds(figure: Figure | int | Band, unit: float) -> tuple[float, float] | NotMeasured:
    if isinstance(figure, NotMeasured):
        return figure
    if isinstance(figure, Band):
        return figure.low / unit, figure.high / unit
    return figure / unit, figure / unit
