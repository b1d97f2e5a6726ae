"""`edgedistil report`: one page from all records of a run, also as Markdown and JSON."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core.rundir import RunDir, write_json, write_text
from edgedistil.report import page, terminal, text
from edgedistil.report.diff import compare_runs
from edgedistil.report.load import load_results
from edgedistil.report.verdicts import judge_claims


def report(run: RunDir, *, against: RunDir | None = None) -> Path:
    """Writes `report.html`, `report.md` and `report.json` into a run and prints the verdicts.

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
    comparison = None
    if against is not None:
        comparison = compare_runs(results, load_results(against))
    verdicts = judge_claims(results)

    # The same results in three forms: to read, to paste, and for programs.
    write_text(run.report, page.render(results, verdicts, comparison))
    write_text(run.report.with_suffix(".md"), text.render_markdown(results, verdicts, comparison))
    write_json(run.report.with_suffix(".json"), text.report_json(results, verdicts))

    # The verdicts are the short answer; the page has everything else.
    terminal.show_run(run, run.path)
    terminal.show_tables([text.verdict_table(verdicts)])
    if comparison is not None:
        terminal.show_tables([comparison])
    return run.report
