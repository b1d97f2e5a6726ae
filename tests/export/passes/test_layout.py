from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistil.export.passes.layout import sequence_first

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run

ENCODER = """
encoder (int64[B, L] input_ids) => (float[B, L, 2] y)
<float[5, 2] words = {0, 1, 3, 2, 4, 5, 9, 7, 8, 0},
 float[2] scale = {1, 2}, float[2] bias = {0, 1}>
{
  embedded = Gather(words, input_ids)
  ["layer.0/LayerNorm"] y = LayerNormalization<axis = -1>(embedded, scale, bias)
}
"""
WITH_HEAD = ENCODER.replace("y = LayerNormalization", "hidden = LayerNormalization").replace(
    "\n}", "\n  y = Neg(hidden)\n}"
)
IDS = np.array([[0, 1, 2], [4, 3, 3]])


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        (ENCODER, ["Transpose", "Gather", "LayerNormalization", "Transpose"]),
        (WITH_HEAD, ["Transpose", "Gather", "LayerNormalization", "Transpose", "Neg"]),
    ],
)
def test_activations_are_sequence_first_and_outputs_stay_as_they_were(
    parse: Parse, run: Run, text: str, operators: list[str]
) -> None:
    model = parse(text)
    expected = run(model, input_ids=IDS)
    assert sequence_first(model) == 1
    assert [node.op_type for node in model.graph] == operators
    assert [output.name for output in model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(run(model, input_ids=IDS), expected)


def test_a_reader_of_the_token_ids_that_is_not_a_lookup_keeps_its_layout(
    parse: Parse, nodes: Nodes
) -> None:
    text = WITH_HEAD.replace("  embedded =", "  length = Shape(input_ids)\n  embedded =")
    model = parse(text)
    sequence_first(model)
    assert "Shape(input_ids)" in nodes(model)


def test_a_graph_without_layers_is_left_alone(parse: Parse, nodes: Nodes) -> None:
    model = parse(ENCODER.replace("layer.0/", "embeddings/"))
    before = nodes(model)
    assert sequence_first(model) == 0
    assert nodes(model) == before
