"""Successive halving: which students of a search are trained, for how long, and which are best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgedistil.core.errors import InputError
from edgedistil.core.search_records import Candidate

# Fewer tokens than a few optimizer steps say nothing about a student.
_LEAST_TOKENS = 1000


@dataclass(frozen=True)
class Round:
    """One round of the halving.

    Attributes:
        students: Students that are trained.
        tokens: Training tokens of each of them.
    """

    students: int
    tokens: int


def plan_rounds(students: int, tokens: int) -> list[Round]:
    """Returns rounds of equal tokens, each with half of the students of the one before.

    Args:
        students: Students of the first round.
        tokens: Training tokens of all rounds together.
    Raises:
        InputError: So few tokens that the first round would train nothing.
    Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943), §3.
    Differs from: A student starts again in each round, because the learning rate's schedule belongs
        to the length of a run; so the last round's student has only its own tokens.
    """
    counts = [students]
    # An odd number is halved upwards, so that a good student is not lost to a tie.
    while counts[-1] > 1:
        counts.append((counts[-1] + 1) // 2)
    rounds = [Round(count, tokens // len(counts) // count) for count in counts]
    if rounds[0].tokens < _LEAST_TOKENS:
        least = _LEAST_TOKENS * len(counts) * students
        raise InputError(
            f"--tokens {tokens:,} for {students} students: each would be trained on "
            f"{rounds[0].tokens:,} in the first round; expected {_LEAST_TOKENS:,} or more",
            hint=f"set --tokens to {least:,} or more, or train fewer students",
        )
    return rounds


def select_students(candidates: Iterable[Candidate], count: int) -> list[Candidate]:
    """Returns candidates that differ, each at its first precision.

    One student of each depth and each size of the word embeddings comes first: students that differ
    in units or heads alone are near to each other.

    Args:
        candidates: In the order of a search: those that fit come first.
        count: Number of students; fewer if there are not as many that may fit.
    """
    selected: dict[tuple[int, ...], Candidate] = {}
    for candidate in candidates:
        if candidate.fit != "does not fit":
            selected.setdefault(sizes_of(candidate), candidate)
    # A dictionary keeps the order of the search.
    students = list(selected.values())
    first: dict[tuple[int, int, int | None], Candidate] = {}
    for student in students:
        first.setdefault(_group(student), student)
    others = [student for student in students if first[_group(student)] is not student]
    return [*first.values(), *others][:count]


def _group(candidate: Candidate) -> tuple[int, int, int | None]:
    """Depth, and rows and width of the word embeddings."""
    return (candidate.layers, candidate.vocabulary, candidate.embedding)


def sizes_of(candidate: Candidate) -> tuple[int, ...]:
    """Sizes that make a student another one; its precision is not among them."""
    layers = (candidate.layers, candidate.intermediate, candidate.heads)
    return (*layers, candidate.vocabulary, candidate.embedding or 0)


def sizes_label(candidate: Candidate) -> str:
    """The sizes in names of runs and files; word embeddings as wide as the teacher's are left out.

    For example `3x1536x12x16000`, and `3x1536x12x16000x192` with word embeddings of 192 columns.
    """
    return "x".join(str(size) for size in sizes_of(candidate) if size)


def pareto(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Returns for each point whether no other one is at least as low in all and lower in one."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    is_as_low = all(mine <= its for mine, its in zip(other, point, strict=True))
    return is_as_low and other != point
