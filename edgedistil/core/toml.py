"""Strict TOML files: unknown keys get a suggestion, and all problems are reported at once.

Recipes, device files and task files are read here. A file's sections are frozen pydantic classes
(`StrictSection`); errors are raised as the class that the caller names. Size, depth and integers
are bounded before the classes see the values, because a file may come from anywhere.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.format import plural
from edgedistil.core.regular_file import read_regular

# Similarity from 0 to 1 above which a name is suggested: low enough for two typing errors in a
# short key, high enough that unrelated keys get the list of all keys instead.
_SIMILARITY = 0.5
# Names longer than any key or file that we ship are not compared: the time grows with the length.
_LONGEST_COMPARED = 100
# Far above any real recipe, device or task file; the largest that we ship has 5 KiB.
_MAX_BYTES = 1 << 20
# A dotted key costs the parser time in the square of its parts. Real keys have three.
_MAX_DOTS_IN_LINE = 1000
# Our deepest value, the figure of a device's cluster, is at level 6.
_MAX_DEPTH = 20
# TOML's own range of integers; beyond it, neither a float nor a tensor can take the value.
_INTEGERS = range(-(2**63), 2**63)
# Problems of one file that are listed; the rest is counted.
_MAX_PROBLEMS = 20
# pydantic's types of error for a section that is not a table.
_NOT_A_TABLE = {"model_type", "model_attributes_type", "dict_type"}

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


def check_exactly_one(section: StrictSection, names: tuple[str, ...]) -> None:
    """Raises ValueError unless exactly one of some keys has a value."""
    present = [name for name in names if getattr(section, name) is not None]
    if len(present) != 1:
        raise ValueError(
            f"expected exactly one of {', '.join(names)}; got {' and '.join(present) or 'none'}"
        )


def read_toml(path: Path, *, error: type[InputError], name: str | None = None) -> dict[str, Any]:
    """Reads a TOML file.

    Args:
        path: The file.
        error: Class of the exceptions.
        name: The file in messages; by default its path.
    Raises:
        error: The file is missing, not a regular file, too large, not UTF-8, or not valid TOML
            (with line and column).
    """
    shown = echo(name if name is not None else path)
    try:
        content = read_regular(path, limit_bytes=_MAX_BYTES)
    except FileNotFoundError as problem:
        raise error(f"{shown} does not exist") from problem
    except OSError as problem:
        raise error(f"cannot read {shown}: {_reason(problem)}") from problem
    try:
        # Windows editors put a byte order mark before the first line.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{shown} is not UTF-8 text: byte {problem.start}") from problem
    return parse_toml(text, where=shown, error=error)


def parse_toml(text: str, *, where: str, error: type[InputError]) -> dict[str, Any]:
    """Parses TOML.

    Args:
        text: The document.
        where: Start of the message, usually the file's name.
        error: Class of the exceptions.
    Raises:
        error: The text is not valid TOML, too deeply nested, or has a value that nothing can use.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _MAX_DOTS_IN_LINE:
            raise error(f"{where}: line {number} has more than {_MAX_DOTS_IN_LINE:,} dots")
    try:
        data = tomllib.loads(text)
    except RecursionError as problem:
        raise error(f"{where} is not valid TOML: it is too deeply nested") from problem
    except ValueError as problem:
        # Besides its own error, tomllib passes on that an integer has too many digits.
        raise error(f"{where} is not valid TOML: {_reason(problem)}") from problem
    _check_values(data, where, error)
    return data


def _reason(problem: Exception) -> str:
    """The part of a library's message that helps: without a file name or advice for programmers."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    message = str(problem)
    if message.startswith("Exceeds the limit"):
        return "an integer has too many digits"
    return message


def _check_values(data: dict[str, Any], where: str, error: type[InputError]) -> None:
    """Raises an error for nesting, integers and strings that a section cannot check itself."""
    # Without recursion, because dotted keys nest deeper than Python's stack.
    remaining: list[tuple[str, Any, int]] = [("", data, 0)]
    while remaining:
        key, value, depth = remaining.pop()
        if depth > _MAX_DEPTH:
            raise error(f"{where}: '{echo(key)}' is nested more than {_MAX_DEPTH} levels deep")
        if isinstance(value, str) and "\0" in value:
            raise error(f"{where}: '{echo(key)}' contains a NUL character")
        if isinstance(value, int) and value not in _INTEGERS:
            raise error(f"{where}: '{echo(key)}' is an integer outside of the 64-bit range")
        if isinstance(value, list):
            remaining += [(key, item, depth + 1) for item in value]
        if isinstance(value, dict):
            prefix = f"{key}." if key else ""
            remaining += [(f"{prefix}{name}", item, depth + 1) for name, item in value.items()]


def parse_section(
    section: type[Section],
    data: Mapping[str, Any],
    *,
    where: str,
    error: type[InputError],
    arguments: Mapping[str, str] | None = None,
) -> Section:
    """Checks parsed TOML.

    Args:
        section: Class of the result.
        data: Parsed TOML.
        where: Start of the message, usually the file's name.
        error: Class of the exception.
        arguments: Dotted key → argument of the command line that set it, which its problem names.
    Raises:
        error: One line for each problem, all problems.
    """
    try:
        return section.model_validate(data)
    except ValidationError as problems:
        text = format_problems(problems, section, arguments or {})
        # A problem of an argument is not one of the file.
        start = "" if text.startswith("--") else f"{echo(where)}: "
        raise error(f"{start}{text}") from problems


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option that is most similar to a name; None if none is similar enough."""
    if len(name) > _LONGEST_COMPARED:
        return None
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=_SIMILARITY)
    return matches[0] if matches else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns `; did you mean '...'?` for the end of a message, or an empty string."""
    option = closest(name, options)
    if option is None:
        return ""
    return f"; did you mean '{option}'?"


def format_problems(
    error: ValidationError, section: type[BaseModel], arguments: Mapping[str, str] | None = None
) -> str:
    """All problems that pydantic reports, each on its own line; a single one on the same line."""
    problems = error.errors()
    lines = [
        _format_problem(problem, section, arguments or {}) for problem in problems[:_MAX_PROBLEMS]
    ]
    if len(lines) == 1:
        return lines[0]
    if len(problems) > len(lines):
        lines.append(f"and {len(problems) - len(lines):,} more")
    return "\n".join([f"{len(problems):,} problems", *(f"  {line}" for line in lines)])


def _format_problem(problem: Any, section: type[BaseModel], arguments: Mapping[str, str]) -> str:
    key, subject, message = _describe_problem(problem, section)
    for set_key, argument in arguments.items():
        # The argument itself has key and value.
        if key == set_key:
            return f"{argument}: {message}"
        if key.startswith(f"{set_key}."):
            return f"{argument}: {subject}{message}"
        # A section whose keys do not go together, one of which was set.
        if key and set_key.startswith(f"{key}."):
            return f"{subject}{message} (with {argument})"
    return f"{subject}{message}"


def _describe_problem(problem: Any, section: type[BaseModel]) -> tuple[str, str, str]:
    """The dotted key of a problem, the key with its value, and what is wrong."""
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        parents, owner = _resolve(section, location[:-1])
        name, known = str(location[-1]), list(owner.model_fields)
        key = echo(".".join([*parents, name]))
        advice = did_you_mean(name, known) or f"; expected one of: {', '.join(known)}"
        return key, "", f"unknown key '{key}'{advice}"
    parts, owner = _resolve(section, location)
    key = echo(".".join(parts))
    if problem["type"] == "missing":
        return key, "", f"'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "too_short":
        least = problem["ctx"]["min_length"]
        message = f"expected at least {plural(least, 'value')}"
    # Our own validators write the complete sentence, values included.
    if problem["type"] == "value_error":
        return key, f"{key}: " if key else "", message
    if problem["type"] in _NOT_A_TABLE:
        message = f"expected a section with the keys {', '.join(owner.model_fields)}"
    return key, f"'{key}' is {echo(repr(problem['input']))}: ", message


def _resolve(
    section: type[BaseModel], location: Sequence[int | str]
) -> tuple[list[str], type[BaseModel]]:
    """Returns the parts of a location that are keys of the file, and the innermost section.

    pydantic also puts the branch of a union that it tried into a location: `list[...]`, `int`. The
    schema decides which parts are keys, because a key may be spelled like a branch.
    """
    parts: list[str] = []
    annotation: Any = section
    for part in location:
        inner = _section_in(annotation)
        if isinstance(part, int):
            parts.append(str(part))
        elif inner is not None and part in inner.model_fields:
            section, annotation = inner, inner.model_fields[part].annotation
            parts.append(part)
        elif get_origin(annotation) is dict:
            parts.append(part)
            annotation = None
    return parts, _section_in(annotation) or section


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class in an annotation: itself, in `X | None`, or in `list[X]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _is_tuple(annotation: Any) -> bool:
    """Whether a field takes a tuple: `tuple[str, ...]` or `tuple[str, ...] | None`."""
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
