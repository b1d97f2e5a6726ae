"""DeBERTa's attention in operators of onnxruntime.

The score of query i and key j has a product with the vector of the distance i - j. All products of
a query with the vectors of its distances are one MatMul. Row i needs its part of the columns, one
column further left than the row above: read as one long row and cut into rows of one less, the
parts are aligned. So nothing is gathered element by element (docs/log.md#scores-by-distance).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import onnx_ir as ir

from edgedistil.export.passes.call_values import CallValues, Insert, inserter, record_scale
from edgedistil.export.passes.edit import constant_array, replace_value

# Operator of a traced attention.
DISENTANGLED_ATTENTION = "DisentangledAttention"


def fuse_disentangled_attention(model: ir.Model) -> int:
    """Lowers each traced attention with vectors of distances.

    Requires: the graph of `trace_model`, after `sequence_first`.
    Ensures: as `fuse_attention`. The vectors depend on weights only, so a session computes them
        once, when it starts; which distance has which vector is a constant.
    """
    nodes = [node for node in model.graph if node.op_type == DISENTANGLED_ATTENTION]
    if not nodes:
        return 0
    shared = _Shared(model.graph)
    for node in nodes:
        replace_value(node.outputs[0], _lower(node, shared))
    return len(nodes)


class _Shared(CallValues):
    """Also the rows of the distances of a call, and shapes and limits of their scores."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._rows: dict[str, ir.Value] = {}

    @cached_property
    def before_last(self) -> ir.Value:
        """L - 1, shape (1,)."""
        return self.op("Sub", self.length, self.vector(1), name="distances/before_last")

    @cached_property
    def shifted_shape(self) -> ir.Value:
        """Shape (B, H, L, 2L - 1) for a reshape."""
        sizes = [self.vector(0, 0), self.length, self.vector(-1)]
        return self.op("Concat", *sizes, name="distances/shifted_shape", axis=0)

    def rows(self, table_2P: ir.Value) -> ir.Value:
        """Rows of the 2L distances that a text of L tokens has, from those of the longest text."""
        name = table_2P.name or ""
        if name not in self._rows:
            table = constant_array(table_2P)
            assert table is not None
            middle = self.vector(len(table) // 2)
            role = name.rsplit(".", 1)[-1]
            start = self.op("Sub", middle, self.length, name=f"distances/{role}_start")
            end = self.op("Add", middle, self.length, name=f"distances/{role}_end")
            axis = self.vector(0)
            self._rows[name] = self.op(
                "Slice", table_2P, start, end, axis, name=f"distances/{role}"
            )
        return self._rows[name]


def _lower(node: ir.Node, shared: _Shared) -> ir.Value:
    """Inserts the operators of one attention; returns its context, (L, B, H · D)."""
    op = inserter(node)
    module = (node.name or "attention").rsplit("/", 1)[0]
    heads = node.attributes["heads"].as_int()
    split = shared.vector(0, 0, heads, -1)
    query, key, value = (
        op("Reshape", states, split, name=f"{module}/{role}_heads")
        for role, states in zip(("query", "key", "value"), node.inputs[:3], strict=True)
    )
    attributes = {"alpha": node.attributes["scale"].as_float(), **_BY_STRIDE}
    terms = [op("FusedMatMul", query, key, name=f"{module}/scores", **attributes)]
    record_scale(terms[0])
    rows_down, rows_up, pos_key, pos_query = node.inputs[4:8]
    # Queries against the distances of the keys, and keys against those of the queries.
    for role, states, rows, vectors in (
        ("query", query, rows_down, pos_key),
        ("key", key, rows_up, pos_query),
    ):
        if not _is_left_out(vectors):
            name = f"{module}/{role}_distances"
            products = _products(op, shared, states, rows, vectors, heads, attributes, name)
            terms.append(_shift(op, shared, products, name))
    if not _is_left_out(pos_query):
        # Rows are keys there.
        turned = {"perm": [0, 1, 3, 2]}
        terms[-1] = op("Transpose", terms[-1], name=f"{module}/key_distances/turned", **turned)
    summed = op("Sum", *terms, name=f"{module}/summed") if len(terms) > 1 else terms[0]
    masked = op("Add", summed, shared.padding(4), name=f"{module}/masked")
    weights = op("Softmax", masked, name=f"{module}/weights", axis=-1)
    context = op("FusedMatMul", weights, value, name=f"{module}/context", transBatchB=1)
    # (B, H, L, D) → (L, B, H, D) → (L, B, H · D)
    turned_back = op("Transpose", context, name=f"{module}/turned", perm=[2, 0, 1, 3])
    return op("Reshape", turned_back, shared.vector(0, 0, -1), name=f"{module}/merged")


# FusedMatMul reads the batch axes behind the rows by stride.
_BY_STRIDE = {"transBatchA": 1, "transBatchB": 1, "transB": 1}


def _is_left_out(value: ir.Value | None) -> bool:
    """Whether an input of the traced node means None."""
    array = constant_array(value)
    return array is not None and array.size == 0


def _products(
    op: Insert,
    shared: _Shared,
    states: ir.Value,
    rows: ir.Value | None,
    vectors: ir.Value | None,
    heads: int,
    attributes: Mapping[str, float],
    name: str,
) -> ir.Value:
    """Inserts the products of queries or keys with the vectors of all distances, (B, H, L, 2L)."""
    assert rows is not None
    taken = op("Gather", vectors, shared.rows(rows), name=f"{name}/vectors", axis=0)
    # The same for every sequence: (2L, 1, H, D).
    split = op("Reshape", taken, shared.vector(0, 1, heads, -1), name=f"{name}/heads")
    products = op("FusedMatMul", states, split, name=f"{name}/products", **attributes)
    record_scale(products)
    return products


def _shift(op: Insert, shared: _Shared, products: ir.Value, name: str) -> ir.Value:
    """Takes columns L - 1 - i to 2L - 2 - i of row i: (B, H, L, 2L) → (B, H, L, L)."""
    flat = op("Reshape", products, shared.vector(0, 0, -1), name=f"{name}/flat")
    # L · (2L - 1) numbers from number L - 1 on.
    last, axis = shared.vector(-1), shared.vector(2)
    rest = op("Slice", flat, shared.before_last, last, axis, name=f"{name}/rest")
    shifted = op("Reshape", rest, shared.shifted_shape, name=f"{name}/shifted")
    start, columns = shared.vector(0), shared.vector(3)
    return op("Slice", shifted, start, shared.length, columns, name=f"{name}/columns")
