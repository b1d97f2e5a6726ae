"""The report end to end: three files from records alone, safe, self-contained, and saying how each figure was found."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from edgedistil.core.errors import RunError
from edgedistil.core.rundir import RunDir
from edgedistil.report import diff
from edgedistil.report.load import gather
from edgedistil.report.stage import report


def test_page_is_self_contained(full_run: RunDir) -> None:
    report(full_run, against=None)
    page = full_run.report.read_text()
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert addresses, "the page has links to its own parts"
    assert all(address.startswith("#") for address in addresses)
    assert "<script" not in page
    assert "url(http" not in page
    assert "@import" not in page


def test_page_is_well_formed(full_run: RunDir) -> None:
    report(full_run, against=None)
    checker = _Nesting()
    checker.feed(full_run.report.read_text())
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids)) > 10


def test_what_records_say_is_escaped(full_run: RunDir) -> None:
    report(full_run, against=None)
    page = full_run.report.read_text()
    assert "&lt;b&gt;hostile&lt;/b&gt;" in page
    assert "<b>hostile" not in page


def test_board_rows_are_predicted_and_never_a_bare_number(full_run: RunDir) -> None:
    report(full_run, against=None)
    page = full_run.report.read_text()
    board = [
        line for line in page.splitlines() if "<td>predicted</td>" in line and "rpi4" not in line
    ]
    assert len(board) == 8  # four rows, in the short table and in the long one
    assert all("101–211" in line for line in board)
    host = [line for line in page.splitlines() if "<td>measured</td>" in line]
    assert len(host) == 2 * 4 + 1, "four artefacts in two tables, and one claim"
    assert not any("101–211" in line for line in host)
    # the table of medians names the method in its title
    text = full_run.report.with_suffix(".md").read_text()
    predicted = text[text.index("**rpi4: predicted") :].split("**", 2)[2]
    assert predicted.count("101–211") >= 4


def test_json_has_verdicts_and_records(full_run: RunDir) -> None:
    report(full_run, against=None)
    data = json.loads(full_run.report.with_suffix(".json").read_text())
    assert [v["name"] for v in data["verdicts"]] == ["size", "speed", "quality"]
    assert len(data["records"]["profiles"]) == 2
    assert data["records"]["distill"]["steps"] == 200


def test_same_records_same_pictures(full_run: RunDir) -> None:
    def pictures() -> list[str]:
        report(full_run, against=None)
        return re.findall(r"<svg.*?</svg>", full_run.report.read_text(), flags=re.DOTALL)

    first = pictures()
    assert len(first) == 8
    assert pictures() == first


def test_quality_shows_what_the_terminal_shows(full_run: RunDir) -> None:
    report(full_run, against=None)
    text = full_run.report.with_suffix(".md").read_text()
    quality = text[text.index("## Quality on tasks") : text.index("## Artefacts and parity")]
    titles = re.findall(r"^\*\*(.+)\*\*$", quality, flags=re.MULTILINE)
    assert titles == [
        "Tasks",
        "Fine-tuned on labelled tasks",
        "Macro-score",
        "The artefact on the same dev set",
        "Ablation",
    ]
    assert "| Sentence sentiment | accuracy | 4,001 | 1,301 | 57.0 | 93.1 / 91.7 |" in quality
    assert "a warning of the task" in quality
    assert "| GLUE | student | 76.13 | 77.00 | 2 |" in quality
    assert "| sentiment student | int8 | 80.9 | +1.13 | 17 | 1.9 |" in quality
    assert (
        "| without the cosine loss | 80.04 | -1.13 | -1.71 … -0.53 | 0.31 | real | -1.46 |"
        in quality
    )


def test_an_ablation_without_an_evaluation_is_shown(full_run: RunDir) -> None:
    full_run.evaluation.unlink()
    report(full_run, against=None)
    page = full_run.report.read_text()
    assert "Not measured in this run: edgedistil evaluate" in page
    assert "without the cosine loss" in page


def test_json_has_the_ablation_only_where_there_is_one(full_run: RunDir) -> None:
    def ablation() -> object:
        report(full_run, against=None)
        return json.loads(full_run.report.with_suffix(".json").read_text())["records"]["ablation"]

    found = ablation()
    assert isinstance(found, dict)
    assert found["variations"][1]["change"] == -0.0113
    full_run.ablation.unlink()
    assert ablation() is None
    assert "Ablation" not in full_run.report.read_text()


def test_size_puts_both_models_beside_published_ones(full_run: RunDir) -> None:
    report(full_run, against=None)
    page = full_run.report.read_text()
    section = page[page.index('<h2 id="size">') : page.index('<h2 id="quality">')]
    picture, table = section.split("</svg>")
    for name in ("teacher", "student", "BERT-base", "DistilBERT", "GPT-3", "this run"):
        assert f">{name}</text>" in picture
    assert "17.3M parameters and the teacher 22.9M" in section
    assert "Details: 1 more table<" in table
    assert "README of google-research/bert" in table


def test_missing_stages_say_what_would_fill_them(full_run: RunDir) -> None:
    full_run.evaluation.unlink()
    for path in full_run.profiles.iterdir():
        path.unlink()
    report(full_run, against=None)
    text = full_run.report.with_suffix(".md").read_text()
    assert "Not measured in this run: edgedistil evaluate" in text
    assert "Not measured in this run: edgedistil profile" in text


def test_empty_run_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RunError, match="nothing to report yet"):
        report(RunDir(tmp_path), against=None)


def test_comparison_puts_two_runs_side_by_side(full_run: RunDir, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert report(full_run, against=full_run) == full_run.report
    facts = gather(full_run)
    comparison = diff.comparison(facts, facts)
    assert comparison.title == "made-up against made-up"
    changes = {row[0]: row[3] for row in comparison.rows}
    assert changes["held-out top-1"] == "+0.0%"
    assert any("p50" in name and "host measured" in name for name in changes)
    assert not any("rpi4" in name for name in changes), "a band is no figure that can be compared"


def test_report_needs_neither_torch_nor_onnxruntime(full_run: RunDir) -> None:
    script = (
        "import sys; from pathlib import Path; from edgedistil.core.rundir import RunDir;"
        "from edgedistil.report.stage import report;"
        f"report(RunDir(Path({str(full_run.path)!r})), against=None);"
        "print([m for m in ('torch', 'onnxruntime', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


class _Nesting(HTMLParser):
    """Remembers elements that were opened and not closed, and all ids."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
