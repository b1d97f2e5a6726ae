"""Reads all records of a run directory."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgedistil.core.distill_records import CorpusRecord, DistillRecord
from edgedistil.core.echo import echo
from edgedistil.core.errors import RunError, StorageError
from edgedistil.core.evaluation_records import AblationRecord, EvaluationRecord
from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import Record, read_record
from edgedistil.core.regular_file import read_regular
from edgedistil.core.rundir import RunDir
from edgedistil.core.trace import TraceEntry, read_trace
from edgedistil.core.trim_records import TrimRecord

R = TypeVar("R", bound=Record)
# The limit of the recipe's own loader.
_RECIPE_LIMIT_BYTES = 2**20


@dataclass(frozen=True)
class RunResults:
    """Results of a run; None or empty for stages that have not run.

    Attributes:
        name: Name of the run.
        distill: Result of the distillation.
        corpus: Corpus that was trained on.
        trim: The student's vocabulary, if it was trimmed.
        trace: Training losses, one entry per logged step.
        heldout_trace: Evaluations of the student on held-out text, each with the tokens seen.
        evaluation: Scores on labelled tasks.
        ablation: Result of an ablation study.
        exports: Exported artefacts.
        parities: Parity checks of the artefacts.
        profiles: Profiles, one per device and method.
        recipe: The recipe as TOML, all defaults included.
    """

    name: str
    distill: DistillRecord | None
    corpus: CorpusRecord | None
    trim: TrimRecord | None
    trace: list[TraceEntry]
    heldout_trace: list[TraceEntry]
    evaluation: EvaluationRecord | None
    ablation: AblationRecord | None
    exports: list[ExportRecord]
    parities: list[ParityRecord]
    profiles: list[ProfileRecord]
    recipe: str

    # The traces are not records: metrics.jsonl is their only home.
    def records(self) -> dict[str, Record | Sequence[Record] | None]:
        """Records by their names in the JSON report."""
        return {
            "distill": self.distill,
            "corpus": self.corpus,
            "trim": self.trim,
            "evaluation": self.evaluation,
            "ablation": self.ablation,
            "exports": self.exports,
            "parity": self.parities,
            "profiles": self.profiles,
        }


def load_results(run: RunDir) -> RunResults:
    """Reads all records of a run.

    Raises:
        RunError: The run has no results yet, or its trace is corrupt.
        StorageError: A record is corrupt or of another version.
    """
    # A missing file means that a stage has not run; a corrupt file is an error.
    trace = [entry for entry, _line in read_trace(run.metrics)]
    recipe = ""
    if run.recipe.exists():
        recipe = _read_recipe(run.recipe)
    results = RunResults(
        name=run.name,
        distill=_read_if_exists(run.distill, DistillRecord),
        corpus=_read_if_exists(run.corpus, CorpusRecord),
        trim=_read_if_exists(run.trim, TrimRecord),
        trace=[entry for entry in trace if entry["kind"] == "train" and "tokens" in entry],
        heldout_trace=_student_heldout(trace),
        evaluation=_read_if_exists(run.evaluation, EvaluationRecord),
        ablation=_read_if_exists(run.ablation, AblationRecord),
        exports=_read_all(run.exports, "*/export.*.json", ExportRecord),
        # Files of this folder itself; checks made on boards are in subfolders.
        parities=_read_all(run.path / "parity", "*.json", ParityRecord),
        profiles=_read_all(run.profiles, "*.json", ProfileRecord),
        recipe=recipe,
    )
    # An evaluation alone is not enough: it is about models that another stage describes.
    if not (results.distill or results.exports or results.profiles):
        raise RunError(
            f"run '{run.name}' has nothing to report yet",
            hint="run edgedistil distill RECIPE first",
        )
    return results


def target_device(results: RunResults) -> str:
    """Returns the device that a run is made for: the export's, or else the first profiled one.

    Raises:
        StorageError: The recipe is corrupt.
    """
    try:
        recipe = tomllib.loads(results.recipe)
    except tomllib.TOMLDecodeError as error:
        raise StorageError(
            f"recipe.toml of run '{echo(results.name)}' is not valid TOML: {error}",
            hint="restore it from a copy",
        ) from error
    host = "host"
    target = _value(recipe, "export", "target")
    devices = _value(recipe, "profile", "devices")
    if isinstance(target, str) and target != host:
        return target
    return str(devices[0]) if isinstance(devices, list) and devices else host


def _value(recipe: dict[str, Any], section: str, key: str) -> object:
    """Returns a value of a recipe that may lack section and key."""
    values = recipe.get(section)
    return values.get(key) if isinstance(values, dict) else None


def _read_recipe(path: Path) -> str:
    try:
        return read_regular(path, limit_bytes=_RECIPE_LIMIT_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"cannot read {path}: {error}", hint="restore it from a copy, or remove it"
        ) from error


def _read_if_exists(path: Path, kind: type[R]) -> R | None:
    return read_record(path, kind) if path.exists() else None


def _read_all(folder: Path, pattern: str, kind: type[R]) -> list[R]:
    """Reads all records of a folder, in the order of their names."""
    return [read_record(path, kind) for path in sorted(folder.glob(pattern))]


def _student_heldout(trace: Sequence[TraceEntry]) -> list[TraceEntry]:
    """Held-out evaluations of the student, each with the tokens seen up to its step."""
    # Held-out entries have a step only; plots need tokens, as steps of two runs differ in size.
    tokens_at = {entry["step"]: entry["tokens"] for entry in trace if "tokens" in entry}
    # Step 0 is evaluated before the first training step is logged.
    tokens_at.setdefault(0, 0)
    evaluations = []
    for entry in trace:
        is_student = entry["kind"] == "heldout" and entry.get("model") == "student"
        if is_student and entry["step"] in tokens_at:
            evaluations.append({**entry, "tokens": tokens_at[entry["step"]]})
    return evaluations
