from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.activation import fuse_gelu

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run


GELU = """
gelu (float[2, 3] x) => (float[2, 3] y)
<float root = {1.4142135}, float one = {1}, float half = {0.5}>
{
  scaled = Div(x, root)
  ["ffn/activation/Erf"] erf = Erf(scaled)
  shifted = Add(erf, one)
  product = Mul(x, shifted)
  y = Mul(product, half)
}
"""
X = np.array([[-3, -1, -0.5], [0, 0.7, 4]], np.float32)


def test_five_nodes_become_one_gelu_with_the_same_outputs(
    parse: Parse, run: Run, nodes: Nodes
) -> None:
    model = parse(GELU)
    expected = run(model, x=X)
    assert fuse_gelu(model) == 1
    drop_unused(model)
    assert nodes(model) == ["Gelu(x)"]
    (gelu,) = model.graph
    assert (gelu.name, gelu.domain) == ("ffn/activation/Gelu", "com.microsoft")
    assert [output.name for output in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model, x=X), expected, atol=1e-6)


def test_an_erf_that_another_node_reads_is_left_alone(parse: Parse, nodes: Nodes) -> None:
    model = parse(
        GELU.replace("=> (float[2, 3] y)", "=> (float[2, 3] y, float[2, 3] z)").replace(
            "shifted =", "z = Neg(erf)\n  shifted ="
        )
    )
    before = nodes(model)
    assert fuse_gelu(model) == 0
    assert nodes(model) == before


def test_an_erf_without_a_division_is_left_alone(parse: Parse) -> None:
    assert fuse_gelu(parse(GELU.replace("Div(", "Mul("))) == 0
