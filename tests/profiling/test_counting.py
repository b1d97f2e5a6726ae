"""The work of a graph as onnxruntime runs it, in a process with limits."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.profiling.artefacts import run_artefacts
from edgedistil.profiling.counting import count_artefact, count_work
from edgedistil.runtime import local
from tests.fixtures.hostile_graphs import endless_graph, hungry_graph


def test_a_real_graph_is_counted_as_it_runs(exported: RunDir) -> None:
    artefacts = {artefact.label: artefact for artefact in run_artefacts(exported)}
    fp32 = artefacts["student-feature-extraction.fp32"]
    int8 = artefacts["student-feature-extraction.int8"]
    width, inner = 31, 61
    weights = 2 * (3 * width * width + 2 * width * inner)
    for length, nodes in count_artefact(fp32, [5, 13]).items():
        macs = length * weights + 2 * 2 * length * length * width
        assert sum(node.macs for node in nodes) == macs
    nodes = count_artefact(int8, [5])[5]
    assert {node.arithmetic for node in nodes if node.weight_bytes} == {"int8"}
    assert sum(node.weight_bytes for node in nodes) == weights


def test_a_graph_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"onnxruntime .* cannot run .*model\.onnx"):
        count_work(path, [5])


def test_a_graph_that_never_ends_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_FIRST_RESULT_S", 1.0)
    onnx.save(endless_graph(), tmp_path / "endless.onnx")
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"endless\.onnx: no result within"):
        # The limit is of one run, however many lengths are to be counted.
        count_work(tmp_path / "endless.onnx", list(range(5, 105)))
    assert time.monotonic() - started < 50


def test_a_graph_that_asks_for_gigabytes_is_an_error(tmp_path: Path) -> None:
    onnx.save(hungry_graph(), tmp_path / "hungry.onnx")
    with pytest.raises(ModelError, match=r"cannot run .*hungry\.onnx"):
        count_work(tmp_path / "hungry.onnx", [5], private_memory_bytes=3 * 2**30)
