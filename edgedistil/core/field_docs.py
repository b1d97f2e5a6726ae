"""Descriptions of the keys in recipes, device files and task files, read from their classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgedistil.core import console
from edgedistil.core.errors import InputError
from edgedistil.core.toml import StrictSection, did_you_mean

_TYPE_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
}
# Up to here, digits are counted at a glance.
_GROUPED_FROM = 10**5
_PLURALS: Mapping[str, str] = {"integer": "integers", "number": "numbers", "text": "texts"}
# Attribute of a constraint in a field's metadata → its form in the list of bounds.
_BOUNDS: Mapping[str, str] = {
    "gt": "> {}",
    "ge": ">= {}",
    "lt": "< {}",
    "le": "<= {}",
    "min_length": "length >= {}",
    "max_length": "length <= {}",
    "pattern": "matches {}",
}


@dataclass(frozen=True)
class FieldDoc:
    """Description of one key of a TOML file.

    Attributes:
        key: Dotted path, such as `train.learning_rate`.
        type: Type in words: `number`, `list of integers`, `section`.
        default: Default as TOML writes it; `required`, or `not set` for an optional key.
        bounds: Constraints on the value, `> 0, < 1`; empty without constraints.
        description: One sentence.
    """

    key: str
    type: str
    default: str
    bounds: str
    description: str


def describe_fields(model: type[BaseModel]) -> list[FieldDoc]:
    """Returns every key of a section class, nested sections included, in the order of the class."""
    return list(_describe(model, ""))


def matching_fields(fields: Sequence[FieldDoc], key: str) -> list[FieldDoc]:
    """Returns the field with a key, the fields of a section, or the fields whose last part it is.

    Args:
        fields: As `describe_fields` returns them.
        key: `train.learning_rate`, `train`, or `learning_rate`.
    Raises:
        InputError: No field matches ("did you mean").
    """
    # A section's name matches all its keys, a complete key itself.
    in_section = [field for field in fields if f"{field.key}.".startswith(f"{key}.")]
    if in_section:
        return in_section
    # The last part alone may be in several sections; all of them are returned.
    by_last_part = [field for field in fields if field.key.rpartition(".")[2] == key]
    if by_last_part:
        return by_last_part

    # A misspelt key may be a complete one or a last part.
    keys = [field.key for field in fields]
    last_parts = [name.rpartition(".")[2] for name in keys]
    top_level = dict.fromkeys(name.partition(".")[0] for name in keys)
    raise InputError(
        f"unknown key '{key}'{did_you_mean(key, [*keys, *last_parts])}",
        hint=f"expected a key, or a section: {', '.join(top_level)}",
    )


def show_fields(title: str, fields: Sequence[FieldDoc]) -> None:
    """Prints fields as a table on stdout."""
    rows = [
        [field.key, f"{field.type} {field.bounds}".strip(), field.default, field.description]
        for field in fields
    ]
    console.table(title, ["key", "type", "default", "description"], rows)


def _describe(model: type[BaseModel], prefix: str) -> Iterator[FieldDoc]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        section = _section_in(field.annotation)
        yield FieldDoc(
            key=key,
            type=_type_in_words(field.annotation),
            default=_default(field, is_section=section is not None),
            # The items of a tuple repeat their bounds.
            bounds=", ".join(dict.fromkeys(_bounds(field.annotation, field.metadata))),
            description=field.description or "",
        )
        if section is not None:
            yield from _describe(section, f"{key}.")


def _section_in(annotation: Any) -> type[StrictSection] | None:
    """The section class in an annotation whose keys are described one by one."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, StrictSection) and not part.written_as:
            return part
    return None


def _type_in_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_in_words(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(str(value) for value in arguments)}"
    if origin in (Union, UnionType):
        parts = [_type_in_words(part) for part in arguments if part is not NoneType]
        return " or ".join(parts)
    if origin in (list, tuple):
        return _list_in_words(arguments)
    if origin is dict:
        return f"table of {_plural(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, StrictSection):
        return annotation.written_as or "section"
    return _TYPE_WORDS.get(annotation, str(annotation))


def _list_in_words(arguments: tuple[Any, ...]) -> str:
    """Words for `list[X]`, `tuple[X, ...]` and `tuple[X, X]`."""
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return f"list of {_plural(arguments[0])}"
    return f"list of {len(arguments)} {_plural(arguments[0])}"


def _plural(annotation: Any) -> str:
    words = _type_in_words(annotation)
    if words == "section":
        return "sections"
    return _PLURALS.get(words, words)


def _default(field: FieldInfo, *, is_section: bool) -> str:
    if field.is_required():
        return "required"
    # Some defaults are made by a factory.
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    # The defaults of a section are shown with its keys.
    if is_section:
        return ""
    return json.dumps(value, ensure_ascii=False)


def _bounds(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    """Constraints of a field, then of what its annotation contains (`Annotated[...] | None`)."""
    for constraint in metadata:
        # `Positive | None` nests its constraints in a FieldInfo.
        if isinstance(constraint, FieldInfo):
            yield from _bounds(None, constraint.metadata)
        for attribute, form in _BOUNDS.items():
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield form.format(_grouped(bound))
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        yield from _bounds(inner, extra)
    else:
        for part in get_args(annotation):
            yield from _bounds(part, ())


def _grouped(bound: Any) -> str:
    """Writes a bound; large integers with groups of digits, as TOML accepts them."""
    is_large = isinstance(bound, int) and bound >= _GROUPED_FROM
    return f"{bound:_}" if is_large else str(bound)
