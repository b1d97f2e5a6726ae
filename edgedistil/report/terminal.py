"""Prints the result of each stage on the terminal, from the same tables as the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgedistil.core import console
from edgedistil.core.distill_records import DistillRecord, PlanRecord
from edgedistil.core.evaluation_records import AblationRecord, EvaluationRecord
from edgedistil.core.export_records import ExportRecord, ParityRecord
from edgedistil.core.profile_records import ProfileRecord
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.core.search_records import SearchRecord, TrainedSearch
from edgedistil.core.trim_records import TrimRecord
from edgedistil.report.distill_tables import (
    describe_training,
    heldout_table,
    model_table,
    plan_tables,
)
from edgedistil.report.evaluation_tables import ablation_table, evaluation_tables
from edgedistil.report.export_tables import export_table
from edgedistil.report.profile_tables import main_tables
from edgedistil.report.search_tables import search_table, trained_table
from edgedistil.report.table import TableData
from edgedistil.report.trim_tables import trim_tables


def show_plan(plan: PlanRecord) -> None:
    """Prints the estimates of `distill --plan`."""
    show_tables(plan_tables(plan))


def show_distill(run: RunDir, record: DistillRecord) -> None:
    """Prints the models, the held-out evaluation and the speed of a distillation."""
    show_run(run, run.path)
    # The models first: sizes give the figures below their meaning.
    models = model_table([("teacher", record.teacher), ("student", record.student)])
    show_tables([models, heldout_table(record.heldout)])
    if run.trim.exists():
        show_tables(trim_tables(read_record(run.trim, TrimRecord)))
    console.result(f"  {describe_training(record)}")


def show_evaluation(run: RunDir, record: EvaluationRecord) -> None:
    """Prints the tasks, scores and retentions of an evaluation."""
    show_run(run, run.path)
    show_tables(evaluation_tables(record))


def show_ablation(run: RunDir, record: AblationRecord) -> None:
    """Prints the table of an ablation study."""
    # The runs of the variations have directories of their own; the record is here.
    show_run(run, run.ablation)
    show_tables([ablation_table(record)])


def show_export(run: RunDir, artefacts: Sequence[tuple[ExportRecord, ParityRecord]]) -> None:
    """Prints the exported artefacts with the result of their parity check."""
    show_run(run, run.exports)
    show_tables([export_table(artefacts)])


def show_profiles(run: RunDir | None, records: Sequence[ProfileRecord]) -> None:
    """Prints profiles and their claims.

    Args:
        run: Run of the profiled artefacts; None if a single ONNX file was profiled.
        records: Profiles, one per device and method.
    """
    if run is not None:
        show_run(run, run.profiles)
    # Claims follow the tables of their own profile.
    for record in records:
        show_tables(main_tables(record))
        for claim in record.claims:
            console.result(f"  {claim.verdict.upper()}: {claim.sentence}")


def show_search(record: SearchRecord) -> None:
    """Prints the candidates of a search."""
    show_tables([search_table(record)])


def show_trained_search(run: RunDir, record: TrainedSearch) -> None:
    """Prints the trained students of a search, and where the result is."""
    console.result(f"\n{run.path}")
    show_tables([trained_table(record)])
    if record.winner is not None:
        console.result(f"  best within the budget: {record.winner.run}")


def show_trim(target: Path, record: TrimRecord) -> None:
    """Prints what a trimmed vocabulary saves and costs."""
    console.result(f"\n{target}")
    show_tables(trim_tables(record))


def show_run(run: RunDir, path: Path) -> None:
    """Prints the name of a run and where its results are."""
    console.result(f"\nrun {run.name} ({path})")


def show_tables(tables: Iterable[TableData]) -> None:
    """Prints tables, each with its notes below."""
    for table in tables:
        console.table(table.title, table.columns, table.rows)
        # Indented, to separate notes from the rows of the table.
        for note in table.notes:
            console.result(f"  {note}")
