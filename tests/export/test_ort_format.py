from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.export.ort_format import convert_to_ort
from edgedistil.parity.gate import load_artefact


def test_the_ort_file_gives_the_graphs_outputs_and_lists_its_operators(
    graphs: Path, tmp_path: Path
) -> None:
    graph = graphs / "onnx" / "model_int8.onnx"
    model, operators = convert_to_ort(graph, tmp_path / "ort")
    assert model.name == "model_int8.ort"
    assert operators.name == "model_int8.required_operators.config"
    ids = np.array([[2, 5, 6, 3]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 2}
    expected, actual = (load_artefact(path)(feeds)["last_hidden_state"] for path in (graph, model))
    np.testing.assert_array_equal(actual, expected)
    lines = operators.read_text().splitlines()
    assert lines[0] == "# operators of model_int8.ort"
    assert any("Gather" in line and line.startswith("ai.onnx;") for line in lines)
    assert str(tmp_path) not in operators.read_text()


def test_a_corrupt_graph_cannot_be_converted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"corrupt")
    with pytest.raises(ModelError, match="cannot convert"):
        convert_to_ort(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
