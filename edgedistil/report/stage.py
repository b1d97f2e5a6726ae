"""`edgedistil report`: one page from all records of a run, and the same as markdown and JSON."""

from __future__ import annotations

from pathlib import Path

from edgedistil.core import console
from edgedistil.core.rundir import RunDir, write_json, write_text
from edgedistil.report import diff, page, text
from edgedistil.report.load import gather
from edgedistil.report.verdicts import verdicts


def report(run: RunDir, *, against: RunDir | None = None) -> Path:
    """Writes `report.html`, `report.md` and `report.json` into the run, and shows the verdicts.

    Args:
        run: The run to report on; stages that are missing are named in the page.
        against: Another run; its figures are put beside this run's.
    Returns:
        Path of report.html.
    Raises:
        RunError: The run has no results yet.
    """
    facts = gather(run)
    judged = verdicts(facts)
    compared = diff.comparison(facts, gather(against)) if against else None
    write_text(run.report, page.render(facts, judged, compared))
    write_text(run.report.with_suffix(".md"), text.markdown(facts, judged, compared))
    write_json(run.report.with_suffix(".json"), text.as_json(facts, judged))
    shown = [text.verdict_table(judged), *([compared] if compared else [])]
    console.result(f"\nrun {run.name} ({run.path})")
    for each in shown:
        each.show()
    return run.report
