"""Figures and names in the form that tables, cards and the terminal show."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgedistil.core import format as formats
from edgedistil.core.records import Band, NotMeasured

UNKNOWN = NotMeasured(not_measured="there was no device")


@dataclass(frozen=True)
class Key:
    model: str = "student"
    task: str = "fill-mask"
    precision: str = "int8"


def test_an_artefact_is_named_by_model_task_and_precision() -> None:
    assert formats.artefact_name(Key()) == "student fill-mask int8"
    assert formats.model_and_task(Key()) == "student fill-mask"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 threads"), (1, "1 thread"), (2, "2 threads"), (1500, "1,500 threads")],
)
def test_plural_of_a_count(count: int, text: str) -> None:
    assert formats.plural(count, "thread") == text


@pytest.mark.parametrize(
    "formatter",
    [
        formats.percent,
        formats.hundredths,
        formats.number,
        formats.significant,
        formats.mebibytes,
        formats.gibibytes,
        formats.milliseconds,
    ],
)
def test_an_absent_figure_is_a_dash(formatter) -> None:  # type: ignore[no-untyped-def]
    assert formatter(UNKNOWN) == "–"


def test_shares_and_scores() -> None:
    assert formats.percent(0.9754) == "97.5%"
    assert formats.percent(0.9754, 0) == "98%"
    assert formats.hundredths(0.8117) == "81.17"
    assert formats.hundredths(0.0113, sign=True) == "+1.13"
    assert formats.hundredths(-0.0113, 1, sign=True) == "-1.1"


def test_numbers() -> None:
    assert formats.number(0.12345) == "0.123"
    assert formats.number(0.9999949, 5) == "0.99999"
    assert formats.significant(0.0000312) == "3.1e-05"
    assert formats.millions(66_362_880) == "66.4M"


def test_sizes_in_binary_units() -> None:
    assert formats.mebibytes(17.4 * 2**20) == "17"
    assert formats.mebibytes(3.14 * 2**20) == "3.1"
    assert formats.gibibytes(1.5 * 2**30) == "1.5"


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.23"), (12.34, "12.3"), (1234.0, "1234")])
def test_milliseconds_have_three_significant_digits(value: float, text: str) -> None:
    assert formats.milliseconds(value) == text


def test_a_band_is_shown_by_both_ends() -> None:
    assert formats.milliseconds(Band(low=101.0, high=211.4)) == "101–211"
    assert formats.mebibytes(Band(low=110 * 2**20, high=190 * 2**20)) == "110–190"


def test_a_value_is_followed_by_its_interval() -> None:
    assert formats.with_interval(0.975, 0.929, 1.013, formats.percent) == "97.5% (92.9%–101.3%)"
    ratio = formats.with_interval(1.96, 1.91, 2.02, lambda value: f"{value:.2f}", unit="x")
    assert ratio == "1.96x (1.91–2.02)"


def test_a_value_without_an_interval_is_shown_alone() -> None:
    assert formats.with_interval(0.975, UNKNOWN, 1.013, formats.percent) == "97.5%"
    assert formats.with_interval(UNKNOWN, 0.9, 1.0, formats.percent) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (119, "119 s"), (720, "12.0 min"), (12_240, "3.4 h"), (440_640, "5.1 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text
