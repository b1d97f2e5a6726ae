"""Flags of the commands' options, and the check of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from edgedistil.core.echo import echo
from edgedistil.core.errors import InputError
from edgedistil.core.paths import user_path


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line.

    Attributes:
        name: The flag, `--length`.
        help: One sentence; says what happens if the flag is left out.
        metavar: Placeholder of the value; None for switches and choices.
        minimum: Smallest value of a number; None for switches, texts and paths.
        maximum: Largest value of a number; set together with `minimum`.
    """

    name: str
    help: str
    metavar: str | None = None
    minimum: int | None = None
    maximum: float | None = None


def flag_of(annotation: Any) -> Flag | None:
    """Returns the `Flag` of a field's annotation; None if it has none."""
    metadata = getattr(annotation, "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Flag)), None)


def command_arguments(options: CheckedOptions) -> list[str]:
    """Returns the arguments of a command line that gives these options, without the defaults."""
    hints = get_type_hints(type(options), include_extras=True)
    arguments: list[str] = []
    for field in fields(options):  # type: ignore[arg-type]
        flag, value = flag_of(hints[field.name]), getattr(options, field.name)
        if flag is None or value == field.default:
            continue
        if value is True:
            arguments.append(flag.name)
            continue
        # A flag of several values is repeated.
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        for item in value if is_list else [value]:
            arguments += [flag.name, str(item)]
    return arguments


class CheckedOptions:
    """Base of the options: every value is one that its flag allows, from Python too."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):  # type: ignore[arg-type]
            flag, value = flag_of(hints[field.name]), getattr(self, field.name)
            if flag is None or value is None:
                continue
            values = value if isinstance(value, list | tuple) else [value]
            for item in values:
                _check_value(flag, item)


def _check_value(flag: Flag, value: object) -> None:
    """Raises InputError for a value that a flag does not allow."""
    if value == "":
        raise InputError(
            f"{flag.name} is empty: expected {flag.metavar}",
            hint="leave it out for the default; is a variable of the shell unset?",
        )
    if isinstance(value, Path):
        user_path(value)
    if flag.minimum is None or flag.maximum is None or not isinstance(value, int | float):
        return
    # Written so that NaN, which compares as false, is outside.
    if not flag.minimum <= value <= flag.maximum:
        raise InputError(f"{flag.name} is {echo(value)}: expected {flag.minimum} to {flag.maximum}")
