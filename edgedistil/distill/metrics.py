"""Writer of metrics.jsonl: the training trace and the held-out evaluations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgedistil.core.distill_records import HeldoutFigures
from edgedistil.core.rundir import storage_errors, write_text
from edgedistil.core.trace import heldout_of, read_trace


class Metrics:
    """The metrics file of a run."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        """Creates nothing yet.

        Args:
            path: The file.
            writes: Whether this process writes; one process of a run does.
        """
        self._path, self._writes = path, writes

    def truncate_after(self, step: int) -> None:
        """Removes the entries after `step`, which a resumed run writes again."""
        if self._writes and self._path.exists():
            lines = [line for entry, line in read_trace(self._path) if entry["step"] <= step]
            write_text(self._path, "".join(lines))

    def write(self, kind: str, **values: Any) -> None:
        """Appends an entry.

        Raises:
            ValueError: A value is NaN or infinite.
            StorageError: The file cannot be written.
        """
        if not self._writes:
            return
        line = json.dumps({"kind": kind, **values}, allow_nan=False)
        # Opened for each entry: a process that is killed loses no complete line.
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_heldout(self, figures: HeldoutFigures) -> None:
        """Appends a held-out evaluation."""
        self.write("heldout", **figures.model_dump(mode="json"))

    def heldout(self) -> list[HeldoutFigures]:
        """Returns all held-out evaluations in the order in which they were written."""
        entries = [entry for entry, _line in read_trace(self._path)]
        return [heldout_of(entry) for entry in entries if entry["kind"] == "heldout"]

    def sync(self) -> None:
        """Flushes the file to the disk: a checkpoint must never be ahead of its trace."""
        if self._writes and self._path.exists():
            with storage_errors(self._path), self._path.open("rb") as file:
                os.fsync(file.fileno())
