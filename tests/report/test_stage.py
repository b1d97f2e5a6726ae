"""The report end to end: three files from records alone, each figure with its method."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistil.core.errors import RunError
from edgedistil.core.rundir import RunDir
from edgedistil.report.stage import report, show_report


def test_the_page_is_returned_and_has_two_other_forms(full_run: RunDir) -> None:
    page = report(full_run)
    assert page == full_run.report
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert page.with_suffix(".md").read_text(encoding="utf-8").startswith("# EdgeDistil report")
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["run"] == "made-up"


def test_board_rows_are_predicted_and_never_a_bare_number(full_run: RunDir) -> None:
    page = report(full_run).read_text()
    board = [
        line for line in page.splitlines() if "<td>predicted</td>" in line and "rpi4" not in line
    ]
    assert len(board) == 8  # four rows, in the short table and in the long one
    assert all("101–211" in line for line in board)
    host = [line for line in page.splitlines() if "<td>measured</td>" in line]
    assert len(host) == 2 * 4 + 1, "four artefacts in two tables, and one claim"
    assert not any("101–211" in line for line in host)
    # The title of the table of medians names the method.
    text = full_run.report.with_suffix(".md").read_text()
    predicted = text[text.index("**rpi4: predicted") :].split("**", 2)[2]
    assert predicted.count("101–211") >= 4


def test_same_records_same_pictures(full_run: RunDir) -> None:
    def pictures() -> list[str]:
        page = report(full_run).read_text()
        return re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)

    first = pictures()
    assert len(first) == 8
    assert pictures() == first


def test_quality_shows_what_the_terminal_shows(full_run: RunDir) -> None:
    report(full_run)
    text = full_run.report.with_suffix(".md").read_text()
    quality = text[text.index("## Quality on tasks") : text.index("## Artefacts and parity")]
    titles = re.findall(r"^\*\*(.+)\*\*$", quality, flags=re.MULTILINE)
    assert titles == [
        "Tasks",
        "Models fine-tuned on labelled tasks",
        "Macro-score",
        "Artefacts on the same dev set",
        "Ablation",
    ]
    assert "| Sentence sentiment | accuracy | 4,001 | 1,301 | 57.0 | 93.1 / 91.7 |" in quality
    assert "a warning of the task" in quality
    assert "| GLUE | student | 76.13 | 77.00 |" in quality
    assert "| sentiment student | int8 | 80.9 | +1.13 | 17 | 1.9 |" in quality
    assert "| 80.04 | -1.13 | -1.71 … -0.53 | 0.31 | significant | -1.46 |" in quality


def test_a_report_of_some_stages_names_the_missing_ones(full_run: RunDir) -> None:
    full_run.evaluation.unlink()
    full_run.ablation.unlink()
    for path in full_run.profiles.iterdir():
        path.unlink()
    text = report(full_run).with_suffix(".md").read_text()
    assert "Not run: edgedistil evaluate" in text
    assert "Not run: edgedistil profile" in text
    assert "Ablation" not in full_run.report.read_text()


def test_an_empty_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to report yet"):
        report(RunDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_verdicts_and_comparison_are_printed(
    full_run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    report(full_run, against=full_run)
    show_report(full_run, against=full_run)
    printed = capsys.readouterr().out
    for text in ("The paper's claims", "60% faster", "made-up compared with made-up", "+0.0%"):
        assert text in printed
    assert "made-up compared with made-up" in full_run.report.read_text()


def test_report_needs_neither_torch_nor_onnxruntime(full_run: RunDir) -> None:
    script = (
        "import sys; from pathlib import Path; from edgedistil.core.rundir import RunDir;"
        "from edgedistil.report.stage import report;"
        f"report(RunDir(Path({str(full_run.path)!r})));"
        "print([m for m in ('torch', 'onnxruntime', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
