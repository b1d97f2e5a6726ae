"""`edgedistil recipe explain`: descriptions of the keys of recipes, task files and device files.

This module is at the top level because the three kinds of files belong to different packages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FileKind = Literal["recipe", "task", "device"]


def file_model(kind: FileKind) -> type[BaseModel]:
    """Returns the class that checks a kind of file; its fields hold the descriptions."""
    if kind == "task":
        from edgedistil.evaluate.spec import TaskSpec

        return TaskSpec
    if kind == "device":
        from edgedistil.core.device import DeviceSpec

        return DeviceSpec
    from edgedistil.core.recipe import Recipe

    return Recipe


def show_keys(kind: FileKind, key: str | None) -> None:
    """Prints the keys of a kind of file, or one key or section.

    Raises:
        InputError: The key is unknown; the message suggests the closest one.
    """
    from edgedistil.core.field_docs import (
        describe_fields,
        matching_fields,
        show_fields,
    )

    documented = describe_fields(file_model(kind))
    if key is not None:
        documented = matching_fields(documented, key)
    show_fields(f"keys of a {kind} file", documented)
