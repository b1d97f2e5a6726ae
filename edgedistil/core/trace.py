"""Reader of metrics.jsonl, the training trace: one JSON object a line.

The key `kind` distinguishes the entries: "train" for a step, "heldout" for an evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgedistil.core.distill_records import HeldoutFigures, HeldoutMlm, HeldoutVectors
from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.records import first_problem
from edgedistil.core.regular_file import open_regular

TraceEntry = dict[str, Any]

_REMEDY = "restore the file from a copy, or remove this line: plots then lack its step"


def read_trace(path: Path) -> Iterator[tuple[TraceEntry, str]]:
    """Yields each entry of a trace with its line; nothing if the file does not exist.

    An incomplete last line, which a killed process leaves, is left out.

    Raises:
        RunError: A line is not an entry.
        StorageError: The file cannot be read.
    """
    if not path.exists():
        return
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield _entry(path, number, line), line.decode("utf-8")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def heldout_of(entry: TraceEntry) -> HeldoutFigures:
    """Returns the figures of a "heldout" entry; raises RunError if one is missing."""
    figures = {name: value for name, value in entry.items() if name != "kind"}
    try:
        if "rank_correlation" in figures:
            return HeldoutVectors.model_validate(figures)
        return HeldoutMlm.model_validate(figures)
    except ValidationError as error:
        raise RunError(
            f"a held-out evaluation of the trace is corrupt: {first_problem(error)}", hint=_REMEDY
        ) from error


def _entry(path: Path, number: int, line: bytes) -> TraceEntry:
    try:
        entry = json.loads(line.decode("utf-8"))
    # Python's parser raises a RecursionError for deep nesting.
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}, line {number} is not valid JSON: {error}", hint=_REMEDY) from error
    problem = _problem(entry)
    if problem is not None:
        raise RunError(f"{path}, line {number} is corrupt: {problem}", hint=_REMEDY)
    return dict(entry)


def _problem(entry: Any) -> str | None:
    """Describes why a value is not an entry; None if it is one."""
    if not isinstance(entry, dict):
        return "expected an object"
    if entry.get("kind") not in ("train", "heldout"):
        return "expected the kind train or heldout"
    if not isinstance(entry.get("step"), int) or entry["step"] < 0:
        return "expected a step, an integer from 0"
    # A figure that was not measured is an object.
    kinds = (int, float, dict) if entry["kind"] == "heldout" else (int, float)
    for name, value in entry.items():
        # A loss with weight 0 is null.
        if name not in ("kind", "model") and value is not None and not isinstance(value, kinds):
            return f"expected a number for {name}"
    return None
