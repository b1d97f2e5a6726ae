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
  normalized = LayerNormalization<axis = -1>(embedded, scale, bias)
  y = edgedistil.LastHiddenState(normalized)
}
"""
IDS = np.array([[0, 1, 2], [4, 3, 3]])
WITH_HEAD = ENCODER.replace("y = edgedistil", "hidden = edgedistil").replace(
    "\n}", "\n  y = Neg(hidden)\n}"
)


def unmarked(text: str) -> str:
    """The graph without marks, as a session runs it."""
    return text.replace("edgedistil.LastHiddenState", "Identity").replace(
        "edgedistil.Embeddings", "Identity"
    )


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
    expected = run(parse(unmarked(text)), input_ids=IDS)
    assert sequence_first(model) == 1
    assert [node.op_type for node in model.graph] == operators
    assert [output.name for output in model.graph.outputs] == ["y"]
    np.testing.assert_array_equal(run(model, input_ids=IDS), expected)


def test_embeddings_that_read_neighbours_are_turned_behind_them(
    parse: Parse, run: Run, nodes: Nodes
) -> None:
    text = WITH_HEAD.replace("embedded = Gather", "words_BLD = Gather").replace(
        "  normalized", "  embedded = edgedistil.Embeddings(words_BLD)\n  normalized"
    )
    model = parse(text)
    assert sequence_first(model) == 1
    assert "Gather(words, input_ids)" in nodes(model)
    np.testing.assert_array_equal(
        run(model, input_ids=IDS), run(parse(unmarked(text)), input_ids=IDS)
    )


def test_a_reader_of_the_token_ids_that_is_not_a_lookup_keeps_its_layout(
    parse: Parse, nodes: Nodes
) -> None:
    text = WITH_HEAD.replace("  embedded =", "  length = Shape(input_ids)\n  embedded =")
    model = parse(text)
    sequence_first(model)
    assert "Shape(input_ids)" in nodes(model)


def test_a_graph_without_a_mark_is_left_alone(parse: Parse, nodes: Nodes) -> None:
    model = parse(unmarked(ENCODER))
    before = nodes(model)
    assert sequence_first(model) == 0
    assert nodes(model) == before
