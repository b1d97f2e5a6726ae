"""Hostile values, and a writer of TOML that can write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

LONG = "A" * 5000
ESCAPE = "\x1b[31mred\x1b[0m"
# Texts that a terminal, a shell, a path, a URL or a page may misread.
TEXTS: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "long": LONG,
    "escape": ESCAPE,
    "nul": "a\0b",
    "lines": "a\nb: c\n",
    "direction": "a\u202eb",
    "parent": "../../outside",
    "home": "~no-user/x.txt",
    "device": "/dev/zero",
    "url": "http://[::1/x",
    "spaces-url": "http://host name/x\ny",
    "markup": "[/nope] [red]x",
    "html": "<script>alert(1)</script>",
    "shell": "$(touch pwned) `touch pwned`; touch pwned",
    "option": "--help",
    "emoji": "\U0001f600" * 40,
}
# Values that no key of ours takes, as TOML.
WRONG_TOML = {
    "date": "1979-05-27",
    "nested-list": "[[[]]]",
    "table": "{ unexpected = 1 }",
    "nan": "nan",
    "deep-list": "[" * 90 + "]" * 90,
}
# Numbers at and beyond the bounds of what arithmetic and memory take.
NUMBERS = {
    "zero": "0",
    "negative": "-1",
    "billion": "1_000_000_000",
    "beyond-64-bits": "1" + "0" * 30,
    "endless": "9" * 5000,
    "largest-float": "1.7e308",
    "smallest-float": "1e-308",
    "infinity": "inf",
}
# Values of the wrong type for most keys of a JSON object.
WRONG_JSON: dict[str, Any] = {
    "text": "12",
    "null": None,
    "true": True,
    "list": [],
    "object": {},
    "negative": -1,
    "zero": 0,
    "fraction": 1.5,
    "billion": 10**9,
    "beyond-64-bits": 10**30,
    "nan": float("nan"),
}


class Raw(str):
    """TOML that is written as it is."""

    __slots__ = ()


def toml(data: Mapping[str, Any]) -> str:
    """Returns TOML with a line for every key of a mapping; sections are inline tables."""
    return "".join(f"{key} = {literal(value)}\n" for key, value in data.items())


def literal(value: Any) -> str:
    """Returns a value as TOML writes it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key} = {literal(item)}" for key, item in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    """Returns a TOML string with every unusual character escaped."""
    parts = (
        character
        if character.isascii() and character.isprintable() and character not in '"\\'
        else f"\\U{ord(character):08x}"
        for character in text
    )
    return f'"{"".join(parts)}"'


def with_value(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Returns a copy of nested data with one value replaced, or added."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        items = list(data)
        items[first] = with_value(items[first], tuple(rest), value)
        return items
    below = data.get(first, {}) if isinstance(data, Mapping) else {}
    return {**data, first: with_value(below, tuple(rest), value)}


def keys(section: type[BaseModel], data: Any) -> Iterator[tuple[tuple[str | int, ...], FieldInfo]]:
    """Yields the path of every key of a section and of the sections below it.

    Args:
        section: Class of the section.
        data: A sound example, which says whether a list has an item to descend into.
    """
    for name, field in section.model_fields.items():
        yield (name,), field
        below = data.get(name) if isinstance(data, Mapping) else None
        inner = _section_in(field.annotation)
        if inner is None:
            continue
        index: tuple[int, ...] = (0,) if isinstance(below, list) and below else ()
        example = below[0] if index else below
        for path, inner_field in keys(inner, example or {}):
            yield (name, *index, *path), inner_field


def is_number(field: FieldInfo) -> bool:
    """Whether a key takes a number."""
    return any(f"{kind.__name__}" in str(field.annotation) for kind in (int, float))


def is_text(field: FieldInfo) -> bool:
    """Whether a key takes free text."""
    return "str" in str(field.annotation) and "Literal" not in str(field.annotation)


def dotted(path: tuple[str | int, ...]) -> str:
    """Returns a path as messages write it."""
    return ".".join(map(str, path))


def _section_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
        for inner in get_args(candidate):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                return inner
    return None
