"""The report as Markdown and as JSON, with the same figures as the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgedistil.core import markdown
from edgedistil.core.records import Record
from edgedistil.report.load import RunResults
from edgedistil.report.sections import all_sections
from edgedistil.report.table import TableData
from edgedistil.report.verdicts import Verdict


def render_markdown(
    results: RunResults, verdicts: Sequence[Verdict], comparison: TableData | None
) -> str:
    """Renders the report as GitHub-flavoured Markdown."""
    blocks = [
        f"# EdgeDistil report: {markdown.escaped(results.name)}",
        render_table(verdict_table(verdicts)),
    ]
    if comparison is not None:
        blocks.append(render_table(comparison))
    # Markdown has neither plots nor folded tables: it is pasted into issues and pull requests.
    for section in all_sections(results):
        blocks.append(f"## {markdown.escaped(section.title)}")
        texts = [text for text in (section.lead, section.absent) if text]
        blocks += [markdown.paragraph(text) for text in texts]
        blocks += [render_table(table) for table in section.tables]
    return "\n\n".join(blocks) + "\n"


def verdict_table(verdicts: Sequence[Verdict]) -> TableData:
    """The verdicts as a table; caveats become notes."""
    rows = [[verdict.title, verdict.word, verdict.figure, verdict.how] for verdict in verdicts]
    # A caveat is too long for a cell.
    notes = [f"{verdict.title}: {verdict.caveat}" for verdict in verdicts if verdict.caveat]
    return TableData("The paper's claims", ["claim", "verdict", "figure", "basis"], rows, notes)


def render_table(table: TableData) -> str:
    """Renders one table, with its title in bold above and its notes below."""
    # In italics, so that notes differ from the paragraphs of a section.
    notes = [markdown.italic(note) for note in table.notes]
    cells = markdown.table(table.columns, table.rows)
    return "\n\n".join([markdown.bold(table.title), cells, *notes])


def report_json(results: RunResults, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts and all records, for programs."""
    return {
        "run": results.name,
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "records": {name: _dump(value) for name, value in results.records().items()},
    }


def _dump(value: Record | Sequence[Record] | None) -> Any:
    if value is None:
        return None
    # The field names of records and verdicts are the keys that programs rely on.
    if isinstance(value, Record):
        return value.model_dump(mode="json")
    return [record.model_dump(mode="json") for record in value]
