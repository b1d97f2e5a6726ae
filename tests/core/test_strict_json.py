"""JSON as the standard defines it."""

from __future__ import annotations

import pytest

from edgedistil.core.strict_json import parse_json


def test_values_are_those_of_the_standard() -> None:
    assert parse_json('{"a": [1, 2.5, null, true, "NaN"]}') == {"a": [1, 2.5, None, True, "NaN"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "NaN is not a JSON value"),
        ('{"a": -Infinity}', "-Infinity is not a JSON value"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
        ("9" * 5000, "integer string conversion"),
    ],
)
def test_anything_else_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
