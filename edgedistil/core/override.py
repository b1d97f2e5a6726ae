"""Overrides of `--set`: one `key=value` each, with a dotted key and a TOML value."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from edgedistil.core.echo import echo, one_line
from edgedistil.core.errors import RecipeError
from edgedistil.core.toml import parse_toml


def apply_override(data: dict[str, Any], override: str, *, exclusive: Sequence[str]) -> str:
    """Sets one `key=value` of --set in parsed TOML, and returns its dotted key.

    Args:
        data: Parsed TOML; changed.
        override: `train.tokens=1000`, `name="x"`, `name=x`.
        exclusive: Dotted keys of one section of which setting one removes the others.
    Raises:
        RecipeError: There is no key or no value, the key leads through a value that is not a
            section, or the value cannot be stored in a recipe.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(
            f"--set {echo(override)}: expected key=value, for example train.tokens=1000000"
        )
    *parents, last = key.strip().split(".")

    # Create the sections on the way to the key.
    section = data
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise RecipeError(f"--set {echo(override)}: '{echo(parent)}' is not a section")
        section = child

    if key.strip() in exclusive:
        for name in exclusive:
            section.pop(name.rpartition(".")[2], None)
    section[last] = _value(text, where=f"--set {echo(override)}")
    return key.strip()


def _value(text: str, *, where: str) -> Any:
    """Returns the TOML value, or the text itself if it is a bare word: the shell removes quotes."""
    # A line end could start another key; other control characters have no place in a recipe.
    if one_line(text) != text:
        raise RecipeError(f"{where}: expected a value on one line, without control characters")
    try:
        return parse_toml(f"v = {text}", where=where, error=RecipeError)["v"]
    except RecipeError as error:
        if isinstance(error.__cause__, tomllib.TOMLDecodeError):
            return text
        raise
