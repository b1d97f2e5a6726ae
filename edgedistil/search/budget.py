"""Budgets as users write them: 30ms, 40MB, 256MiB."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.records import Band, NotMeasured
from edgedistil.core.search_records import Budget, Fit

_LIMIT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_MILLISECONDS = {"ms": 1.0, "s": 1000.0}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_HINT = "for example --under 30ms --under 40MB --memory 256MB"


def read_budget(under: Sequence[str], memory: str | None) -> Budget:
    """Returns the limits of `--under` and `--memory`.

    Raises:
        InputError: A limit cannot be read, or there are two of one kind, or none.
    """
    limits: dict[str, float] = {}
    for text in under:
        value, unit = _parse(text, "--under")
        kind = "latency_ms" if unit in _MILLISECONDS else "file_bytes"
        if kind in limits:
            raise InputError(f"--under {echo(text)}: there is another limit of this kind")
        limits[kind] = value * (_MILLISECONDS | _BYTES)[unit]
    if memory is not None:
        value, unit = _parse(memory, "--memory")
        if unit in _MILLISECONDS:
            raise InputError(f"--memory {echo(memory)}: expected bytes, such as 256MB", hint=_HINT)
        limits["memory_bytes"] = value * _BYTES[unit]
    if not limits:
        raise InputError("a budget is required: expected --under or --memory", hint=_HINT)
    return Budget(
        latency_ms=limits.get("latency_ms"),
        file_bytes=int(limits["file_bytes"]) if "file_bytes" in limits else None,
        memory_bytes=int(limits["memory_bytes"]) if "memory_bytes" in limits else None,
    )


def _parse(text: str, flag: str) -> tuple[float, str]:
    match = _LIMIT.fullmatch(text.strip())
    unit = match[2].lower() if match is not None else ""
    if match is None or unit not in _MILLISECONDS | _BYTES or float(match[1]) == 0:
        raise InputError(
            f"{flag} {echo(text)}: expected a number above 0 with its unit, one of "
            f"{', '.join(_MILLISECONDS | _BYTES)}",
            hint=_HINT,
        )
    return float(match[1]), unit


def fit_of(needs: Sequence[tuple[Band, float | None]]) -> Fit:
    """Returns whether bands are below their limits: for sure, perhaps, or not.

    Args:
        needs: A band, and its limit; None without one.
    """
    limited = [(band, limit) for band, limit in needs if limit is not None]
    if any(band.low > limit for band, limit in limited):
        return "does not fit"
    if all(band.high <= limit for band, limit in limited):
        return "fits"
    return "may fit"


def excess_of(need: float | Band | NotMeasured, limit: float | None) -> str:
    """Returns by how much a need may be above its limit, in words; empty if it is not for sure."""
    if limit is None:
        return ""
    if isinstance(need, NotMeasured):
        return f"not measured ({need.not_measured})"
    highest = need.high if isinstance(need, Band) else need
    return "" if highest <= limit else f"up to {highest:,.6g} of {limit:,.6g}"
