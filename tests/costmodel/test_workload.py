"""The work of a graph: counts by hand, and those of a graph as onnxruntime runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistil.core.errors import ModelError
from edgedistil.core.rundir import RunDir
from edgedistil.costmodel.workload import count_work, node_work
from edgedistil.profiling.artefacts import run_artefacts

B, L, D, F = 2, 5, 7, 11
Shapes = list[dict[str, list[int]]]


def event(op: str, inputs: Shapes, outputs: Shapes) -> dict[str, object]:
    arguments = {"op_name": op, "input_type_shape": inputs, "output_type_shape": outputs}
    return {"name": "/layer.0/x_kernel_time", "args": arguments}


def test_a_matmul_with_packed_weights_by_hand() -> None:
    work = node_work(event("MatMul", [{"float": [B, L, D]}], [{"float": [B, L, F]}]))
    assert work.name == "/layer.0/x"
    assert (work.macs, work.weight_bytes) == (B * L * D * F, 4 * D * F)
    assert (work.rows, work.arithmetic) == (B * L, "fp32")
    assert work.moved_bytes == 4 * (B * L * D + B * L * F)


def test_a_matmul_of_two_activations_has_no_weights() -> None:
    inputs = [{"float": [B, 3, L, D]}, {"float": [B, 3, D, L]}]
    work = node_work(event("FusedMatMul", inputs, [{"float": [B, 3, L, L]}]))
    assert (work.macs, work.weight_bytes) == (B * 3 * L * L * D, 0)


def test_an_integer_matmul_has_a_byte_a_weight() -> None:
    inputs: Shapes = [{"float": [B, L, D]}, {"float": []}, {"int8": []}, {"float": [F]}]
    work = node_work(event("DynamicQuantizeMatMul", inputs, [{"float": [B, L, F]}]))
    assert (work.macs, work.weight_bytes, work.arithmetic) == (B * L * D * F, D * F, "int8")


def test_a_four_bit_matmul_has_half_a_byte_a_weight() -> None:
    work = node_work(event("MatMulNBits", [{"float": [B, L, 6]}], [{"float": [B, L, F]}]))
    assert (work.weight_bytes, work.arithmetic) == (3 * F, "fp32")


def test_packed_attention_projects_and_multiplies_twice() -> None:
    inputs = [{"float": [B, L, D]}, {"float": [3 * D]}]
    work = node_work(event("Attention", inputs, [{"float": [B, L, D]}]))
    assert work.macs == B * L * D * 3 * D + 2 * B * L * L * D
    assert work.weight_bytes == 4 * 3 * D * D


def test_projected_attention_only_multiplies_activations() -> None:
    inputs = [{"float": [B, L, D]}] * 3
    work = node_work(event("MultiHeadAttention", inputs, [{"float": [B, L, D]}]))
    assert (work.macs, work.weight_bytes) == (2 * B * L * L * D, 0)


def test_a_gather_moves_its_rows_not_its_table() -> None:
    inputs = [{"float": [30522, D]}, {"int64": [B, L]}]
    work = node_work(event("Gather", inputs, [{"float": [B, L, D]}]))
    assert (work.macs, work.moved_bytes, work.elements) == (0, 2 * 4 * B * L * D, 0)


def test_a_reshape_is_free_and_a_gelu_is_heavy() -> None:
    reshape = node_work(event("Reshape", [{"float": [B, L * D]}], [{"float": [B, L, D]}]))
    assert (reshape.moved_bytes, reshape.elements, reshape.heavy) == (0, 0, False)
    gelu = node_work(event("Gelu", [{"float": [B, L]}], [{"float": [B, L]}]))
    assert (gelu.moved_bytes, gelu.elements, gelu.heavy) == (2 * 4 * B * L, B * L, True)


def test_a_real_graph_is_counted_as_it_runs(exported: RunDir) -> None:
    artefacts = {artefact.label: artefact for artefact in run_artefacts(exported)}
    fp32 = artefacts["student-feature-extraction.fp32"]
    int8 = artefacts["student-feature-extraction.int8"]
    width, inner = 31, 61
    weights = 2 * (3 * width * width + 2 * width * inner)
    for length, nodes in count_work(fp32.path, fp32.inputs, [5, 13]).items():
        macs = length * weights + 2 * 2 * length * length * width
        assert sum(node.macs for node in nodes) == macs
    nodes = count_work(int8.path, int8.inputs, [5])[5]
    assert {node.arithmetic for node in nodes if node.weight_bytes} == {"int8"}
    assert sum(node.weight_bytes for node in nodes) == weights


def test_a_graph_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"onnxruntime .* cannot run .*model\.onnx"):
        count_work(path, ["input_ids"], [5])
