from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes.choices import merge_choices, split_choices

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run

# As the tracer writes it: rows of all choices, a score of each, and a row for each question.
GRAPH = """
choices (int64[B, C, L] input_ids, int64[B, C, L] attention_mask) => (float[B, C] logits)
<int64[2] rows = {-1, 3}, int64[2] questions = {-1, 2}, int64[1] one = {1}>
{
  ids = Reshape(input_ids, rows)
  mask = Reshape(attention_mask, rows)
  kept = Mul(ids, mask)
  sums = ReduceSum<keepdims = 1>(kept, one)
  scores = Cast<to = 1>(sums)
  logits = Reshape(scores, questions)
}
"""
IDS = np.arange(12).reshape(2, 2, 3)
MASK = np.array([[[1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 1]]])
SCORES = np.array([[1.0, 12.0], [6.0, 30.0]], np.float32)


def test_between_the_two_passes_a_graph_is_of_sequences(parse: Parse, nodes: Nodes) -> None:
    model = parse(GRAPH)
    assert merge_choices(model) == 3
    assert nodes(model)[2:5] == [
        "Mul(input_ids, attention_mask)",
        "ReduceSum(kept, one)",
        "Cast(sums)",
    ]
    assert [output.name for output in model.graph.outputs] == ["logits"]


def test_every_number_of_questions_and_choices_is_right(parse: Parse, run: Run) -> None:
    model = parse(GRAPH)
    np.testing.assert_array_equal(run(model, input_ids=IDS, attention_mask=MASK), SCORES)
    assert merge_choices(model) == 3
    assert split_choices(model) == 3
    np.testing.assert_array_equal(run(model, input_ids=IDS, attention_mask=MASK), SCORES)
    # The traced graph has two choices; this one any number.
    one, three = IDS.reshape(1, 4, 3), np.concatenate([MASK, MASK]).reshape(1, 8, 3)[:, :4]
    np.testing.assert_array_equal(
        run(model, input_ids=one, attention_mask=three), SCORES.reshape(1, 4)
    )


def test_a_graph_without_choices_is_left_alone(parse: Parse) -> None:
    model = parse("g (int64[B, L] input_ids) => (int64[B, L] y) { y = Neg(input_ids) }")
    assert merge_choices(model) == split_choices(model) == 0
