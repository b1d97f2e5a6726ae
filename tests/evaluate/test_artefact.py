"""The exported artefact: scored without torch, equal to PyTorch in float32, side by side with size and latency."""

import subprocess
import sys

import pytest

from edgedistil.core.errors import EdgeDistilError, ModelError
from edgedistil.core.records import ParityRecord, read_record
from edgedistil.evaluate import artefact, stage
from edgedistil.evaluate.cells import read_cell


@pytest.fixture(scope="module")
def scored(make_run, write_task, tmp_path_factory):
    """One evaluation with its artefacts, for all tests here: run, task, record."""
    root = tmp_path_factory.mktemp("artefact")
    run, task = make_run(root), str(write_task(root, dev=41))
    return (
        run,
        task,
        stage.evaluate(run, tasks=[task], models=["teacher", "student"], seeds=1, artefact="int8"),
    )


def test_pytorch_fp32_and_int8_stand_side_by_side(scored):
    run, task, record = scored
    rows = {row.artefact: row for row in record.artefacts if row.model == "student"}
    assert list(rows) == ["pytorch", "fp32", "int8"]
    # The teacher's artefacts too: they are what one would deploy without a student.
    assert [row.artefact for row in record.artefacts if row.model == "teacher"] == [
        "pytorch",
        "fp32",
        "int8",
    ]
    assert rows["pytorch"].drop == rows["fp32"].drop == 0
    assert rows["int8"].drop == pytest.approx(rows["pytorch"].median - rows["int8"].median)
    assert all(row.bytes > 0 and row.latency_ms > 0 for row in record.artefacts)
    files = {
        name: read_cell(run.cells / "opinion" / f"student-1{name}.json")
        for name in ("", ".fp32", ".int8")
    }
    assert files[".fp32"].predictions == files[""].predictions
    scored_as = [cell.artefact for cell in record.cells]
    assert scored_as == ["pytorch", "pytorch", "fp32", "int8", "fp32", "int8"]

    before = {path: path.stat().st_mtime_ns for path in run.cells.rglob("*") if path.is_file()}
    again = stage.evaluate(
        run, tasks=[task], models=["teacher", "student"], seeds=1, artefact="int8"
    )
    assert {
        path: path.stat().st_mtime_ns for path in run.cells.rglob("*") if path.is_file()
    } == before
    assert again.artefacts == record.artefacts


def test_scoring_leaves_torch_out_and_can_tell(scored):
    """In processes of their own: one scores and holds no torch; one that has imported torch is refused."""
    run, task, _ = scored
    folder = run.cells / "opinion" / "student-1.onnx" / "export" / "student-text-classification"
    code = (
        "import sys; from pathlib import Path; from edgedistil.evaluate.artefact import score_artefacts\n"
        "from edgedistil.evaluate.spec import load_task\n"
        f"folder = Path({str(folder)!r})\n"
        f"done, = score_artefacts(load_task({task!r}), None, folder, [folder / 'onnx/model.onnx'])\n"
        "print(sorted({'torch', 'transformers', 'optimum'} & set(sys.modules)), done.scored.scores['accuracy'] > 0.8)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-2] == "[] True", done.stderr
    refused = subprocess.run(
        [sys.executable, "-c", "import torch\n" + code], capture_output=True, text=True, check=False
    )
    assert "torch is loaded in the process that scores an artefact" in refused.stderr


def test_this_process_holds_torch_and_is_refused():
    import torch  # noqa: F401

    with pytest.raises(EdgeDistilError, match="torch is loaded"):
        artefact.refuse_torch()


def test_file_that_is_no_graph(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="does not load"):
        artefact.ort_forward(tmp_path / "x.onnx", threads=1)


def test_a_regression_is_judged_by_what_its_values_follow(make_run, tmp_path):
    """Nothing is decided and nothing is distributed by one value: the gate holds its concordance to a bound."""
    words = {"good": 3.0, "fine": 2.0, "boring": -1.0, "dull": -2.0, "bad": -3.0}
    rows = [f'"{start} {word} film",{value + shift}' for word, value in words.items()
            for shift, start in enumerate(("a", "the", "a very", "it is a", "the plot was a"))]  # fmt: skip
    for side in ("train", "dev"):
        (tmp_path / f"{side}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "rating.toml").write_text(
        'kind = "regression"\nmetric = "pearson"\n[files]\ntrain = "train.csv"\ndev = "dev.csv"\n[training]\n'
        'epochs = 6\nbatch = 8\nlearning_rate = 1e-2\nmax_length = 23\nsource = "made for the tests"\n'
    )
    run = make_run(tmp_path)
    record = stage.evaluate(
        run, tasks=[str(tmp_path / "rating.toml")], models=["student"], seeds=1, artefact="int8"
    )
    rows = {row.artefact: row for row in record.artefacts}
    assert list(rows) == ["pytorch", "fp32", "int8"]
    assert rows["fp32"].drop == pytest.approx(0, abs=1e-4), "PyTorch answered in bfloat16: 0.01"
    parities = [
        read_record(path, ParityRecord)
        for path in (run.cells / "rating").rglob("*.json")
        if "parity" in str(path)
    ]
    judged = {p.precision: [r.tolerance.figure for r in p.results] for p in parities}
    assert judged == {"fp32": ["max_abs", "concordance"], "int8": ["concordance"]}
