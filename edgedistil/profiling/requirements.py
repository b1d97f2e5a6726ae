"""Requirements on a profile, given with `--require`: "speedup>=1.6", "peak_mib<=400".

A requirement holds only if it holds for certain: a ratio is judged by its confidence interval, a
predicted figure by both ends of its band, and a row's figure by the student's worst row.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistil.core.echo import echo
from edgedistil.core.errors import ClaimError, InputError
from edgedistil.core.format import artefact_name
from edgedistil.core.records import (
    Band,
    Figure,
    MemoryFit,
    NotMeasured,
    ProfileRecord,
    ProfileRow,
)
from edgedistil.core.toml import did_you_mean
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


def require_claims(records: Sequence[ProfileRecord], requirements: Sequence[Requirement]) -> None:
    """Raises ClaimError unless every requirement holds for certain.

    Args:
        records: The records of one profile.
        requirements: As `read_requirements` returns them.
    Raises:
        ClaimError: A requirement does not hold or is inconclusive; the message lists all of them.
    """
    failures = []
    for requirement in requirements:
        failure = _check_requirement(records, requirement)
        if failure is not None:
            failures.append(failure)
    if failures:
        raise ClaimError(
            "; ".join(failures), hint="the profile was written; --require made this an error"
        )


def _check_requirement(records: Sequence[ProfileRecord], requirement: Requirement) -> str | None:
    """Returns why a requirement fails; None if it holds."""
    if requirement.name in _CLAIM_NAMES:
        bounds = _claim_bounds(records, requirement.name)
    else:
        bounds = _row_bounds(records, requirement.name)
    if isinstance(bounds, NotMeasured):
        return f"{requirement} is inconclusive: {bounds.not_measured}"
    # Both ends of the interval have to keep the bound; if one does, the answer is not certain.
    low_holds, high_holds = requirement.holds(bounds.low), requirement.holds(bounds.high)
    if low_holds and high_holds:
        return None
    if low_holds or high_holds:
        return f"{requirement} is inconclusive: it is {bounds}"
    return f"{requirement} does not hold: it is {bounds}"


# --- intervals of claims and rows ----------------------------------------------------------------


def _claim_bounds(records: Sequence[ProfileRecord], name: str) -> Bounds | NotMeasured:
    """Returns the interval of a claim; of the measured one where there are several."""
    kind, subject = _CLAIM_NAMES[name]
    claims = []
    for record in records:
        claims += [c for c in record.claims if c.claim == kind and subject in c.figure]
    # Sorting is stable: the first thread count stays first.
    claims.sort(key=lambda claim: claim.method != "measured")
    if not claims:
        return NotMeasured(not_measured="the artefacts of this profile have no such claim")
    claim = claims[0]
    if isinstance(claim.low, NotMeasured) or isinstance(claim.high, NotMeasured):
        return NotMeasured(not_measured=claim.sentence)
    return Bounds(claim.low, claim.high)


def _row_bounds(records: Sequence[ProfileRecord], name: str) -> Bounds | NotMeasured:
    """Returns the worst interval of a figure over all rows except the teacher's."""
    figures: list[Bounds | NotMeasured] = []
    for record in records:
        figures += [_row_figure(row, name) for row in record.rows if row.role != "teacher"]
        # A record of --memory-limit has no rows: its peaks are in the fits.
        if name == "peak_mib":
            figures += [_fit_figure(fit) for fit in record.fits if fit.role != "teacher"]
    if not figures:
        return NotMeasured(not_measured="the profile has no row of a student")
    # A figure that is missing in one row could be the worst one.
    bounds = []
    for figure in figures:
        if isinstance(figure, NotMeasured):
            return figure
        bounds.append(figure)
    return Bounds(max(b.low for b in bounds), max(b.high for b in bounds))


def _row_figure(row: ProfileRow, name: str) -> Bounds | NotMeasured:
    # Throttling does not change memory: the peak of an invalid row counts.
    if name == "peak_mib":
        return _bounds(row.peak_memory_bytes, 2**20)
    if not row.valid:
        return NotMeasured(not_measured=row.invalid_reason or "a row is not valid")
    # A predicted row has a band for the median, and no other percentile.
    if name == "p50_ms":
        return _bounds(row.latency_ms, 1)
    if isinstance(row.latency, NotMeasured):
        return NotMeasured(not_measured=f"{row.method} rows have no {name}")
    percentile: Figure = getattr(row.latency, name)
    return _bounds(percentile, 1)


def _fit_figure(fit: MemoryFit) -> Bounds | NotMeasured:
    """Peak memory of an artefact that fits within its limit."""
    if fit.fits:
        return _bounds(fit.peak_memory_bytes, 2**20)
    limit_mib = fit.limit_bytes / 2**20
    return NotMeasured(not_measured=f"{artefact_name(fit)} does not fit in {limit_mib:.0f} MiB")


def _bounds(figure: Figure | int | Band, unit: float) -> Bounds | NotMeasured:
    if isinstance(figure, NotMeasured):
        return figure
    if isinstance(figure, Band):
        return Bounds(figure.low / unit, figure.high / unit)
    return Bounds(figure / unit, figure / unit)
