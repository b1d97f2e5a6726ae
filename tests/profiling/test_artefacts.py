"""The files that are profiled: exports of a run, and one file of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgedistil.core.errors import ModelError, RunError
from edgedistil.core.rundir import RunDir, artefact_sha256, create_run
from edgedistil.profiling.artefacts import count_parameters, file_artefact, run_artefacts
from edgedistil.profiling.graph import GraphFacts


def test_the_exports_of_a_run_are_sorted(exported: RunDir) -> None:
    artefacts = run_artefacts(exported)
    assert [artefact.label for artefact in artefacts] == [
        "teacher-feature-extraction.fp32",
        "teacher-feature-extraction.int8",
        "student-feature-extraction.fp32",
        "student-feature-extraction.int8",
    ]
    for artefact in artefacts:
        assert artefact.sha256 == artefact_sha256(artefact.path)
        assert artefact.graph == GraphFacts({"input_ids": "input_ids"}, vocabulary=53)
        assert artefact.max_length == 67
        assert artefact.job_files() == {f"{artefact.label}/graph.onnx": artefact.path}
        assert artefact.job_model().file == f"{artefact.label}/graph.onnx"


def test_a_run_without_exports_names_the_command(runs: Path) -> None:
    with pytest.raises(RunError, match="create it with: edgedistil export"):
        run_artefacts(create_run("empty"))


def test_an_export_that_was_changed_is_an_error(exported: RunDir) -> None:
    path = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    content = path.read_bytes()
    # One bit in the middle of the weights.
    path.write_bytes(content[:-99] + bytes([content[-99] ^ 1]) + content[-98:])
    with pytest.raises(RunError, match=r"was changed after the export: got sha256 .*, expected"):
        run_artefacts(exported)
    path.write_bytes(content + b"x")
    with pytest.raises(RunError, match=r"was changed after the export: got \d+ bytes, expected"):
        run_artefacts(exported)
    path.unlink()
    with pytest.raises(RunError, match=r"is missing, but .*export\.fp32\.json lists it"):
        run_artefacts(exported)


def test_a_single_file_gets_its_facts_from_the_graph(exported: RunDir) -> None:
    folder = exported.export("student", "feature-extraction") / "onnx"
    fp32, int8 = file_artefact(folder / "model.onnx"), file_artefact(folder / "model_int8.onnx")
    assert (fp32.model, fp32.role, fp32.task, fp32.precision) == ("model", "other", "other", "fp32")
    assert (int8.model, int8.precision) == ("model_int8", "int8")
    assert fp32.parameters == int8.parameters == 53 * 31 + 2 * (3 * 31 * 31 + 2 * 31 * 61)
    assert fp32.max_length == 67, "config.json is one folder above"


def test_a_file_that_cannot_be_profiled_is_an_error(exported: RunDir, tmp_path: Path) -> None:
    model = exported.export("student", "feature-extraction") / "onnx" / "model.onnx"
    (tmp_path / "alone.onnx").write_bytes(model.read_bytes())
    with pytest.raises(ModelError, match=r"no tokenizer\.json or vocab\.txt next to"):
        file_artefact(tmp_path / "alone.onnx")
    with pytest.raises(ModelError, match="no model file"):
        file_artefact(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="is not a readable ONNX file"):
        file_artefact(exported.heldout_text)


def test_scales_and_shapes_are_not_parameters() -> None:
    tensors = [
        numpy_helper.from_array(np.zeros((3, 7), np.float32), "matrix"),
        numpy_helper.from_array(np.zeros(67, np.float32), "bias"),
        numpy_helper.from_array(np.zeros(64, np.float32), "scales"),
        numpy_helper.from_array(np.zeros((2, 97), np.int64), "positions"),
    ]
    assert count_parameters(helper.make_graph([], "weights", [], [], tensors)) == 3 * 7 + 67
