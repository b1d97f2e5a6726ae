from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from edgedistil.export.passes import drop_unused, weight_bytes
from edgedistil.export.passes.constants import name_constants, read_weights_as_stored

if TYPE_CHECKING:
    from tests.export.passes.conftest import Nodes, Parse, Run


LINEAR = """
linear (float[B, 3] x) => (float[B, 2] y)
<float[2, 3] weight = {1, 2, 3, 4, 5, 6}>
{
  transposed = Transpose<perm = [1, 0]>(weight)
  ["lin/MatMul"] y = MatMul(x, transposed)
}
"""
TIED = """
tied (int64[B] ids) => (float[B, 2] y)
<float[2, 3] words = {1, 2, 3, 4, 5, 6}>
{
  rows = Gather(words, ids)
  transposed = Transpose<perm = [1, 0]>(words)
  y = MatMul(rows, transposed)
}
"""
CONSTANTS = """
constants (float[2] x) => (float[2] y)
{
  a = Constant<value = float[2] {1, 2}>()
  b = Constant<value = float[2] {1, 2}>()
  s = Constant<value = float {0.5}>()
  sum = Add(x, a)
  twice = Add(sum, b)
  y = Mul(twice, s)
}
"""


def test_a_transposed_weight_is_read_as_it_is_stored(parse: Parse, run: Run, nodes: Nodes) -> None:
    model = parse(LINEAR)
    x = np.array([[1, 0, -1], [2, 2, 2]], np.float32)
    expected = run(model, x=x)
    assert read_weights_as_stored(model) == 1
    drop_unused(model)
    assert nodes(model) == ["FusedMatMul(x, weight)"]
    (node,) = model.graph
    assert node.name == "lin/MatMul"
    np.testing.assert_array_equal(run(model, x=x), expected)


def test_both_readers_of_a_tied_weight_read_the_same_bytes(
    parse: Parse, run: Run, nodes: Nodes
) -> None:
    model = parse(TIED)
    ids = np.array([1, 0, 1])
    expected, size = run(model, ids=ids), weight_bytes(model)
    assert read_weights_as_stored(model) == 1
    drop_unused(model)
    assert nodes(model) == ["Gather(words, ids)", "FusedMatMul(rows, words)"]
    assert weight_bytes(model) == size
    np.testing.assert_array_equal(run(model, ids=ids), expected)


def test_a_transpose_of_an_activation_is_left_alone(parse: Parse) -> None:
    text = LINEAR.replace("(float[B, 3] x)", "(float[B, 3] x, float[2, 3] weight)")
    text = text.replace("<float[2, 3] weight = {1, 2, 3, 4, 5, 6}>\n", "")
    assert read_weights_as_stored(parse(text)) == 0


def test_equal_constants_become_one_initializer_that_is_named_after_its_values(
    parse: Parse, run: Run, nodes: Nodes
) -> None:
    model = parse(CONSTANTS)
    x = np.array([3, 5], np.float32)
    expected = run(model, x=x)
    assert name_constants(model) == 3
    drop_unused(model)
    assert set(model.graph.initializers) == {
        "constant/float32/2/1_2",
        "constant/float32/scalar/0.5",
    }
    assert model.graph.initializers["constant/float32/scalar/0.5"].shape == ()
    assert [line.split("(")[0] for line in nodes(model)] == ["Add", "Add", "Mul"]
    np.testing.assert_array_equal(run(model, x=x), expected)
    assert name_constants(model) == 0


def test_a_large_constant_is_named_by_its_digest(parse: Parse) -> None:
    values = ", ".join(["1"] * 65)
    text = f"""
    large (float[65] x) => (float[65] y)
    {{
      c = Constant<value = float[65] {{{values}}}>()
      y = Add(x, c)
    }}
    """
    model = parse(text)
    assert name_constants(model) == 1
    (name,) = model.graph.initializers
    assert re.fullmatch(r"constant/float32/65/[0-9a-f]{16}", name)
