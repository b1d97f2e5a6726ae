"""NNCF in a process of its own, and what is said where the packages are missing."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistil.core.errors import TargetError
from edgedistil.runtime import openvino_packages
from edgedistil.runtime.openvino_packages import quantize_with_nncf, require_openvino
from edgedistil.runtime.plain_graph import write_plain_graph


@pytest.mark.parametrize("missing", ["openvino", "nncf"])
def test_a_missing_package_is_named_with_the_command(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(TargetError, match=f"needs the package {missing}") as caught:
        require_openvino()
    assert "pip install 'edgedistil[openvino]'" in str(caught.value.hint)
    assert caught.value.exit_code == 4


def test_the_weights_of_an_export_are_quantized(small_export: Path, tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    write_plain_graph(small_export / "onnx/model.onnx", graph)
    ids_BL = np.arange(5, 16)[None]
    feed = {"input_ids": ids_BL, "attention_mask": ids_BL * 0 + 1, "token_type_ids": ids_BL * 0}
    model, weights = quantize_with_nncf(graph, {"a": feed, "b": feed}, tmp_path, exported=graph)
    assert weights.stat().st_size > 0
    # Six linear layers in each of two layers of the model.
    assert model.read_text(encoding="utf-8").count('element_type="i8"') >= 12


def test_a_graph_that_nncf_cannot_quantize_is_named_as_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"no graph")
    feeds: dict[str, dict[str, Any]] = {"a": {"input_ids": np.ones((1, 5), np.int64)}}
    exported = tmp_path / "model.onnx"
    with pytest.raises(TargetError, match=r"NNCF could not quantize .*/model\.onnx: ") as caught:
        quantize_with_nncf(graph, feeds, tmp_path, exported=exported)
    assert "profile without --runtime" in str(caught.value.hint)
    monkeypatch.setattr(openvino_packages, "_NNCF_TIMEOUT_S", 0.01)
    with pytest.raises(TargetError, match=r"NNCF did not quantize .*/model\.onnx within 0.01 s"):
        quantize_with_nncf(graph, feeds, tmp_path, exported=exported)
