"""Summaries on the terminal: the tables of the report, and where the results are."""

from __future__ import annotations

import pytest

from edgedistil.core.distill_records import DistillRecord
from edgedistil.core.evaluation_records import AblationRecord, EvaluationRecord
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.report import terminal
from edgedistil.report.load import load_results
from edgedistil.report.table import TableData

Capture = pytest.CaptureFixture[str]


def test_a_table_is_printed_with_its_notes(capsys: Capture) -> None:
    terminal.show_tables([TableData("A title", ["x"], [["1"]], ["a note"])])
    lines = capsys.readouterr().out.split("\n")
    assert [line.strip() for line in lines if line.strip()] == ["A title", "x", "1", "a note"]


def test_each_stage_names_its_run(full_run: RunDir, capsys: Capture) -> None:
    terminal.show_distill(full_run, read_record(full_run.distill, DistillRecord))
    terminal.show_evaluation(full_run, read_record(full_run.evaluation, EvaluationRecord))
    terminal.show_ablation(full_run, read_record(full_run.ablation, AblationRecord))
    printed = capsys.readouterr().out
    assert printed.count("run made-up (") == 3
    for title in ("Models", "Masked tokens of held-out text", "Tasks", "Macro-score", "Ablation"):
        assert f"\n{title}" in printed
    assert "  200 steps, 0.82M tokens" in printed


def test_artefacts_are_printed_with_their_parity(full_run: RunDir, capsys: Capture) -> None:
    results = load_results(full_run)
    pairs = list(zip(results.exports, results.parities, strict=True))
    terminal.show_export(full_run, pairs)
    printed = capsys.readouterr().out
    assert f"run made-up ({full_run.exports})" in printed
    assert printed.count("passed") == 4


def test_profiles_are_printed_with_their_claims(full_run: RunDir, capsys: Capture) -> None:
    profiles = load_results(full_run).profiles
    terminal.show_profiles(full_run, profiles)
    printed = capsys.readouterr().out
    assert "host: measured milliseconds per call" in printed
    assert "  HOLDS: the student's encoder is 1.96 times as fast" in printed


def test_the_profile_of_a_single_file_belongs_to_no_run(full_run: RunDir, capsys: Capture) -> None:
    terminal.show_profiles(None, load_results(full_run).profiles)
    assert "run made-up" not in capsys.readouterr().out
