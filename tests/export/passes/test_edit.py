from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes.edit import (
    add_initializer,
    constant_array,
    graph_input,
    insert,
    only_consumer,
    produced_by,
    replace_value,
)

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse


CHAIN = """
chain (float[2] x) => (float[2] y)
<float[2] weight = {3, 5}>
{
  sum = Add(x, weight)
  negative = Neg(sum)
  y = Mul(sum, negative)
}
"""


def test_queries_find_producers_consumers_and_constants(parse: Parse) -> None:
    graph = parse(CHAIN).graph
    add, negate, multiply = graph
    assert produced_by(negate.inputs[0], "Add") is add
    assert produced_by(negate.inputs[0], "Mul") is None
    assert produced_by(None, "Add") is None
    assert only_consumer(negate.outputs[0]) is multiply
    assert only_consumer(add.outputs[0]) is None, "two nodes read the sum"
    assert only_consumer(multiply.outputs[0]) is None, "it is an output"
    np.testing.assert_array_equal(constant_array(add.inputs[1]), [3, 5])
    assert constant_array(add.inputs[0]) is None
    assert graph_input(graph, "x") is add.inputs[0]
    assert graph_input(graph, "z") is None


def test_an_inserted_node_precedes_the_other_and_imports_its_domain(
    parse: Parse, nodes: Nodes
) -> None:
    model = parse(CHAIN)
    add, negate, _ = model.graph
    model.graph.opset_imports.pop("com.microsoft")
    outputs = insert(
        negate, "Split", [add.outputs[0]], name="cut", domain="com.microsoft", outputs=2
    )
    assert [output.name for output in outputs] == ["cut/output_0", "cut/output_1"]
    assert nodes(model)[:3] == ["Add(x, weight)", "Split(sum)", "Neg(sum)"]
    assert model.graph.opset_imports["com.microsoft"] == 1


def test_an_initializer_is_added_once(parse: Parse) -> None:
    graph = parse(CHAIN).graph
    one = add_initializer(graph, "one", np.ones(1, np.float32))
    assert add_initializer(graph, "one", np.ones(1, np.float32)) is one
    assert set(graph.initializers) == {"weight", "one"}


def test_a_replaced_output_gives_its_name_to_the_new_value(parse: Parse, nodes: Nodes) -> None:
    model = parse(CHAIN)
    multiply = model.graph[-1]
    (absolute,) = insert(multiply, "Abs", [multiply.inputs[0]], name="abs")
    replace_value(multiply.outputs[0], absolute)
    (output,) = model.graph.outputs
    assert output is absolute
    assert (output.name, multiply.outputs[0].name) == ("y", "y/replaced")
    assert output.shape == [2]
