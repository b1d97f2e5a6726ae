"""The report as markdown and as JSON: the same figures as the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgedistil.core.records import Record
from edgedistil.report import sections
from edgedistil.report.load import RunFacts
from edgedistil.report.tables import TableData
from edgedistil.report.verdicts import Verdict


def verdict_table(judged: Sequence[Verdict]) -> TableData:
    rows = [[v.claim, v.word, v.figure, v.how] for v in judged]
    notes = [f"{v.claim}: {v.caveat}" for v in judged if v.caveat]
    return TableData(
        "Is it really …", ["claim", "verdict", "figure", "how it was found"], rows, notes
    )


def markdown(facts: RunFacts, judged: Sequence[Verdict], compared: TableData | None) -> str:
    """The report as GitHub-flavoured markdown."""
    parts = [f"# EdgeDistil report: {facts.name}", table(verdict_table(judged))]
    if compared:
        parts.append(table(compared))
    for section in sections.all_sections(facts):
        parts.append(f"## {section.title}")
        parts += [paragraph for paragraph in (section.lead, section.absent) if paragraph]
        parts += [table(each) for each in section.tables]
    return "\n\n".join(parts) + "\n"


def table(data: TableData) -> str:
    """One table as markdown, its title in bold above and its notes below."""
    head = "| " + " | ".join(data.columns) + " |"
    rule = "|" + "---|" * len(data.columns)
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in data.rows]
    notes = [f"*{note}*" for note in data.notes]
    return "\n\n".join([f"**{data.title}**", "\n".join([head, rule, *rows]), *notes])


def as_json(facts: RunFacts, judged: Sequence[Verdict]) -> dict[str, Any]:
    """Verdicts and all records, for programs."""
    return {
        "run": facts.name,
        "verdicts": [asdict(verdict) for verdict in judged],
        "records": {name: _dump(value) for name, value in facts.records().items()},
    }


def _dump(value: Record | list[Record] | None) -> Any:
    if isinstance(value, list):
        return [each.model_dump(mode="json") for each in value]
    return value.model_dump(mode="json") if value else None


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
