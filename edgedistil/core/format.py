"""Figures and names as readers see them in tables, plots, model cards and on the terminal.

Every output of the project formats through these functions, so a figure looks the same everywhere.
A figure that was not measured is shown as a dash; a predicted one as its band.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgedistil.core.export_records import InvarianceRecord
from edgedistil.core.profile_records import AtLeast
from edgedistil.core.records import Band, NotMeasured

ABSENT = "–"
# Behind a time that other work on the machine has disturbed.
DISTURBED = " †"

_MEBIBYTE = 2**20
_GIBIBYTE = 2**30
_MINUTE_S = 60
_HOUR_S = 3600
_DAY_S = 86400


class ArtefactKey(Protocol):
    """Anything that says which artefact it is about, such as a record."""

    @property
    def model(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def precision(self) -> str: ...


class FormKey(ArtefactKey, Protocol):
    """A row about an artefact in some runtime."""

    @property
    def form(self) -> str | None: ...


# --- names ---------------------------------------------------------------------------------------


def artefact_name(artefact: ArtefactKey) -> str:
    """Name of an artefact in messages, tables and plots: `student fill-mask int8`."""
    return f"{model_and_task(artefact)} {artefact.precision}"


def model_and_task(artefact: ArtefactKey) -> str:
    """Name of an artefact where the precision has a column of its own: `student fill-mask`."""
    return f"{artefact.model} {artefact.task}"


def precision_and_form(row: FormKey) -> str:
    """Precision, with what another runtime makes of it: `int8`, `fp32, OpenVINO bf16`."""
    return row.precision if row.form is None else f"{row.precision}, {row.form}"


def form_name(row: FormKey) -> str:
    """Name of an artefact in a runtime: `student fill-mask fp32, OpenVINO bf16`."""
    return f"{model_and_task(row)} {precision_and_form(row)}"


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 thread`, `4 threads`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}s"


# --- figures -------------------------------------------------------------------------------------


def percent(value: float | NotMeasured, digits: int = 1, *, sign: bool = False) -> str:
    """Formats a share of 1: 0.975 → `97.5%`."""
    # A change needs its sign; a share does not.
    plus = "+" if sign else ""
    return _format(value, lambda share: f"{100 * share:{plus}.{digits}f}%")


def hundredths(value: float | NotMeasured, digits: int = 2, *, sign: bool = False) -> str:
    """Formats a score times 100, as benchmarks report them: 0.8117 → `81.17`."""
    # A change needs its sign; a score does not.
    plus = "+" if sign else ""
    return _format(value, lambda score: f"{100 * score:{plus}.{digits}f}")


def number(value: float | NotMeasured, digits: int = 3) -> str:
    """Formats with a fixed number of decimals."""
    return _format(value, lambda number: f"{number:.{digits}f}")


def significant(value: float | NotMeasured, digits: int = 2) -> str:
    """Formats with significant digits, for errors of any magnitude: 0.000031 → `3.1e-05`."""
    return _format(value, lambda number: f"{number:.{digits}g}")


def change_by_neighbours(invariance: InvarianceRecord | NotMeasured) -> str:
    """Formats the largest change of a text's outputs by padding or by other texts."""
    if isinstance(invariance, NotMeasured):
        return ABSENT
    return significant(invariance.largest) if invariance.largest else "none"


def with_interval(
    value: float | NotMeasured,
    low: float | NotMeasured,
    high: float | NotMeasured,
    formatter: Callable[[float], str],
    *,
    unit: str = "",
) -> str:
    """Formats a value with its confidence interval where it has one: `1.96x (1.91–2.02)`."""
    # Few seeds give no interval; the value is then shown alone.
    interval = ""
    if not (isinstance(low, NotMeasured) or isinstance(high, NotMeasured)):
        interval = f" ({formatter(low)}–{formatter(high)})"
    return _format(value, lambda middle: f"{formatter(middle)}{unit}{interval}")


def mebibytes(value: float | NotMeasured | Band) -> str:
    """Formats bytes as MiB, without the unit; one decimal below 10 MiB."""
    return _format(value, _mebibytes)


def gibibytes(value: float | NotMeasured) -> str:
    """Formats bytes as GiB, without the unit."""
    return _format(value, lambda size: f"{size / _GIBIBYTE:.1f}")


def millions(value: float) -> str:
    """Formats a count in millions: `66.4M`."""
    return f"{value / 1e6:.1f}M"


def milliseconds(value: float | NotMeasured | Band | AtLeast) -> str:
    """Formats milliseconds, without the unit, with about three significant digits."""
    return _format(value, three_digits)


def rate(value: float | NotMeasured | Band) -> str:
    """Formats a number per second with about three significant digits: `1,240`."""
    return _format(value, lambda number: f"{number:,.0f}" if number >= 100 else f"{number:.3g}")


def three_digits(value: float) -> str:
    """Formats with three significant digits; all digits before the point are shown."""
    # Latencies range from 0.1 ms to 10 s in one column.
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def planned_duration(value: float | NotMeasured | Band) -> str:
    """Formats a time that may be predicted or absent: `3.4 h`, `2.1 h–6.2 h`."""
    return _format(value, duration)


def duration(seconds: float) -> str:
    """Formats a time in the largest unit of which there are two: `45 s`, `12.0 min`, `3.4 h`."""
    # From two units on: "90 min" says more than "1.5 h".
    if seconds >= 2 * _DAY_S:
        return f"{seconds / _DAY_S:.1f} days"
    if seconds >= 2 * _HOUR_S:
        return f"{seconds / _HOUR_S:.1f} h"
    if seconds >= 2 * _MINUTE_S:
        return f"{seconds / _MINUTE_S:.1f} min"
    return f"{seconds:.0f} s"


def _format(value: float | NotMeasured | Band | AtLeast, formatter: Callable[[float], str]) -> str:
    if isinstance(value, NotMeasured):
        return ABSENT
    # A predicted figure is never shown as a single number.
    if isinstance(value, Band):
        return f"{formatter(value.low)}–{formatter(value.high)}"
    if isinstance(value, AtLeast):
        return f"≥ {formatter(value.at_least)}"
    return formatter(value)


def _mebibytes(size: float) -> str:
    # A small file or graph would otherwise round to one digit.
    if size < 10 * _MEBIBYTE:
        return f"{size / _MEBIBYTE:.1f}"
    return f"{size / _MEBIBYTE:.0f}"
