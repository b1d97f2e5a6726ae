"""`edgedistil report`: one page from all records of a run, also as Markdown and JSON."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.rundir import RunDir, write_json, write_text
from edgedistil.report import page, terminal, text
from edgedistil.report.cards import write_cards
from edgedistil.report.diff import compare_runs
from edgedistil.report.load import load_results
from edgedistil.report.verdicts import judge_claims


def report(run: RunDir, *, against: RunDir | None = None) -> Path:
    """Writes `report.html`, `report.md`, `report.json` and complete model cards into a run.

    Args:
        run: Run to report on; the page says which stages have not run.
        against: Another run to compare the figures with.
    Returns:
        Path of the page.
    Raises:
        RunError: A run has no results yet.
        StorageError: A record is corrupt or of another version.
    """
    # Read both runs before anything is written.
    results = load_results(run)
    comparison = None if against is None else compare_runs(results, load_results(against))
    verdicts = judge_claims(results)

    # The same results in three forms: to read, to paste, and for programs.
    write_text(run.report, page.render(results, verdicts, comparison))
    write_text(run.report.with_suffix(".md"), text.render_markdown(results, verdicts, comparison))
    write_json(run.report.with_suffix(".json"), text.report_json(results, verdicts))
    write_cards(run)
    return run.report


def show_report(run: RunDir, *, against: RunDir | None = None) -> None:
    """Prints the verdicts of a run, and its comparison with another one.

    Raises:
        RunError: A run has no results yet.
        StorageError: A record is corrupt or of another version.
    """
    results = load_results(run)
    terminal.show_run(run, run.path)
    terminal.show_tables([text.verdict_table(judge_claims(results))])
    if against is not None:
        terminal.show_tables([compare_runs(results, load_results(against))])
    console.result(f"\nreport: {run.report}")
