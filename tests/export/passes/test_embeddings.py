from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.embeddings import slice_positions

if TYPE_CHECKING:
    from tests.export.passes.conftest import Parse, Run


POSITIONS = """
positions (int64[B, L] input_ids) => (float[M, N, 2] y)
<float[5, 2] "bert.embeddings.position_embeddings.weight" = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
 int64[1, 3] position_ids = {0, 1, 2}>
{
  rows = Gather("bert.embeddings.position_embeddings.weight", position_ids)
  y = Neg(rows)
}
"""


def test_the_gather_becomes_a_slice_of_as_many_rows_as_there_are_tokens(
    parse: Parse, run: Run
) -> None:
    model = parse(POSITIONS)
    assert slice_positions(model) == 1
    drop_unused(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Slice", "Unsqueeze", "Neg"]
    assert "position_ids" not in model.graph.initializers
    expected_PD = -np.arange(10, dtype=np.float32).reshape(5, 2)
    for length in (1, 4):
        rows_L1D = run(model, input_ids=np.zeros((3, length), np.int64))
        np.testing.assert_array_equal(rows_L1D, expected_PD[:length, None])


def test_another_lookup_is_left_alone(parse: Parse) -> None:
    assert slice_positions(parse(POSITIONS.replace("position_embeddings", "word_embeddings"))) == 0
