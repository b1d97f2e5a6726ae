"""The Markdown and JSON forms of the report."""

from __future__ import annotations

import json

import pytest

from edgedistil.core.rundir import RunDir
from edgedistil.report.load import RunResults, load_results
from edgedistil.report.sections import all_sections
from edgedistil.report.table import TableData
from edgedistil.report.text import render_markdown, render_table, report_json, verdict_table
from edgedistil.report.verdicts import Verdict, judge_claims

SIZE = Verdict("size", "40% smaller", "holds", "42%", "counted", caveat="a caveat")


@pytest.fixture
def results(full_run: RunDir) -> RunResults:
    return load_results(full_run)


def test_a_table_has_its_title_above_and_its_notes_below() -> None:
    table = TableData("A title", ["x", "y"], [["1", "2"]], ["a note"])
    assert render_table(table) == "**A title**\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n*a note*"


def test_caveats_are_notes_of_the_verdict_table() -> None:
    table = verdict_table([SIZE])
    assert table.rows == [["40% smaller", "holds", "42%", "counted"]]
    assert table.notes == ["40% smaller: a caveat"]


def test_markdown_has_the_tables_of_every_section(results: RunResults) -> None:
    text = render_markdown(results, [SIZE], None)
    for section in all_sections(results):
        assert f"\n## {section.title}\n" in text
        for table in section.tables:
            assert render_table(table) in text


def test_markdown_has_the_comparison(results: RunResults) -> None:
    comparison = TableData("a compared with b", ["figure"], [["x"]])
    assert "**a compared with b**" in render_markdown(results, [SIZE], comparison)


def test_json_has_verdicts_and_records(results: RunResults) -> None:
    data = json.loads(json.dumps(report_json(results, judge_claims(results))))
    assert [verdict["name"] for verdict in data["verdicts"]] == [
        "size",
        "speed",
        "speed",
        "quality",
    ]
    assert set(data["verdicts"][0]) == {
        "name",
        "claim",
        "word",
        "figure",
        "how",
        "caveat",
        "device",
    }
    assert len(data["records"]["profiles"]) == 2
    assert data["records"]["distill"]["steps"] == 200
    assert data["records"]["ablation"]["variations"][1]["change"] == -0.0113


def test_json_has_null_for_a_stage_that_has_not_run(full_run: RunDir) -> None:
    full_run.ablation.unlink()
    results = load_results(full_run)
    assert report_json(results, [])["records"]["ablation"] is None
