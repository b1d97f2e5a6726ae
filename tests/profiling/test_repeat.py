"""Rows that several threads make slower, and the times of a second measurement."""

from __future__ import annotations

import pytest

from edgedistil.profiling.repeat import mark_slower_than_one, replace_times
from tests.profiling.conftest import make_row


@pytest.mark.parametrize(("two_ms", "is_marked"), [(7.6, False), (7.8, True), (3.5, False)])
def test_a_row_that_more_threads_slow_down_is_marked(two_ms: float, is_marked: bool) -> None:
    (row,) = mark_slower_than_one([make_row(two_ms, threads=2)], [make_row(7.0)])
    assert row.disturbed == ("1.11 times as long with 2 threads as with one" if is_marked else None)


def test_signs_add_up() -> None:
    (row,) = mark_slower_than_one([make_row(9.0, threads=2, disturbed="x")], [make_row(7.0)])
    assert row.disturbed == "x; 1.29 times as long with 2 threads as with one"


def test_only_an_undisturbed_row_of_the_same_artefact_and_length_counts() -> None:
    slow = make_row(70.0, threads=2)
    others = [
        make_row(7.0, disturbed="x"),
        make_row(7.0, valid=False),
        make_row(7.0, length=32),
        make_row(7.0, artefact_sha256="cd"),
        make_row(7.0, threads=4),
    ]
    assert mark_slower_than_one([slow], others) == [slow]


def test_a_second_measurement_replaces_the_times_only() -> None:
    first = make_row(9.0, disturbed="noise", conditions={"energy": "5 mJ", "cores": "1 of 2"})
    second = make_row(7.0, load_ms=99.0, peak_bytes=3, conditions={"cores": "2 of 2"})
    other = make_row(5.0, length=32)
    row, unchanged = replace_times([first, other], [second])
    assert (row.latency_ms, row.disturbed, row.load_ms) == (7.0, None, 1.0)
    assert row.peak_memory_bytes == first.peak_memory_bytes
    assert row.conditions == {
        "energy": "5 mJ",
        "cores": "2 of 2",
        "first measurement": "disturbed: noise",
    }
    assert unchanged == other


def test_a_row_that_is_disturbed_twice_is_marked_with_the_later_reasons() -> None:
    first, second = make_row(9.0, disturbed="one"), make_row(8.0, disturbed="two")
    (row,) = replace_times([first], [second])
    assert (row.latency_ms, row.disturbed) == (8.0, "two")
    assert row.conditions["first measurement"] == "disturbed: one"
