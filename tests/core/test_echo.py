"""Text that is safe to print: no control characters, no long values, any encoding."""

from __future__ import annotations

import io
import sys

import pytest

from edgedistil.core.echo import bounded, echo, one_line, printable, replace_unencodable
from edgedistil.core.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("a\x00\x7f\x9bb", "a???b"),
        ("a\rb\r\nc\td", "a?b\nc\td"),
        ("a\u202eb\u2066c\u2028d", "a?b?c?d"),
        ("a\udce9b", "a?b"),
        ("naïve 字 –\u00a0😀", "naïve 字 –\u00a0😀"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_one_line() -> None:
    assert one_line("a\nb\tc\x1b") == "a b c?"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 200, "x" * 200),
        ("x" * 5000, "x" * 200 + "… (5,000 characters)"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\n" * 150, r"\n" * 100 + "… (150 characters)"),
        (12, "12"),
    ],
)
def test_echo(value: object, expected: str) -> None:
    assert echo(value) == expected


def test_echo_of_an_integer_that_python_does_not_write() -> None:
    assert echo(10**5000) == "an integer of more than 4,300 digits"


def test_a_message_repeats_no_long_value() -> None:
    name = "a b " * 500
    message = bounded(f"unknown recipe '{name}'; the teacher's folder {'y' * 300} has 3 files")
    assert message == (
        f"unknown recipe '{name[:200]}… (2,000 characters)'; "
        f"the teacher's folder {'y' * 200}… (300 characters) has 3 files"
    )


def test_a_line_of_a_message_is_bounded() -> None:
    line = bounded("first\n" + "ab " * 1000 + "\nlast").split("\n")
    assert line[1] == ("ab " * 1000)[:1000] + "… (3,000 characters)"
    assert (line[0], line[2]) == ("first", "last")


def test_short_lines_and_apostrophes_are_unchanged() -> None:
    message = "the student's loss, and the teacher's " + "words of it " * 30
    assert bounded(message) == message


def test_every_error_is_bounded() -> None:
    error = RecipeError(f"unknown\x1b {'x' * 1000}", hint="y" * 1000)
    assert str(error) == (
        f"unknown? {'x' * 200}… (1,000 characters)\n  {'y' * 200}… (1,000 characters)"
    )
    assert error.args == (error.message,)


def test_streams_replace_what_their_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    replace_unencodable()
    print("3 × 4 … é\udce9")
    assert stream.buffer.getvalue() == b"3 x 4 ... ??\n"
