"""Exported artefacts: scored without torch, equal to PyTorch in float32, with size and latency."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.core.evaluation_records import EvaluationRecord
from edgedistil.core.export_records import ParityRecord
from edgedistil.core.options import EvaluateOptions
from edgedistil.core.records import read_record
from edgedistil.core.rundir import RunDir
from edgedistil.evaluate import artefact, stage
from edgedistil.evaluate.cells import read_cell
from edgedistil.evaluate.kinds import KINDS

MakeRun = Callable[[Path], RunDir]
Scored = tuple[RunDir, str, EvaluationRecord]


def options(task: str, *models: str) -> EvaluateOptions:
    return EvaluateOptions(tasks=[task], models=models, seeds=1, artefact="int8")


@pytest.fixture(scope="module")
def scored(
    make_run: MakeRun,
    write_task: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Scored:
    """One evaluation with its artefacts, for all tests of this module."""
    root = tmp_path_factory.mktemp("artefact")
    run, task = make_run(root), str(write_task(root, dev=41))
    return run, task, stage.evaluate(run, options(task, "teacher", "student"))


def test_record_compares_pytorch_fp32_and_int8(scored: Scored) -> None:
    run, _, record = scored
    rows = {row.artefact: row for row in record.artefacts if row.model == "student"}
    assert list(rows) == ["pytorch", "fp32", "int8"]
    # The teacher's artefacts too: they are what one would deploy without a student.
    teacher_rows = [row.artefact for row in record.artefacts if row.model == "teacher"]
    assert teacher_rows == ["pytorch", "fp32", "int8"]
    assert rows["pytorch"].drop == rows["fp32"].drop == 0
    assert rows["int8"].drop == pytest.approx(rows["pytorch"].median - rows["int8"].median)
    assert all(row.bytes > 0 for row in record.artefacts)
    assert all(row.latency_ms > 0 for row in record.artefacts)  # type: ignore[operator]

    folder = run.cells / "opinion"
    fp32, pytorch = read_cell(folder / "student-1.fp32.json"), read_cell(folder / "student-1.json")
    assert fp32.predictions == pytorch.predictions
    cells = [cell.artefact for cell in record.cells]
    assert cells == ["pytorch", "pytorch", "fp32", "int8", "fp32", "int8"]


def test_second_evaluation_scores_nothing_again(scored: Scored) -> None:
    run, task, record = scored

    def times() -> dict[Path, int]:
        files = [path for path in run.cells.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    again = stage.evaluate(run, options(task, "teacher", "student"))
    assert times() == before
    assert again.artefacts == record.artefacts


def test_scoring_does_not_load_torch_and_checks_it(scored: Scored) -> None:
    """In processes of their own: one scores without torch, one that imported torch fails."""
    run, task, _ = scored
    folder = run.cells / "opinion" / "student-1.onnx" / "export" / "student-text-classification"
    code = (
        "import sys; from pathlib import Path\n"
        "from edgedistil.evaluate.artefact import score_artefacts\n"
        "from edgedistil.evaluate.spec import load_task\n"
        f"folder = Path({str(folder)!r})\n"
        "graphs = [folder / 'onnx/model.onnx']\n"
        f"(result,) = score_artefacts(load_task({task!r}), None, folder, graphs)\n"
        "loaded = sorted({'torch', 'transformers', 'optimum'} & set(sys.modules))\n"
        "print(loaded, result.scores.scores['accuracy'] > 0.8)"
    )

    def run_code(text: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", text]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    process = run_code(code)
    assert process.stdout.split("\n")[-2] == "[] True", process.stderr
    process = run_code("import torch\n" + code)
    assert "torch is loaded in the process that scores an artefact" in process.stderr


def test_process_that_has_loaded_torch_is_an_error() -> None:
    import torch  # noqa: F401

    with pytest.raises(EdgeDistilError, match="torch is loaded"):
        artefact.check_torch_is_absent()


def test_file_that_is_not_a_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="does not load"):
        artefact.ort_forward(tmp_path / "x.onnx", KINDS["classification"], threads=1)


def test_artefact_of_a_regression_is_checked_by_concordance(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """One value decides nothing and is not a distribution, so its concordance has a bound."""
    words = {"good": 3.0, "fine": 2.0, "boring": -1.0, "dull": -2.0, "bad": -3.0}
    starts = ("a", "the", "a very", "it is a", "the plot was a")
    lines = ["text,label"]
    for word, value in words.items():
        lines += [f'"{start} {word} film",{value + shift}' for shift, start in enumerate(starts)]
    for side in ("train", "dev"):
        (tmp_path / f"{side}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "rating.toml").write_text(
        'kind = "regression"\nmetric = "pearson"\n'
        '[files]\ntrain = "train.csv"\ndev = "dev.csv"\n'
        "[training]\nepochs = 6\nbatch = 8\nlearning_rate = 1e-2\nmax_length = 23\n"
        'source = "for the tests"\n'
    )
    run = make_run(tmp_path)
    record = stage.evaluate(run, options(str(tmp_path / "rating.toml"), "student"))
    rows = {row.artefact: row for row in record.artefacts}
    assert list(rows) == ["pytorch", "fp32", "int8"]
    # 0.01 if PyTorch's outputs are in bfloat16.
    assert rows["fp32"].drop == pytest.approx(0, abs=1e-4)

    files = (run.cells / "rating").rglob("*.json")
    parities = [read_record(path, ParityRecord) for path in files if "parity" in str(path)]
    figures = {}
    for parity in parities:
        figures[parity.precision] = [result.tolerance.figure for result in parity.results]
    assert figures == {
        "fp32": ["max_abs", "concordance"],
        # No length has enough values for a bound of its own.
        "int8": ["concordance", "reference_share"],
    }
