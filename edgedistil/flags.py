"""Flags of the command line, made from the fields of the options classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from edgedistil.core.echo import echo
from edgedistil.core.flag import Flag, flag_of


def with_options(options_class: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for every field of an options class that carries a `Flag`.

    The command takes the object as its argument `options`; typer sees the flags instead.
    """
    hints = get_type_hints(options_class, include_extras=True)
    flagged = [field for field in fields(options_class) if flag_of(hints[field.name]) is not None]
    flags = [_parameter(field, hints[field.name]) for field in flagged]
    names = [field.name for field in flagged]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        others = [
            item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for item in signature.parameters.values()
            if item.name != "options"
        ]

        @functools.wraps(command)
        def run_command(**values: Any) -> None:
            options = options_class(
                **{name: _without_enumerations(values.pop(name)) for name in names}
            )
            command(options=options, **values)

        # typer reads both: the order from the signature, the types from the annotations.
        parameters = [*flags, *others]
        run_command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run_command.__annotations__ = {item.name: item.annotation for item in parameters}
        return run_command

    return decorate


def _parameter(field: Field[Any], annotation: Any) -> inspect.Parameter:
    """Returns the keyword parameter from which typer makes a field's flag."""
    flag = flag_of(annotation)
    assert flag is not None
    option = typer.Option(
        flag.name,
        help=_help(flag),
        parser=_read_integers if _takes_integers(annotation) else None,
        metavar=flag.metavar or _choices_metavar(get_args(annotation)[0]),
        # The help text says what happens by default; None and False would only repeat it.
        show_default=field.default not in (None, False),
    )
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[_typer_type(get_args(annotation)[0]), option],
    )


def _help(flag: Flag) -> str:
    # typer could check the bounds, but its message does not repeat the value; the options do both.
    if flag.minimum is None:
        return flag.help
    return f"{flag.help} From {flag.minimum} to {flag.maximum}."


def _takes_integers(annotation: Any) -> bool:
    """Whether a field is a sequence of integers."""
    inner = get_args(annotation)[0]
    return any(item == Sequence[int] for item in (inner, *get_args(inner)))


def _read_integers(text: str) -> list[int]:
    """Returns the integers of one flag: `8`, or `1,8,32`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"'{echo(text)}' is not a number, or numbers with commas between them"
        ) from None


def _typer_type(annotation: Any) -> Any:
    """Rewrites a type for typer, which cannot offer choices for a list of Literals."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Sequence:
        return list[_typer_type(arguments[0])]  # type: ignore[misc]
    if NoneType in arguments:
        (inner,) = (item for item in arguments if item is not NoneType)
        return _typer_type(inner) | None
    choices = _literal_values(annotation)
    return StrEnum("Choice", {value: value for value in choices}) if choices else annotation


def _literal_values(annotation: Any) -> list[str]:
    """Returns the values of a Literal or of a union of Literals; empty for other types."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [value for item in get_args(annotation) for value in _literal_values(item)]
    return []


def _choices_metavar(annotation: Any) -> str | None:
    """Returns `<a|b|c>` for a sequence of choices, which typer would show as `list[a|b|c]`."""
    for item in (annotation, *get_args(annotation)):
        if get_origin(item) is Sequence and _literal_values(get_args(item)[0]):
            return f"<{'|'.join(_literal_values(get_args(item)[0]))}>"
    return None


def _without_enumerations(value: Any) -> Any:
    """Replaces enumeration members, which typer makes of choices, by their values."""
    if isinstance(value, list):
        # A flag with several integers is a list of its own.
        items = [item if isinstance(item, list) else [item] for item in value]
        return [_without_enumerations(item) for part in items for item in part]
    return value.value if isinstance(value, StrEnum) else value
