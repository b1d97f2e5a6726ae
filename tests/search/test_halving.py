"""Rounds of successive halving, the students in them, and which of them are optimal."""

from __future__ import annotations

import pytest

from edgedistil.core.errors import InputError
from edgedistil.core.records import Band
from edgedistil.core.search_records import Candidate, Fit
from edgedistil.search.halving import Round, pareto, plan_rounds, select_students, sizes_label


def candidate(layers: int, precision: str = "fp32", fit: Fit = "fits") -> Candidate:
    band = Band(low=1.0, high=2.0)
    return Candidate(
        layers=layers, intermediate=44, heads=2, vocabulary=101, precision=precision,
        parameters=layers * 1000, file_bytes=band, latency_ms=band, memory_bytes=band, fit=fit,
        worst_ratio=0.5,
    )  # fmt: skip


def test_each_round_has_half_of_the_students_and_the_same_tokens() -> None:
    rounds = plan_rounds(8, 4_000_000)
    assert [round_.students for round_ in rounds] == [8, 4, 2, 1]
    assert {round_.students * round_.tokens for round_ in rounds} == {1_000_000}


@pytest.mark.parametrize("students", [1, 2, 3, 5, 7, 64])
def test_a_search_never_trains_on_more_tokens_than_its_budget(students: int) -> None:
    rounds = plan_rounds(students, 12_345_678)
    assert rounds[-1].students == 1
    assert sum(round_.students * round_.tokens for round_ in rounds) <= 12_345_678


def test_one_student_has_one_round() -> None:
    assert plan_rounds(1, 5000) == [Round(1, 5000)]


def test_a_budget_that_trains_nothing_is_refused_with_the_least() -> None:
    with pytest.raises(InputError, match=r"set --tokens to 12,000 or more, or train fewer"):
        plan_rounds(4, 11_999)
    assert plan_rounds(4, 12_000)[0].tokens == 1000


def test_students_are_the_first_of_different_sizes() -> None:
    candidates = [
        candidate(3),
        candidate(3, "int8"),
        candidate(2, "int8"),
        candidate(1, fit="may fit"),
        candidate(4, fit="does not fit"),
    ]
    assert [(c.layers, c.precision) for c in select_students(candidates, 2)] == [
        (3, "fp32"),
        (2, "int8"),
    ]
    assert [c.layers for c in select_students(candidates, 9)] == [3, 2, 1]


def test_students_that_differ_in_width_alone_come_after_the_others() -> None:
    wide = candidate(3)
    narrow = wide.model_copy(update={"intermediate": 22})
    fewer_tokens = wide.model_copy(update={"vocabulary": 50})
    factorised = wide.model_copy(update={"embedding": 8})
    shallow = candidate(2, fit="may fit")
    candidates = [wide, narrow, fewer_tokens, factorised, shallow]
    assert select_students(candidates, 4) == [wide, fewer_tokens, factorised, shallow]
    assert select_students(candidates, 9) == [wide, fewer_tokens, factorised, shallow, narrow]


def test_sizes_name_a_student() -> None:
    assert sizes_label(candidate(3)) == "3x44x2x101"
    assert sizes_label(candidate(3).model_copy(update={"embedding": 8})) == "3x44x2x101x8"


def test_a_point_that_another_one_beats_is_not_optimal() -> None:
    points = [(0.0, 5.0), (1.0, 4.0), (1.0, 5.0), (3.0, 1.0), (3.0, 1.0)]
    assert pareto(points) == [True, True, False, True, True]
