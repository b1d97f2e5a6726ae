from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes.boundaries import name_boundaries
from edgedistil.parity.instrument import boundary_tensor

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run

MARKED = """
parts (float[N] x) => (float[N] y)
{
  a = Neg(x)
  first = edgedistil.Boundary<part = "layer 0 attention">(a)
  b = Abs(first)
  y = edgedistil.Boundary<part = "layer 0 feed-forward">(b)
}
"""


def test_marked_tensors_have_the_names_of_their_parts(parse: Parse, run: Run, nodes: Nodes) -> None:
    model = parse(MARKED)
    assert name_boundaries(model) == 2
    first = boundary_tensor("layer 0 attention")
    assert nodes(model) == ["Neg(x)", f"Abs({first})"]
    assert [output.name for output in model.graph.outputs] == ["y"], "an output keeps its name"
    np.testing.assert_array_equal(run(model, x=np.array([2, -3], np.float32)), [2, 3])


def test_a_graph_without_marks_is_left_alone(parse: Parse) -> None:
    assert name_boundaries(parse("g (float[N] x) => (float[N] y) { y = Neg(x) }")) == 0
