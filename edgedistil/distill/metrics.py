"""metrics.jsonl: one JSON object a line, `kind` says which: "train" for a step, "heldout" for an evaluation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edgedistil.core.records import HeldoutMlm
from edgedistil.core.rundir import storage_errors, write_text


class Metrics:
    """The trace of a run. `write` does nothing where `writes` is false: one process of a run writes."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path, self._writes = path, writes

    def cut_after(self, step: int) -> None:
        """Drops what came after `step`: a resumed run writes it again. A line that a kill has torn goes too."""
        if self._writes and self._path.exists():
            kept = [line for entry, line in self._lines() if entry["step"] <= step]
            write_text(self._path, "".join(kept))

    def write(self, kind: str, **values: Any) -> None:
        if not self._writes:
            return
        line = json.dumps({"kind": kind, **values}, allow_nan=False)
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_heldout(self, figures: HeldoutMlm) -> None:
        self.write("heldout", **figures.model_dump(mode="json"))

    def heldout(self) -> list[HeldoutMlm]:
        """All held-out evaluations so far, in order."""
        entries = (entry for entry, _ in self._lines() if entry["kind"] == "heldout")
        return [
            HeldoutMlm.model_validate({k: v for k, v in e.items() if k != "kind"}) for e in entries
        ]

    def sync(self) -> None:
        """Has the disk keep what was written: a checkpoint must never be ahead of its trace."""
        if self._writes and self._path.exists():
            with storage_errors(self._path), self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _lines(self) -> list[tuple[dict[str, Any], str]]:
        found: list[tuple[dict[str, Any], str]] = []
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                if not line.endswith("\n"):
                    break  # torn by a kill while it was written
                found.append((json.loads(line), line))
        return found
