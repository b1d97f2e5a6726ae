"""Everything that a run directory knows, read once and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgedistil.core.errors import RunError
from edgedistil.core.records import (
    AblationRecord,
    CorpusRecord,
    DistillRecord,
    EvaluationRecord,
    ExportRecord,
    ParityRecord,
    ProfileRecord,
    Record,
    read_record,
)
from edgedistil.core.rundir import RunDir

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RunFacts:
    """The records of a run; what a stage has not made yet is None or empty."""

    name: str
    distill: DistillRecord | None
    corpus: CorpusRecord | None
    trace: list[dict[str, Any]]
    heldout_trace: list[dict[str, Any]]
    evaluation: EvaluationRecord | None
    ablation: AblationRecord | None
    exports: list[ExportRecord]
    parities: list[ParityRecord]
    profiles: list[ProfileRecord]
    recipe: str

    def records(self) -> dict[str, Record | list[Record] | None]:
        """By name, for the JSON form of the report."""
        return {
            "distill": self.distill,
            "corpus": self.corpus,
            "evaluation": self.evaluation,
            "ablation": self.ablation,
            "exports": list(self.exports),
            "parity": list(self.parities),
            "profiles": list(self.profiles),
        }


def gather(run: RunDir) -> RunFacts:
    """Reads all records of a run.

    Raises:
        RunError: There is nothing to report yet.
        StorageError: A record is torn or of another version (names it).
    """
    entries = list(_lines(run.metrics))
    facts = RunFacts(
        name=run.name,
        distill=_maybe(run.distill, DistillRecord),
        corpus=_maybe(run.corpus, CorpusRecord),
        trace=[entry for entry in entries if entry.get("kind") == "train"],
        heldout_trace=_student_heldout(entries),
        evaluation=_maybe(run.evaluation, EvaluationRecord),
        ablation=_maybe(run.ablation, AblationRecord),
        exports=[read_record(p, ExportRecord) for p in sorted(run.exports.glob("*/export.*.json"))],
        parities=[
            read_record(p, ParityRecord) for p in sorted((run.path / "parity").glob("*.json"))
        ],
        profiles=[read_record(p, ProfileRecord) for p in sorted(run.profiles.glob("*.json"))],
        recipe=run.recipe.read_text(encoding="utf-8") if run.recipe.exists() else "",
    )
    if not (facts.distill or facts.exports or facts.profiles):
        raise RunError(
            f"run '{run.name}' has nothing to report yet",
            hint="edgedistil distill RECIPE comes first",
        )
    return facts


def _student_heldout(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The student's held-out evaluations, each with the tokens seen up to its step."""
    tokens = {entry["step"]: entry["tokens"] for entry in entries if entry.get("kind") == "train"}
    held = [e for e in entries if e.get("kind") == "heldout" and e.get("model") == "student"]
    return [
        {**e, "tokens": tokens.get(e["step"], 0)}
        for e in held
        if e["step"] == 0 or e["step"] in tokens
    ]


def _maybe(path: Path, kind: type[R]) -> R | None:
    return read_record(path, kind) if path.exists() else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a trace. The last line of a killed run may be torn: it is left out, any other is an error."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines):
        try:
            yield json.loads(line)
        except ValueError as error:
            if index < len(lines) - 1:
                raise RunError(f"{path}, line {index + 1} is no JSON: {error}") from error
