from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgedistil.export import quantize
from edgedistil.export.int8_arithmetic import UINT8_ZERO, Int8Plan
from edgedistil.export.linears import (
    bytes_by_part,
    find_linears,
    find_position_embedding,
    find_word_embedding,
    float_weights,
    part_of,
    weights_of_several_products,
)
from edgedistil.export.passes import weight_bytes
from edgedistil.export.quantize import quantize_dynamic

LAYERS = """
<ir_version: 8, opset_import: ["" : 17]>
layers (float[4, 3] x) => (float[4, 2] y)
<float[3, 2] matrix = {1, 2, 3, 4, 5, 6}, float[2, 2] square = {1, 2, 3, 4}, float[2] bias = {7, 8}>
{
  ["/model/bert/encoder/layer.0/dense/MatMul"] product = MatMul(x, matrix)
  ["/model/bert/encoder/layer.0/dense/Add"] sum = Add(bias, product)
  ["/model/classifier/Gemm"] logits = Gemm<transB = 1>(sum, square, bias)
  y = MatMul(logits, product)
}
"""


def test_linear_layers_have_their_module_weight_and_bias() -> None:
    model = ir.from_proto(onnx.parser.parse_model(LAYERS))
    dense, classifier = find_linears(model)
    assert (dense.name, classifier.name) == ("encoder.layer.0.dense", "classifier")
    assert dense.bias is None, "another node reads the product, so the sum is not the layer's"
    assert classifier.bias is not None
    assert classifier.bias.name == "bias"
    np.testing.assert_array_equal(dense.matrix(), [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(classifier.matrix(), [[1, 3], [2, 4]])
    assert not dense.tied


def test_a_bias_belongs_to_the_matmul_that_only_its_sum_reads() -> None:
    text = LAYERS.replace("y = MatMul(logits, product)", "y = Neg(logits)")
    dense, _ = find_linears(ir.from_proto(onnx.parser.parse_model(text)))
    assert dense.bias is not None
    assert (dense.bias.name, dense.last.op_type) == ("bias", "Add")


def test_the_layers_and_lookups_of_a_model_are_complete(graph: ir.Model) -> None:
    linears = find_linears(graph)
    assert len(linears) == 14, "six a layer, and two of the head"
    assert [linear.name for linear in linears if linear.tied] == ["vocab_projector"]
    assert all(linear.bias is not None for linear in linears)
    word, position = find_word_embedding(graph), find_position_embedding(graph)
    assert word is not None
    assert position is not None
    assert (word.op_type, position.op_type) == ("Gather", "Slice")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("distilbert.embeddings.word_embeddings.weight", "embeddings"),
        ("transformer.layer.3.attention.q_lin.weight.quantized", "attention"),
        ("distilbert.transformer.layer.0.sa_layer_norm.weight", "attention"),
        ("encoder.layer.11.attention.output.dense.weight", "attention"),
        ("encoder.layer.11.intermediate.dense.weight.T", "feed-forward"),
        ("bert.encoder.layer.2.output.LayerNorm.bias", "feed-forward"),
        ("vocab_projector.bias", "head"),
        ("cls.predictions.transform.dense.weight.T", "head"),
        ("constant/masked", "other"),
    ],
)
def test_parts_of_a_model(name: str, part: str) -> None:
    assert part_of(name) == part


def test_bytes_by_part_add_up(graph: ir.Model) -> None:
    quantize_dynamic(graph, Int8Plan())
    parts = bytes_by_part(graph)
    assert sum(parts.values()) == weight_bytes(graph)
    assert all(parts[part] > 0 for part in ("embeddings", "attention", "feed-forward", "head"))


def test_weights_that_stay_in_float_are_listed_without_scales(graph: ir.Model) -> None:
    name = "transformer.layer.1.ffn.lin2"
    quantize_dynamic(graph, Int8Plan(keep_float=[name]))
    assert float_weights(graph) == [f"distilbert.{name}.weight"]


SHARED = """
<ir_version: 8, opset_import: ["" : 17]>
layers (float[4, 3] x) => (float[4, 3] z)
<float[3, 3] shared = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3, 3] own = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
  ["/model/layer.0/MatMul"] a = MatMul(x, shared)
  ["/model/layer.1/MatMul"] b = MatMul(a, shared)
  ["/model/head/MatMul"] z = MatMul(b, own)
}
"""


def test_weights_of_several_products_are_named() -> None:
    graph = ir.from_proto(onnx.parser.parse_model(SHARED))
    assert weights_of_several_products(graph) == {"shared"}


@pytest.mark.parametrize(("signed", "widths"), [(True, (63, 127)), (False, (127, 127))])
def test_signed_weights_of_several_products_have_seven_bits(
    signed: bool, widths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "SMALL_HEAD", 0)
    graph = ir.from_proto(onnx.parser.parse_model(SHARED))
    quantize_dynamic(graph, Int8Plan(signed=signed))
    middle = 0 if signed else UINT8_ZERO
    largest = []
    for name in ("shared", "own"):
        tensor = graph.graph.initializers[f"{name}.quantized"].const_value
        assert tensor is not None
        largest.append(int(np.abs(tensor.numpy().astype(int) - middle).max()))
    assert tuple(largest) == widths
