from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistil.export.passes.normalisation import keep_bias_sums, keep_residual_sums

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run


RESIDUAL = """
residual (float[3, 2] x, float[3, 2] layer_output) => (float[3, 2] y)
<float[2] scale = {1, 2}, float[2] bias = {0, 1}>
{
  ["layer.0/Add"] sum = Add(layer_output, x)
  ["layer.0/LayerNorm"] y = LayerNormalization<axis = -1>(sum, scale, bias)
}
"""
BIAS = """
gelu (float[3, 2] x) => (float[3, 2] y)
<float[2] bias = {3, 5}>
{
  ["lin1/Add"] sum = Add(x, bias)
  y = com.microsoft.Gelu(sum)
}
"""
X = np.array([[1, 2], [3, 5], [7, 11]], np.float32)


def test_a_residual_add_becomes_a_sum_of_the_same_name(
    parse: Parse, run: Run, nodes: Nodes
) -> None:
    model = parse(RESIDUAL)
    inputs = {"x": X, "layer_output": X[::-1].copy()}
    expected = run(model, **inputs)
    assert keep_residual_sums(model) == 1
    total = next(node for node in model.graph if node.op_type == "Sum")
    assert total.name == "layer.0/Add"
    assert [value.name for value in total.inputs] == ["layer_output", "x"], "in the same order"
    np.testing.assert_array_equal(run(model, **inputs), expected)
    assert keep_residual_sums(model) == 0


@pytest.mark.parametrize(
    "text",
    [
        RESIDUAL.replace("layer.0/LayerNorm", "embeddings/LayerNorm"),
        RESIDUAL.replace("=> (float[3, 2] y)", "=> (float[3, 2] y, float[3, 2] sum)"),
        RESIDUAL.replace("Add(layer_output", "Mul(layer_output"),
    ],
    ids=["sum of the embeddings", "sum that is an output", "not a sum"],
)
def test_other_inputs_of_a_layer_norm_are_left_alone(parse: Parse, nodes: Nodes, text: str) -> None:
    model = parse(text)
    before = nodes(model)
    assert keep_residual_sums(model) == 0
    assert nodes(model) == before


def test_a_bias_in_front_of_a_gelu_becomes_a_sum(parse: Parse, run: Run) -> None:
    model = parse(BIAS)
    expected = run(model, x=X)
    assert keep_bias_sums(model) == 1
    total = next(node for node in model.graph if node.op_type == "Sum")
    assert total.name == "lin1/Add"
    np.testing.assert_allclose(run(model, x=X), expected, rtol=1e-6)
    assert keep_bias_sums(model) == 0


def test_a_bias_that_another_node_reads_too_is_left_alone(parse: Parse) -> None:
    text = BIAS.replace("=> (float[3, 2] y)", "=> (float[3, 2] y, float[3, 2] z)")
    assert keep_bias_sums(parse(text.replace("  y =", "  z = Neg(sum)\n  y ="))) == 0
