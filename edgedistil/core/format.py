"""Figures as a person reads them: shares, sizes, times; a dash where there is none."""

from __future__ import annotations

from edgedistil.core.records import Band, NotMeasured

ABSENT = "–"


def percent(value: float | NotMeasured, digits: int = 1) -> str:
    return ABSENT if isinstance(value, NotMeasured) else f"{100 * value:.{digits}f}%"


def number(value: float | NotMeasured, digits: int = 3) -> str:
    return ABSENT if isinstance(value, NotMeasured) else f"{value:.{digits}f}"


def mebibytes(value: float | NotMeasured | Band) -> str:
    if isinstance(value, NotMeasured):
        return ABSENT
    if isinstance(value, Band):
        return f"{value.low / 2**20:.0f}–{value.high / 2**20:.0f}"
    return f"{value / 2**20:.0f}" if value >= 10 * 2**20 else f"{value / 2**20:.1f}"


def gibibytes(value: float | NotMeasured) -> str:
    return ABSENT if isinstance(value, NotMeasured) else f"{value / 2**30:.1f}"


def millions(value: float) -> str:
    return f"{value / 1e6:.1f}M"


def milliseconds(value: float | NotMeasured | Band) -> str:
    if isinstance(value, NotMeasured):
        return ABSENT
    if isinstance(value, Band):
        return f"{three_digits(value.low)}–{three_digits(value.high)}"
    return three_digits(value)


def three_digits(value: float) -> str:
    """Three significant digits at most, none after the point above 100."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def span(seconds: float) -> str:
    """A length of time for a person: 45 s, 12 min, 3.4 h, 5.1 days."""
    for limit, unit, name in ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (120, 60, "min")):
        if seconds >= limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"
