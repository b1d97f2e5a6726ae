"""Artefacts of the students that a search trained: exported, and compared with the budget.

This module is at the top level because it calls stages that do not import each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedistil.core import console
from edgedistil.core.budget_options import SearchOptions
from edgedistil.core.device import HOST
from edgedistil.core.errors import ModelError, ParityError, RunError, TargetError
from edgedistil.core.options import ExportOptions, ProfileOptions
from edgedistil.core.places import runs_root
from edgedistil.core.profile_records import ProfileRow
from edgedistil.core.rundir import RunDir
from edgedistil.core.search_records import Budget, SearchRecord, TrainedSearch, TrainedStudent
from edgedistil.core.task import ENCODER_TASK
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.search.budget import excess_of

# What the check of an artefact writes into the record of its student.
_CHECKED_FIELDS = (
    "failure",
    "file_bytes",
    "latency_ms",
    "memory_bytes",
    "method",
    "artefact_sha256",
)


@dataclass(frozen=True)
class ArtefactCheck:
    """How artefacts are checked.

    Attributes:
        search: Device and budget.
        options: Options of the command.
        earlier: Result of an earlier search of this name on the same device; None without one.
    """

    search: SearchRecord
    options: SearchOptions
    earlier: TrainedSearch | None

    @property
    def method(self) -> str:
        """Method of the figures that the budget is compared with."""
        # As `profile` chooses its method.
        is_reachable = self.options.ssh is not None or self.options.device == HOST
        return "measured" if is_reachable else "predicted"

    def exported(self, student: TrainedStudent) -> TrainedStudent | None:
        """Returns the earlier record of a student whose artefact is still that of its weights."""
        earlier = self.earlier.students if self.earlier is not None else []
        for other in earlier:
            is_same = (other.run, other.distill_sha256) == (student.run, student.distill_sha256)
            if is_same and other.candidate.precision == student.candidate.precision:
                return other if _is_present(other) else None
        return None

    def passed(self, earlier: TrainedStudent) -> bool:
        """Whether an artefact passed with the same budget, by the same method."""
        # `exported` returns students of the earlier search only.
        assert self.earlier is not None
        is_same = self.earlier.budget == self.search.budget and earlier.method == self.method
        return earlier.passed and is_same


def check_until_one_passes(
    students: Sequence[TrainedStudent], check: ArtefactCheck
) -> list[TrainedStudent]:
    """Returns the students' records; artefacts are made from the best on, until one passes.

    Args:
        students: The best first.
        check: How artefacts are checked.
    Raises:
        TargetError: The board cannot be reached any more.
    """
    checked = list(students)
    for index, student in enumerate(students):
        checked[index] = _check_artefact(student, check)
        # An export of each would take longer than a short round of training.
        if checked[index].passed:
            break
    return checked


# --- one artefact --------------------------------------------------------------------------------


def _check_artefact(student: TrainedStudent, check: ArtefactCheck) -> TrainedStudent:
    """Exports a student and compares its artefact on the device with the budget."""
    earlier = check.exported(student)
    # The same bytes under the same budget have the same verdict.
    if earlier is not None and check.passed(earlier):
        console.say(f"{student.run}: its artefact passed before and is not exported again")
        fields = {name: getattr(earlier, name) for name in _CHECKED_FIELDS}
        return student.model_copy(update=fields)
    # Another budget, or another method, needs the artefact's figures again.
    failure = ""
    if earlier is not None:
        console.say(f"{student.run}: exported before, and not exported again")
    else:
        failure = _export(student, check.options)
    update = {"failure": failure} if failure else _compare(student, check)
    return student.model_copy(update=update)


def _export(student: TrainedStudent, options: SearchOptions) -> str:
    """Exports a student for the device; returns why its artefact was rejected, empty if not."""
    from edgedistil.export.stage import export_student

    precision = student.candidate.precision
    # A rejected artefact, or a runtime that is too old for it, does not end the search.
    try:
        export_student(student.run, ExportOptions(precisions=[precision], target=options.device))
    except (ParityError, TargetError) as error:
        return str(error.message)
    return ""


def _compare(student: TrainedStudent, check: ArtefactCheck) -> dict[str, Any]:
    """Profiles an artefact; returns the fields of its student's record."""
    from edgedistil.profiling.stage import profile

    search, options = check.search, check.options
    options_of_profile = ProfileOptions(
        device=options.device,
        ssh=options.ssh,
        bootstrap=options.bootstrap,
        threads=[search.threads],
        lengths=[search.length],
        sentence_pairs=0,
        claim_pairs=0,
    )
    _, records = profile(student.run, options_of_profile)
    rows = [row for record in records for row in record.rows if _is_row(row, student, search)]
    # A precision that the device cannot run has no row.
    if not rows:
        return {"failure": "it was not profiled on the device"}
    row = rows[0]
    return {
        "failure": _failure(row, search.budget),
        "file_bytes": row.file_bytes,
        "latency_ms": row.latency_ms,
        "memory_bytes": row.peak_memory_bytes,
        "method": row.method,
        "artefact_sha256": row.artefact_sha256,
    }


def _is_present(student: TrainedStudent) -> bool:
    """Whether the artefact of a student is as it was when it was compared with the budget."""
    # It may be missing, changed by hand, or exported again by another command.
    try:
        artefacts = run_artefacts(RunDir(runs_root() / student.run))
    except (RunError, ModelError):
        return False
    return student.artefact_sha256 in {artefact.sha256 for artefact in artefacts}


def _is_row(row: ProfileRow, student: TrainedStudent, search: SearchRecord) -> bool:
    is_student = row.role == "student" and row.task == ENCODER_TASK
    return (
        is_student and row.precision == student.candidate.precision and row.length == search.length
    )


def _failure(row: ProfileRow, budget: Budget) -> str:
    """What of a budget an artefact exceeds; empty if nothing."""
    if not row.usable:
        return f"the measurement is not valid: {row.invalid_reason or row.disturbed}"
    needs = (
        ("ms", row.latency_ms, budget.latency_ms),
        ("bytes of file", float(row.file_bytes), budget.file_bytes),
        ("bytes of memory", row.peak_memory_bytes, budget.memory_bytes),
    )
    failures = []
    for unit, need, limit in needs:
        problem = excess_of(need, limit)
        if problem:
            failures.append(f"{problem} {unit}")
    return ", ".join(failures)
