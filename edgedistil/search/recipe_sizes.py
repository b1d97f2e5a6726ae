"""Sizes of the student that a recipe itself describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgedistil.core.budget_options import StudentSize
from edgedistil.core.errors import InputError
from edgedistil.core.recipe_student import Student
from edgedistil.costmodel.shapes import EncoderShape


def recipe_shape(student: Student, teacher: EncoderShape, *, least_vocabulary: int) -> EncoderShape:
    """Returns the shape of a recipe's student.

    Args:
        student: Section [student]; keys without a value mean the teacher's size.
        teacher: Shape of a student with all of the teacher's layers.
        least_vocabulary: Tokens that have to stay.
    Raises:
        InputError: The teacher has no such layer, or is not larger than a size.
    """
    # A vocabulary by coverage is as large as the text makes it; here it is the teacher's.
    vocabulary = None if student.vocabulary is None else student.vocabulary.size
    words, width = teacher.vocabulary, teacher.hidden
    # V·E + E·D < V·D: above it, two matrices are not smaller than one.
    largest_rank = (words * width - 1) // (words + width)
    return replace(
        teacher,
        layers=_depth(student.layers, teacher.layers),
        intermediate=_size("intermediate", student.intermediate, teacher.intermediate),
        heads=_size("heads", student.heads, teacher.heads),
        rank=_size("embedding", student.embedding, teacher.rank, largest=largest_rank),
        vocabulary=_size("vocabulary.size", vocabulary, words, least=least_vocabulary),
    )


def check_fixed_sizes(student: Student, keep: Sequence[StudentSize]) -> None:
    """Raises InputError if a size that candidates are to have is not known before training."""
    section = student.vocabulary
    if "vocabulary" in keep and section is not None and section.size is None:
        raise InputError(
            f"--keep vocabulary: student.vocabulary.coverage is {section.coverage}, and its number "
            "of tokens is only known once the text is counted; expected student.vocabulary.size",
            hint="add --set 'student.vocabulary={size=16000}', or leave --keep vocabulary out",
        )


def _depth(layers: str | list[int], teacher: int) -> int:
    if isinstance(layers, str):
        # Half of the teacher's, rounded up.
        return (teacher + 1) // 2
    outside = [layer for layer in layers if layer >= teacher]
    if outside:
        raise InputError(
            f"student.layers is {layers}: the teacher has no layer {outside[0]}; expected layers "
            f"from 0 to {teacher - 1}"
        )
    # A layer may be taken twice.
    return len(layers)


def _size(
    key: str, size: int | None, teacher: int, *, least: int = 1, largest: int | None = None
) -> int:
    """A size below the teacher's; the teacher's if the recipe has none."""
    if size is None:
        return teacher
    # `distill` refuses the teacher's own size: the key would change nothing.
    most = teacher - 1 if largest is None else largest
    if not least <= size <= most:
        raise InputError(
            f"student.{key} is {size}; expected {least:,} to {most:,} with this teacher",
            hint="leave the key out for the teacher's size",
        )
    return size
