"""The work of a node: counts by hand."""

from __future__ import annotations

from edgedistil.costmodel.workload import node_work

B, L, D, F = 2, 5, 7, 11
Shapes = list[dict[str, list[int]]]


def node(op: str, inputs: Shapes, outputs: Shapes) -> dict[str, object]:
    return {"node": "/layer.0/x", "op": op, "inputs": inputs, "outputs": outputs}


def test_a_matmul_with_packed_weights_by_hand() -> None:
    work = node_work(node("MatMul", [{"float": [B, L, D]}], [{"float": [B, L, F]}]))
    assert work.name == "/layer.0/x"
    assert (work.macs, work.weight_bytes) == (B * L * D * F, 4 * D * F)
    assert (work.rows, work.arithmetic) == (B * L, "fp32")
    assert work.moved_bytes == 4 * (B * L * D + B * L * F)


def test_a_matmul_of_two_activations_has_no_weights() -> None:
    inputs = [{"float": [B, 3, L, D]}, {"float": [B, 3, D, L]}]
    work = node_work(node("FusedMatMul", inputs, [{"float": [B, 3, L, L]}]))
    assert (work.macs, work.weight_bytes) == (B * 3 * L * L * D, 0)


def test_an_integer_matmul_has_a_byte_a_weight() -> None:
    inputs: Shapes = [{"float": [B, L, D]}, {"float": []}, {"int8": []}, {"float": [F]}]
    work = node_work(node("DynamicQuantizeMatMul", inputs, [{"float": [B, L, F]}]))
    assert (work.macs, work.weight_bytes, work.arithmetic) == (B * L * D * F, D * F, "int8")


def test_a_four_bit_matmul_has_half_a_byte_a_weight() -> None:
    work = node_work(node("MatMulNBits", [{"float": [B, L, 6]}], [{"float": [B, L, F]}]))
    assert (work.weight_bytes, work.arithmetic) == (3 * F, "fp32")


def test_packed_attention_projects_and_multiplies_twice() -> None:
    inputs = [{"float": [B, L, D]}, {"float": [3 * D]}]
    work = node_work(node("Attention", inputs, [{"float": [B, L, D]}]))
    assert work.macs == B * L * D * 3 * D + 2 * B * L * L * D
    assert work.weight_bytes == 4 * 3 * D * D


def test_projected_attention_only_multiplies_activations() -> None:
    inputs = [{"float": [B, L, D]}] * 3
    work = node_work(node("MultiHeadAttention", inputs, [{"float": [B, L, D]}]))
    assert (work.macs, work.weight_bytes) == (2 * B * L * L * D, 0)


def test_a_gather_moves_its_rows_not_its_table() -> None:
    inputs = [{"float": [30522, D]}, {"int64": [B, L]}]
    work = node_work(node("Gather", inputs, [{"float": [B, L, D]}]))
    assert (work.macs, work.moved_bytes, work.elements) == (0, 2 * 4 * B * L * D, 0)


def test_a_reshape_is_free_and_a_gelu_is_heavy() -> None:
    reshape = node_work(node("Reshape", [{"float": [B, L * D]}], [{"float": [B, L, D]}]))
    assert (reshape.moved_bytes, reshape.elements, reshape.heavy) == (0, 0, False)
    gelu = node_work(node("Gelu", [{"float": [B, L]}], [{"float": [B, L]}]))
    assert (gelu.moved_bytes, gelu.elements, gelu.heavy) == (2 * 4 * B * L, B * L, True)
