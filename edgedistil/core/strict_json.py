"""Parses JSON as the standard defines it; Python's parser takes more, and fails in its own ways."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: The text is not JSON, holds NaN or an infinity, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
