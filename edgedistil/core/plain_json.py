"""Strict reading of JSON into dataclasses, with the standard library only.

Devices that only run artefacts have numpy, onnxruntime and tokenizers; records, which need
pydantic, are for machines with everything.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_json(kind: type[T], content: Any) -> T:
    """Returns a dataclass with the values of a JSON object.

    Every field has to be in the object, also one with a default, and no other key.

    Args:
        kind: Dataclass of str, int, float, bool, Literal, None, dataclasses, and lists, tuples
            and dictionaries of them.
        content: What the JSON parser returned.
    Raises:
        ValueError: A value is missing, unknown or of another type; the message has its place.
    """
    value: T = _value(kind, content, "")
    return value


def _value(kind: Any, content: Any, place: str) -> Any:
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _dataclass(kind, content, place)
    if origin is Literal:
        _require(content in get_args(kind), f"one of: {', '.join(get_args(kind))}", content, place)
        return content
    if origin in (Union, types.UnionType):
        return _union(kind, content, place)
    if origin is list or origin is tuple:
        _require(isinstance(content, list), "a list", content, place)
        item = get_args(kind)[0]
        return origin(_value(item, part, _join(place, i)) for i, part in enumerate(content))
    if origin in (dict, Mapping):
        _require(isinstance(content, dict), "an object", content, place)
        item = get_args(kind)[1]
        return {key: _value(item, part, _join(place, key)) for key, part in content.items()}
    # A JSON true is a number in Python, and 2.0 may be written as 2.
    accepted = (int, float) if kind is float else (kind,)
    is_kind = isinstance(content, accepted) and isinstance(content, bool) is (kind is bool)
    _require(is_kind, f"a value of the type {kind.__name__}", content, place)
    return content


def _dataclass(kind: Any, content: Any, place: str) -> Any:
    _require(isinstance(content, dict), "an object", content, place)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in content:
            raise ValueError(f"{_join(place, name)}: missing")
    for key in content:
        if key not in names:
            raise ValueError(f"{_join(place, key)}: unknown; expected {', '.join(names)}")
    values = {name: _value(hints[name], content[name], _join(place, name)) for name in names}
    try:
        return kind(**values)
    except ValueError as error:
        # A class may check more than types.
        raise ValueError(_join(place, error)) from error


def _union(kind: Any, content: Any, place: str) -> Any:
    members = get_args(kind)
    if content is None and types.NoneType in members:
        return None
    others = [member for member in members if member is not types.NoneType]
    # Only of plain types is there more than one: they differ by the type of the value.
    for member in others[:-1]:
        if isinstance(content, member) and not isinstance(content, bool):
            return content
    return _value(others[-1], content, place)


def _require(holds: bool, expected: str, content: Any, place: str) -> None:
    if not holds:
        shown = "an object" if isinstance(content, dict) else repr(content)
        raise ValueError(f"{place or 'content'}: got {shown}; expected {expected}")


def _join(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
