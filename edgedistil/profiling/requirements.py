"""Requirements on a profile, given with `--require`: "speedup>=1.6", "peak_mib<=400".

A requirement holds only if it holds for certain: a ratio is judged by its confidence interval on
every device and with every number of threads, a row's figure by the student's worst row. A
predicted figure passes only where predictions are allowed, and is then judged by both ends of its
band.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistil.core.echo import echo
from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.format import artefact_name, plural
from edgedistil.core.profile_records import (
    AtLeast,
    Claim,
    MemoryFit,
    Percentile,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.records import Band, Method, NotMeasured
from edgedistil.core.toml import did_you_mean
from edgedistil.core.verdict import decide
from edgedistil.profiling.claims import ENCODERS, FILL_MASK_MODELS

# Nothing but a name, a sign and a number: a requirement is never evaluated as code. Of hundreds of
# digits Python makes an infinity.
_SYNTAX = re.compile(r"\s*([a-z0-9_-]+)\s*(>=|<=|>|<)\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
# Name in a requirement → kind of the claim, and the subject in its `figure`.
_CLAIM_NAMES = {
    "speedup": ("speed", ENCODERS),
    "fill_mask_speedup": ("speed", FILL_MASK_MODELS),
    "deploy_speedup": ("deploy", ENCODERS),
    "int8_speedup": ("int8-pays", ENCODERS),
    "size_saved": ("size", ""),
}
# Beginnings of the messages about requirements that fail.
_FAILURES = ("does not hold", "is inconclusive")
# Figures of rows; the percentiles are named as in `LatencyStats`.
_ROW_NAMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "peak_mib")
_NAMES = (*_CLAIM_NAMES, *_ROW_NAMES)


@dataclass(frozen=True)
class Bounds:
    """Interval of a figure; both ends are equal if it is known exactly."""

    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:.4g}"
        if math.isinf(self.high):
            return f"at least {self.low:.4g} (95%)"
        return f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Requirement:
    """A bound that a claim or a figure of a profile must keep.

    Attributes:
        name: Name of the claim or figure.
        sign: One of >=, <=, >, <.
        bound: The number behind the sign, as written.
    """

    name: str
    sign: str
    bound: str

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.bound}"

    def holds(self, value: float) -> bool:
        """Whether one value keeps the bound."""
        return bool(_COMPARE[self.sign](value, float(self.bound)))


def read_requirements(texts: Sequence[str]) -> list[Requirement]:
    """Parses requirements such as "speedup>=1.6".

    Raises:
        InputError: A text has another form, or an unknown name.
    """
    return [_read_requirement(text) for text in texts]


def _read_requirement(text: str) -> Requirement:
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise InputError(
            f'--require "{echo(text)}" is not a requirement: expected NAME>=NUMBER (or <=, >, <), '
            "for example speedup>=1.6",
            hint=f"NAME is one of {', '.join(_NAMES)}",
        )
    name = match[1]
    if name not in _NAMES:
        raise InputError(
            f"--require \"{echo(text)}\": unknown claim '{name}'{did_you_mean(name, _NAMES)}",
            hint=f"expected one of {', '.join(_NAMES)}",
        )
    return Requirement(name, sign=match[2], bound=match[3])


def require_claims(
    records: Sequence[ProfileRecord],
    requirements: Sequence[Requirement],
    *,
    allow_predicted: bool = False,
) -> None:
    """Raises ClaimError unless every requirement holds for certain.

    Args:
        records: The records of one profile.
        requirements: As `read_requirements` returns them.
        allow_predicted: Whether a predicted figure can make a requirement hold.
    Raises:
        ClaimError: A requirement does not hold or is inconclusive; the message lists all of them.
    """
    failures = []
    for requirement in requirements:
        failure = _check_requirement(records, requirement, allow_predicted=allow_predicted)
        if failure is not None:
            failures.append(failure)
    if failures:
        raise ClaimError(
            "; ".join(failures), hint="the profile was written; --require made this an error"
        )


def _check_requirement(
    records: Sequence[ProfileRecord], requirement: Requirement, *, allow_predicted: bool
) -> str | None:
    """Returns why a requirement fails; None if it holds."""
    if requirement.name in _CLAIM_NAMES:
        figures = _claim_figures(records, requirement.name)
    else:
        figures = _row_figures(records, requirement.name)
    failures = [_failure(figure, requirement, allow_predicted) for figure in figures]
    # What certainly fails is reported before what is inconclusive.
    for word in _FAILURES:
        for failure in failures:
            if failure is not None and failure.startswith(f"{requirement} {word}"):
                return failure
    return None


def _failure(figure: _Evidence, requirement: Requirement, allow_predicted: bool) -> str | None:
    """Returns why one figure fails a requirement; None if it holds for certain."""
    fails, inconclusive = (f"{requirement} {word}" for word in _FAILURES)
    bounds = figure.bounds
    if isinstance(bounds, NotMeasured):
        return f"{inconclusive}: {bounds.not_measured}"
    # Both ends of the interval have to keep the bound; if one does, the answer is not certain.
    low_holds, high_holds = requirement.holds(bounds.low), requirement.holds(bounds.high)
    if not low_holds and not high_holds:
        return f"{fails}: it is {bounds}"
    if not low_holds or not high_holds:
        return f"{inconclusive}: it is {bounds}"
    if figure.method == "predicted" and not allow_predicted:
        return (
            f"{inconclusive}: it is only predicted, as {bounds}; --allow-predicted accepts "
            "predictions"
        )
    return None


# --- intervals of claims and rows ----------------------------------------------------------------


@dataclass(frozen=True)
class _Evidence:
    """One figure that a requirement is about, and how it was obtained."""

    method: Method
    bounds: Bounds | NotMeasured


def _claim_figures(records: Sequence[ProfileRecord], name: str) -> list[_Evidence]:
    """Returns the claims of one kind; a device's predicted ones only if it has no measured one."""
    kind, subject = _CLAIM_NAMES[name]
    claims: dict[str, list[Claim]] = {}
    for record in records:
        matching = [c for c in record.claims if c.claim == kind and subject in c.figure]
        claims.setdefault(record.device, []).extend(matching)
    figures: list[_Evidence] = []
    for of_device in claims.values():
        measured = [claim for claim in of_device if claim.method != "predicted"]
        for claim in measured or of_device:
            # Parameters are counted, also in the profile of a device that is only predicted.
            method = "measured" if kind == "size" else claim.method
            figures.append(_Evidence(method, _claim_bounds(claim)))
    if not figures:
        absent = NotMeasured(not_measured="the artefacts of this profile have no such claim")
        return [_Evidence("measured", absent)]
    return figures


def _claim_bounds(claim: Claim) -> Bounds | NotMeasured:
    if claim.disturbed is not None:
        return NotMeasured(not_measured=f"the machine was disturbed: {claim.disturbed}")
    if isinstance(claim.low, NotMeasured) or isinstance(claim.high, NotMeasured):
        return NotMeasured(not_measured=claim.sentence)
    # A claim can be inconclusive for another reason than its interval.
    by_interval = decide(claim.low, claim.high, claim.threshold)
    if claim.verdict == "inconclusive" and by_interval != claim.verdict:
        return NotMeasured(not_measured=claim.sentence)
    return Bounds(claim.low, claim.high)


def _row_figures(records: Sequence[ProfileRecord], name: str) -> list[_Evidence]:
    """Returns a figure of all rows but the teacher's, and no prediction for a measured device."""
    measured = {record.device for record in records if record.method == "measured" and record.rows}
    figures = []
    for record in records:
        if record.method == "predicted" and record.device in measured:
            continue
        rows = [row for row in record.rows if row.role != "teacher"]
        figures += [_Evidence(row.method, _row_figure(row, name)) for row in rows]
        # A record of --memory-limit has no rows: its peaks are in the fits.
        if name == "peak_mib":
            fits = [fit for fit in record.fits if fit.role != "teacher"]
            figures += [_Evidence(fit.method, _fit_figure(fit)) for fit in fits]
    if not figures:
        absent = NotMeasured(not_measured="the profile has no row of a student")
        return [_Evidence("measured", absent)]
    return figures


def _row_figure(row: ProfileRow, name: str) -> Bounds | NotMeasured:
    # Throttling does not change memory: the peak of an invalid row counts.
    if name == "peak_mib":
        return _bounds(row.peak_memory_bytes, 2**20)
    if not row.valid:
        return NotMeasured(not_measured=row.invalid_reason or "a row is not valid")
    if row.disturbed is not None:
        return NotMeasured(
            not_measured=f"{_row_name(row)}: the machine was disturbed: {row.disturbed}"
        )
    # A predicted row has a band for the median, and no other percentile.
    if name == "p50_ms":
        return _bounds(row.latency_ms, 1)
    if isinstance(row.latency, NotMeasured):
        return NotMeasured(not_measured=f"{row.method} rows have no {name}")
    percentile: Percentile = getattr(row.latency, name)
    return _bounds(percentile, 1)


def _fit_figure(fit: MemoryFit) -> Bounds | NotMeasured:
    """Peak memory of an artefact that fits within its limit."""
    # What it needs, not what the limit left it.
    if fit.fits and isinstance(fit.needed_bytes, int):
        return _bounds(fit.needed_bytes, 2**20)
    if fit.fits:
        return _bounds(fit.peak_memory_bytes, 2**20)
    limit_mib = fit.limit_bytes / 2**20
    return NotMeasured(not_measured=f"{artefact_name(fit)} does not fit in {limit_mib:.0f} MiB")


def _row_name(row: ProfileRow) -> str:
    threads = plural(row.threads, "thread")
    return f"the row of {artefact_name(row)}, {threads}, length {row.length}"


def _bounds(figure: Percentile | int | Band, unit: float) -> Bounds | NotMeasured:
    if isinstance(figure, NotMeasured):
        return figure
    if isinstance(figure, AtLeast):
        return Bounds(figure.at_least / unit, math.inf)
    if isinstance(figure, Band):
        return Bounds(figure.low / unit, figure.high / unit)
    return Bounds(figure / unit, figure / unit)
