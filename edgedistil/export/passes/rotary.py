"""Attention with rotary positions, to all tokens or to a window, in bounded memory.

A window of 64 tokens on each side makes most scores of a long text superfluous. The queries are
taken in blocks, and each block reads the keys within reach: a local layer holds L × 256 scores
instead of L × L. Layers that attend to all tokens compute their blocks one after the other.
A text of one block is computed as a complete matrix, so short texts lose nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import onnx_ir as ir

from edgedistil.export.passes.call_values import (
    CallValues,
    Insert,
    domain_of,
    inserter,
    record_scale,
)
from edgedistil.export.passes.edit import constant_array, replace_value

# Operator of a traced attention.
ROTARY_ATTENTION = "RotaryAttention"
# Queries of a block. With 12 heads and 8,192 keys its scores are 50 MB; 64 and 256 measured slower
# (docs/log.md#queries-in-blocks).
BLOCK = 128


def fuse_rotary_attention(model: ir.Model) -> int:
    """Lowers each traced attention with rotary positions.

    Requires: the graph of `trace_model`, after `sequence_first`.
    Ensures: query and key are rotated by one operator each, where their projections wrote them. No
        layer with a window holds an L × L matrix, and of the others one block of it at a time.
        Angles, indices of the blocks and masks are computed once for the complete graph.
    """
    nodes = [node for node in model.graph if node.op_type == ROTARY_ATTENTION]
    if not nodes:
        return 0
    shared = _Shared(model.graph)
    for node in nodes:
        is_local = node.attributes["window"].as_int() >= 0
        lower = _lower_local if is_local else _lower_global
        replace_value(node.outputs[0], lower(node, shared))
    return len(nodes)


# --- values that all layers read -----------------------------------------------------------------


class _Shared(CallValues):
    """Also the places of the tokens, and the division of the queries into blocks."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._windows: dict[int, _Window] = {}
        self._merged: dict[int, ir.Value] = {}

    @cached_property
    def places(self) -> ir.Value:
        """Place of each token in its sequence, which selects its angles."""
        places = self.range(self.length, "places")
        column = self.op("Unsqueeze", places, self.vector(1), name="places/column")
        shape = self.op("Concat", self.length, self.batch, name="places/shape", axis=0)
        return self.op("Expand", column, shape, name="places/of_all")

    @cached_property
    def blocks(self) -> _Blocks:
        """Division of the queries into blocks."""
        return _Blocks(self)

    def window(self, reach: int) -> _Window:
        """Keys of each block in layers with that window."""
        if reach not in self._windows:
            self._windows[reach] = _Window(self, reach)
        return self._windows[reach]

    def merged_shape(self, width: int) -> ir.Value:
        """Shape (N · C, B, width) for a reshape."""
        if width not in self._merged:
            sizes = [self.vector(-1), self.batch, self.vector(width)]
            self._merged[width] = self.op("Concat", *sizes, name=f"blocks/merged_{width}", axis=0)
        return self._merged[width]


class _Blocks:
    """Division of L queries into N blocks of C, as equal as possible.

    Attributes:
        count: N, shape (1,).
        size: C, shape (1,).
        rows_NC: Row of each query; the last row again where the blocks have more places.
        rows_CN: The same, for operators that take the batch axes in the middle.
    """

    def __init__(self, shared: _Shared) -> None:
        op, one = shared.op, shared.vector(1)
        last = op("Sub", shared.length, one, name="blocks/last")
        # N = ⌈L / BLOCK⌉, C = ⌈L / N⌉
        full = op("Div", last, shared.vector(BLOCK), name="blocks/full")
        self.count = op("Add", full, one, name="blocks/count")
        rest = op("Div", last, self.count, name="blocks/rest")
        self.size = op("Add", rest, one, name="blocks/size")
        total = op("Mul", self.count, self.size, name="blocks/total")
        places = op("Min", shared.range(total, "blocks/places"), last, name="blocks/clipped")
        shape = op("Concat", self.count, self.size, name="blocks/shape", axis=0)
        self.rows_NC = op("Reshape", places, shape, name="blocks/rows")
        self.rows_CN = op("Transpose", self.rows_NC, name="blocks/rows_turned", perm=[1, 0])


class _Window:
    """Keys that each block of queries reads, and their mask.

    Attributes:
        keys_KN: Row of each key.
        mask_NB1CK: 0 where a query attends to a key; below it at padding and out of reach.
    """

    def __init__(self, shared: _Shared, reach: int) -> None:
        op, blocks, length = shared.op, shared.blocks, shared.length
        name = f"window_{reach}"
        # K = min(C + 2 · reach, L) keys from the first that the block's first query reaches.
        widest = op("Add", blocks.size, shared.vector(2 * reach), name=f"{name}/widest")
        count = op("Min", widest, length, name=f"{name}/count")
        number = shared.range(blocks.count, f"{name}/block")
        first = op("Mul", number, blocks.size, name=f"{name}/first")
        reached = op("Sub", first, shared.vector(reach), name=f"{name}/reached")
        # Moved into the text at its ends, where fewer keys are within reach.
        latest = op("Sub", length, count, name=f"{name}/latest")
        clipped = op("Min", reached, latest, name=f"{name}/not_behind")
        start = op("Max", clipped, shared.vector(0), name=f"{name}/start")
        column = op("Unsqueeze", start, shared.vector(1), name=f"{name}/column")
        offsets = shared.range(count, f"{name}/offsets")
        keys_NK = op("Add", column, offsets, name=f"{name}/keys")
        self.keys_KN = op("Transpose", keys_NK, name=f"{name}/keys_turned", perm=[1, 0])
        far_N11CK = self._far(shared, keys_NK, reach, name)
        padding_NB11K = self._padding(shared, keys_NK, name)
        self.mask_NB1CK = op("Add", far_N11CK, padding_NB11K, name=f"{name}/mask")

    def _far(self, shared: _Shared, keys_NK: ir.Value, reach: int, name: str) -> ir.Value:
        op = shared.op
        queries = op("Unsqueeze", shared.blocks.rows_NC, shared.vector(2), name=f"{name}/queries")
        keys = op("Unsqueeze", keys_NK, shared.vector(1), name=f"{name}/keys_of_all")
        signed = op("Sub", queries, keys, name=f"{name}/signed")
        distance = op("Abs", signed, name=f"{name}/distance")
        is_far = op("Greater", distance, shared.vector(reach), name=f"{name}/is_far")
        numbers = op("Cast", is_far, name=f"{name}/far", to=int(ir.DataType.FLOAT))
        scores = op("Mul", numbers, shared.masked_score(), name=f"{name}/far_scores")
        return op("Unsqueeze", scores, shared.vector(1, 2), name=f"{name}/far_of_all")

    def _padding(self, shared: _Shared, keys_NK: ir.Value, name: str) -> ir.Value:
        op = shared.op
        padding_BNK = op("Gather", shared.padding_bias, keys_NK, name=f"{name}/padding", axis=1)
        padding_NBK = op("Transpose", padding_BNK, name=f"{name}/padding_turned", perm=[1, 0, 2])
        return op("Unsqueeze", padding_NBK, shared.vector(2, 3), name=f"{name}/padding_of_all")


# --- one layer -----------------------------------------------------------------------------------


def _lower_local(node: ir.Node, shared: _Shared) -> ir.Value:
    """Inserts an attention to a window; returns its context, (L, B, H · D)."""
    op, heads = inserter(node), _Heads(node)
    window = shared.window(node.attributes["window"].as_int())
    query, key, value = _rotated(node, shared, op)
    # Blocks are a batch axis behind the rows: (C, N, B, H, D) and (K, N, B, H, D).
    rows = {"query": shared.blocks.rows_CN, "key": window.keys_KN, "value": window.keys_KN}
    parts = []
    for role, states in (("query", query), ("key", key), ("value", value)):
        taken = op("Gather", states, rows[role], name=f"{heads.module}/{role}_blocks", axis=0)
        shape = shared.vector(0, 0, 0, *heads.split(role))
        parts.append(op("Reshape", taken, shape, name=f"{heads.module}/{role}_heads"))
    mask = heads.widen_mask(window.mask_NB1CK, shared, axis=2)
    context = _attend(op, heads, parts[0], parts[1], parts[2], mask)
    # (N, B, H, C, D) → (N, C, B, H, D)
    last = len(heads.split("query")) + 2
    order = [0, last - 1, *range(1, last - 1), last]
    turned = op("Transpose", context, name=f"{heads.module}/turned", perm=order)
    return _merge_blocks(turned, heads, shared, op)


def _lower_global(node: ir.Node, shared: _Shared) -> ir.Value:
    """Inserts an attention to all tokens, a block of queries at a time; as `_lower_local`."""
    op, heads = inserter(node), _Heads(node)
    query, key, value = _rotated(node, shared, op)
    blocks = op("Gather", query, shared.blocks.rows_NC, name=f"{heads.module}/query_blocks", axis=0)
    shape = shared.vector(0, 0, 0, *heads.split("query"))
    query_NCBHD = op("Reshape", blocks, shape, name=f"{heads.module}/query_heads")
    key, value = (
        op(
            "Reshape",
            states,
            shared.vector(0, 0, *heads.split(role)),
            name=f"{heads.module}/{role}_heads",
        )
        for role, states in (("key", key), ("value", value))
    )
    mask = shared.padding(len(heads.split("query")) + 2)
    body = _scan_body(heads, key, value, mask, shared)
    contexts = op("Scan", query_NCBHD, name=f"{heads.module}/blocks", body=body, num_scan_inputs=1)
    return _merge_blocks(contexts, heads, shared, op)


def _scan_body(
    heads: _Heads, key: ir.Value, value: ir.Value, mask: ir.Value, shared: _Shared
) -> ir.Graph:
    """Graph that attends with one block of queries; keys and values are the outer graph's."""
    query = ir.Value(name=f"{heads.module}/block", type=ir.TensorType(ir.DataType.FLOAT))
    nodes: list[ir.Node] = []

    def append(op_type: str, *inputs: ir.Value | None, name: str, **attributes: Any) -> ir.Value:
        domain = domain_of(op_type)
        node = ir.node(op_type, inputs, attributes=attributes, domain=domain, name=name)
        node.outputs[0].name = f"{name}/output"
        nodes.append(node)
        return node.outputs[0]

    context = _attend(append, heads, query, key, value, mask)
    # (B, H, C, D) → (C, B, H, D) → (C, B, H · D)
    last = len(heads.split("query")) + 1
    order = [last - 1, *range(last - 1), last]
    turned = append("Transpose", context, name=f"{heads.module}/turned", perm=order)
    merged = append("Reshape", turned, shared.vector(0, 0, -1), name=f"{heads.module}/merged")
    merged.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Graph([query], [merged], nodes=nodes, name=f"{heads.module}/block_of_queries")


def _attend(
    op: Insert,
    heads: _Heads,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value,
) -> ir.Value:
    """Inserts softmax(q kᵀ · scale + mask) v on rows in front of batch axes."""
    module = heads.module
    # FusedMatMul reads the batch axes behind the rows by stride.
    by_stride = {"transBatchA": 1, "transBatchB": 1, "transB": 1}
    scores = op("FusedMatMul", query, key, name=f"{module}/scores", alpha=heads.scale, **by_stride)
    record_scale(scores)
    masked = op("Add", scores, mask, name=f"{module}/masked")
    weights = op("Softmax", masked, name=f"{module}/weights", axis=-1)
    return op("FusedMatMul", weights, value, name=f"{module}/context", transBatchB=1)


def _rotated(node: ir.Node, shared: _Shared, op: Insert) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Query and key with their places' angles, and the value; (L, B, H · D) each."""
    query, key, value, _mask, cos, sin = node.inputs
    assert query is not None and key is not None and value is not None
    module = _Heads(node).module
    # The operator takes (batch, length, width): each place is a batch of its own here.
    rotated_query, rotated_key = (
        op("RotaryEmbedding", x, shared.places, cos, sin, name=f"{module}/rotated_{role}")
        for role, x in (("query", query), ("key", key))
    )
    return rotated_query, rotated_key, value


def _merge_blocks(blocks: ir.Value, heads: _Heads, shared: _Shared, op: Insert) -> ir.Value:
    """(N, C, B, …) → (L, B, H · D), without the places that have no query."""
    width = shared.merged_shape(heads.width)
    merged = op("Reshape", blocks, width, name=f"{heads.module}/blocks_merged")
    start = shared.vector(0)
    return op("Slice", merged, start, shared.length, start, name=f"{heads.module}/rows")


class _Heads:
    """How a traced attention divides its states into heads.

    Attributes:
        module: Name of the attention's module.
        scale: Factor of the scores.
        width: H · D.
    """

    def __init__(self, node: ir.Node) -> None:
        self.module = (node.name or "attention").rsplit("/", 1)[0]
        self.scale = node.attributes["scale"].as_float()
        self._count = node.attributes["heads"].as_int()
        self._kv_count = node.attributes["kv_heads"].as_int()
        cos_PD = constant_array(node.inputs[4])
        assert cos_PD is not None
        self.width = self._count * 2 * cos_PD.shape[1]

    @property
    def grouped(self) -> bool:
        """Whether several heads of the query share one of key and value."""
        return self._kv_count < self._count

    def split(self, role: str) -> tuple[int, ...]:
        """Last axes of query, key or value, for a reshape."""
        if not self.grouped:
            return self._count, -1
        # The query's heads of a group are an axis, over which key and value are broadcast.
        size = self._count // self._kv_count if role == "query" else 1
        return self._kv_count, size, -1

    def widen_mask(self, mask: ir.Value, shared: _Shared, *, axis: int) -> ir.Value:
        """A mask with an axis for the heads of a group, if there are groups."""
        if not self.grouped:
            return mask
        return shared.op("Unsqueeze", mask, shared.vector(axis), name=f"{self.module}/mask")
