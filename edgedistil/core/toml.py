"""Strict TOML files: unknown keys get a suggestion, and all problems are reported at once.

Recipes, device files and task files are read here. A file's sections are frozen pydantic classes
(`StrictSection`); errors are raised as the class that the caller names.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgedistil.core.errors import InputError

# Similarity from 0 to 1 above which a name is suggested: low enough for two typing errors in a
# short key, high enough that unrelated keys get the list of all keys instead.
_SIMILARITY = 0.5
# pydantic puts the branch of a union that it tried into an error's location.
_SCALARS = {"int", "float", "str", "bool"}

Section = TypeVar("Section", bound="StrictSection")


class StrictSection(BaseModel):
    """A section of a TOML file: frozen, without unknown keys, conversions, NaN or infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # How a small section is written as one value, `{ value, source }`; field_docs then shows the
    # section as one key.
    written_as: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _arrays_to_tuples(cls, data: Any) -> Any:
        """TOML has arrays only, and strict mode does not convert them to tuples."""
        if not isinstance(data, dict):
            return data
        converted = dict(data)
        for name, field in cls.model_fields.items():
            if isinstance(data.get(name), list) and _is_tuple(field.annotation):
                converted[name] = tuple(data[name])
        return converted


def read_toml(path: Path, *, error: type[InputError], name: str | None = None) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: The file.
        error: Class of the exceptions.
        name: The file in messages; by default its path.
    Raises:
        error: The file is missing, not UTF-8, or not valid TOML (with line and column).
    """
    shown = name if name is not None else str(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise error(f"{shown} does not exist") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{shown} is not UTF-8 text: byte {problem.start}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{shown} is not valid TOML: {problem}") from problem


def parse_section(
    section: type[Section], data: Mapping[str, Any], *, where: str, error: type[InputError]
) -> Section:
    """Checks parsed TOML.

    Args:
        section: Class of the result.
        data: Parsed TOML.
        where: Start of the message, usually the file's name.
        error: Class of the exception.
    Raises:
        error: One line for each problem, all problems.
    """
    try:
        return section.model_validate(data)
    except ValidationError as problems:
        raise error(f"{where}: {format_problems(problems, section)}") from problems


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option that is most similar to a name; None if none is similar enough."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=_SIMILARITY)
    return matches[0] if matches else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns `; did you mean '...'?` for the end of a message, or an empty string."""
    option = closest(name, options)
    if option is None:
        return ""
    return f"; did you mean '{option}'?"


def format_problems(error: ValidationError, section: type[BaseModel]) -> str:
    """All problems that pydantic reports, each on its own line; a single one on the same line."""
    lines = [_format_problem(problem, section) for problem in error.errors()]
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} problems", *(f"  {line}" for line in lines)])


def _format_problem(problem: Any, section: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if not _is_union_branch(part)]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _field_names(section, location[:-1])
        name = str(location[-1])
        advice = did_you_mean(name, known) or f"; expected one of: {', '.join(known)}"
        return f"unknown key '{key}'{advice}"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    # Our own validators write the complete sentence, values included.
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"'{key}' is {problem['input']!r}: {message}"


def _is_union_branch(part: Any) -> bool:
    """Whether a part of a location is not a key: 'list[...]', "literal['alternate']", 'int'."""
    return isinstance(part, str) and ("[" in part or part in _SCALARS)


def _field_names(section: type[BaseModel], location: Iterable[Any]) -> list[str]:
    """Names of the fields of the section at a location, such as ('corpus', 'sources', 0)."""
    current = section
    for part in location:
        # The index of a list: its items are of the section found with the list's name.
        if isinstance(part, int):
            continue
        current = _section_in(current.model_fields[part].annotation) or current
    return list(current.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class in an annotation: itself, in `X | None`, or in `list[X]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_tuple(annotation: Any) -> bool:
    """Whether a field takes a tuple: `tuple[str, ...]` or `tuple[str, ...] | None`."""
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
