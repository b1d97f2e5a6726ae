"""Work and size of an encoder's graph from its shapes alone: nothing is exported or run.

The nodes are those that onnxruntime executes of an exported graph, in one call of one text.
tests/costmodel/test_shapes.py compares the predicted times with those of counted graphs, and the
bytes with exported files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedistil.core.family_info import EMBEDDING_RANK
from edgedistil.core.model_folder import ModelFolder
from edgedistil.core.precision import PRECISIONS, Precision
from edgedistil.costmodel.workload import Arithmetic, NodeWork

# Precisions whose graphs these formulas are of.
SHAPE_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_FLOAT = 4
# Fixed part of the graph file, and what a layer adds: nodes, names and provenance. Means of
# exported encoders; the test has the error.
_GRAPH_BYTES = 20_000
_LAYER_BYTES = 8_000
# A weight of this size starts at a page of the data file, half a page of padding in the mean.
_ALIGNED_FROM_BYTES = 65_536
_HALF_PAGE_BYTES = 2_048


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of an encoder.

    Attributes:
        layers: Depth.
        hidden: Width of the states.
        heads: Attention heads of a layer.
        head_width: Width of a head.
        intermediate: Width of the feed-forward.
        vocabulary: Rows of the word-embedding matrix.
        embedding: Width of the word embeddings.
        positions: Rows of the position matrix.
        segments: Rows of the segment matrix; 0 without segments.
        rank: Columns of word embeddings that a matrix widens to `embedding`; 0 for as many.
        has_head: Whether there is a masked-LM head, tied to the word embeddings.
    """

    layers: int
    hidden: int
    heads: int
    head_width: int
    intermediate: int
    vocabulary: int
    embedding: int
    positions: int
    segments: int
    rank: int = 0
    has_head: bool = False

    @property
    def attention(self) -> int:
        """Width of query, key and value."""
        return self.heads * self.head_width

    @property
    def word_width(self) -> int:
        """Columns of the word-embedding matrix."""
        return self.rank or self.embedding

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, with its head if it has one."""
        words = (self.positions + self.segments + 2) * self.embedding
        words += self.vocabulary * self.word_width + self.rank * self.embedding
        if self.embedding != self.hidden:
            words += self.embedding * self.hidden + self.hidden
        return words + self.layers * self._layer_parameters + self._head_parameters

    @property
    def _layer_parameters(self) -> int:
        hidden, attention, inner = self.hidden, self.attention, self.intermediate
        projections = 3 * (hidden + 1) * attention + (attention + 1) * hidden
        return projections + (hidden + 1) * inner + (inner + 1) * hidden + 4 * hidden

    @property
    def _head_parameters(self) -> int:
        if not self.has_head:
            return 0
        return (self.hidden + 1) * self.embedding + 2 * self.embedding + self.vocabulary


def unsupported_reason(source: ModelFolder) -> str | None:
    """Returns why a model's graph is not one of these shapes; None if it is."""
    family = source.family
    plain = family.norm_place == "post" and family.norm_kind == "layer" and not family.gated
    if not plain or family.positions != "absolute" or family.mixes_neighbours:
        return f"the graph of a {family.model_type} is not one that sizes are known of"
    return None


def encoder_shape(source: ModelFolder, *, without_segments: bool = False) -> EncoderShape:
    """Returns the shape of a model folder's encoder.

    Args:
        source: The folder.
        without_segments: Whether segments are left out, as in a BERT's DistilBERT.
    """
    family, config = source.family, source.config
    has_segments = family.token_types and not without_segments
    return EncoderShape(
        layers=family.layers(config),
        hidden=family.hidden(config),
        heads=family.heads(config),
        head_width=family.head_width(config),
        intermediate=int(config[family.keys.intermediate]),
        vocabulary=family.vocabulary(config),
        embedding=family.embedding(config),
        positions=int(config[family.keys.positions]),
        segments=family.segments(config) if has_segments else 0,
        rank=int(config.get(EMBEDDING_RANK) or 0),
    )


# --- bytes ---------------------------------------------------------------------------------------


def graph_bytes(shape: EncoderShape, precision: Precision) -> int:
    """Returns the bytes of an exported graph with its weights.

    Weights of products and embedding matrices have the precision's bits, and in int8 a float scale
    per output or row; biases and norms stay in float32 (in fp16 they have 16 bits, too).
    """
    matrices = _matrices(shape)
    values = sum(rows * columns for rows, columns in matrices)
    others = shape.parameters - values
    padding = sum(
        _HALF_PAGE_BYTES
        for rows, columns in matrices
        if rows * columns * PRECISIONS[precision].weight_bits // 8 >= _ALIGNED_FROM_BYTES
    )
    graph = _GRAPH_BYTES + _LAYER_BYTES * shape.layers + padding
    bits = PRECISIONS[precision].weight_bits
    if precision == "int8":
        scales = sum(rows for rows, _ in matrices)
        # The tied projection reads the rows' scales in the order of its columns.
        scales += shape.vocabulary if shape.has_head else 0
        return graph + values + _FLOAT * (others + scales)
    return graph + (values + others) * bits // 8


def _matrices(shape: EncoderShape) -> list[tuple[int, int]]:
    """Outputs (or rows) and inputs (or columns) of every weight matrix."""
    hidden, attention, inner = shape.hidden, shape.attention, shape.intermediate
    layer = [(attention, hidden)] * 3 + [(hidden, attention), (inner, hidden), (hidden, inner)]
    matrices = layer * shape.layers
    matrices += [(shape.vocabulary, shape.word_width), (shape.positions, shape.embedding)]
    if shape.rank:
        matrices.append((shape.embedding, shape.rank))
    if shape.embedding != shape.hidden:
        matrices.append((hidden, shape.embedding))
    if shape.has_head:
        # The projection is the matrix of the word embeddings, which is stored once.
        matrices.append((shape.embedding, hidden))
    return matrices


# --- work ----------------------------------------------------------------------------------------


def encoder_work(shape: EncoderShape, length: int, precision: Precision) -> list[NodeWork]:
    """Returns the nodes of one call.

    Args:
        shape: The encoder.
        length: Tokens of the text.
        precision: One of `SHAPE_PRECISIONS`; fp16 weights are computed with in float32.
    """
    # Weights in 16 bits become float32 when a session starts.
    kind: Literal["fp32", "int8"] = "int8" if PRECISIONS[precision].integer_matmul else "fp32"
    graph = _Nodes(length, kind)
    _embed(graph, shape)
    for _ in range(shape.layers):
        _attend(graph, shape)
        _feed_forward(graph, shape)
    graph.copy("Transpose", shape.hidden)
    if shape.has_head:
        graph.linear(shape.hidden, shape.embedding, followed_by="Gelu")
        graph.elementwise("LayerNormalization", shape.embedding)
        graph.linear(shape.embedding, shape.vocabulary, is_tied=True)
    return graph.nodes


def _embed(graph: _Nodes, shape: EncoderShape) -> None:
    """Words, positions and segments, and their norm."""
    width = shape.embedding
    size = 1 if graph.kind == "int8" else _FLOAT
    graph.add("Slice", moved=size * (shape.positions + graph.length) * width)
    tables = 2 if shape.segments else 1
    graph.add("Gather", moved=2 * size * graph.length * shape.word_width)
    if shape.rank:
        graph.linear(shape.rank, width)
    if shape.segments:
        graph.add("Gather", moved=2 * _FLOAT * graph.length * width)
    if graph.kind == "int8":
        for _ in range(2):
            graph.add("Cast", moved=(1 + _FLOAT) * graph.length * width)
            graph.add("Mul", moved=2 * _FLOAT * graph.length * width, elements=graph.length * width)
    for _ in range(tables):
        graph.add("Add", moved=3 * _FLOAT * graph.length * width, elements=graph.length * width)
    graph.elementwise("LayerNormalization", width)
    if shape.embedding != shape.hidden:
        graph.linear(shape.embedding, shape.hidden)
    # The mask, its shape and the order of the axes.
    for op in ("Shape", "Unsqueeze", "Unsqueeze", "Transpose", "Cast"):
        graph.add(op, moved=0)
    for op in ("Sub", "Mul"):
        graph.add(op, moved=2 * _FLOAT * graph.length, elements=graph.length)


def _attend(graph: _Nodes, shape: EncoderShape) -> None:
    """One attention with its residual sum and norm."""
    length, heads, width = graph.length, shape.heads, shape.attention
    graph.linear(shape.hidden, width, readers=3)
    for _ in range(4):
        graph.add("Reshape", moved=0)
    scores = heads * length * length
    # Query and key are read, scores are written; then scores and value, and the states.
    for elements in (scores, length * width):
        graph.add(
            "FusedMatMul",
            arithmetic="fp32",
            macs=scores * shape.head_width,
            rows=heads * length,
            moved=_FLOAT * (2 * length * width + scores),
            elements=elements,
        )
    graph.add("Add", moved=_FLOAT * (2 * scores + length), elements=scores)
    graph.add("Softmax", moved=2 * _FLOAT * scores, elements=scores, heavy=True)
    graph.copy("Transpose", width)
    graph.linear(width, shape.hidden)
    _residual(graph, shape.hidden)


def _feed_forward(graph: _Nodes, shape: EncoderShape) -> None:
    graph.linear(shape.hidden, shape.intermediate, followed_by="Gelu")
    graph.linear(shape.intermediate, shape.hidden)
    _residual(graph, shape.hidden)


def _residual(graph: _Nodes, width: int) -> None:
    graph.add("Sum", moved=3 * _FLOAT * graph.length * width, elements=graph.length * width)
    graph.elementwise("LayerNormalization", width)


class _Nodes:
    """Collects the nodes of one call."""

    def __init__(self, length: int, kind: Literal["fp32", "int8"]) -> None:
        """Starts an empty graph.

        Args:
            length: Tokens of the text.
            kind: Arithmetic of the linear layers.
        """
        self.length, self.kind = length, kind
        self.nodes: list[NodeWork] = []

    def add(
        self,
        op: str,
        *,
        moved: int,
        elements: int = 0,
        macs: int = 0,
        rows: int = 0,
        arithmetic: Arithmetic = "none",
        heavy: bool = False,
    ) -> None:
        """Appends a node without weights."""
        self.nodes.append(NodeWork("", op, arithmetic, macs, 0, rows, moved, elements, heavy))

    def copy(self, op: str, width: int) -> None:
        """Appends a node that moves the states."""
        self.add(op, moved=2 * _FLOAT * self.length * width)

    def elementwise(self, op: str, width: int) -> None:
        """Appends a node that reads and writes the states, with two vectors of constants."""
        elements = self.length * width
        self.add(op, moved=2 * _FLOAT * (elements + width), elements=elements)

    def linear(
        self,
        inputs: int,
        outputs: int,
        *,
        readers: int = 1,
        followed_by: str | None = None,
        is_tied: bool = False,
    ) -> None:
        """Appends linear layers that read the same states, and an activation behind them.

        Args:
            inputs, outputs: Widths.
            readers: Number of layers.
            followed_by: Operator of the activation; None without one.
            is_tied: Whether the weight is the word-embedding matrix, which a float kernel
                reads as it is stored, in every call.
        """
        length, elements = self.length, self.length * outputs
        shared = self.kind == "int8" and readers > 1
        if shared:
            self.add("DynamicQuantizeLinear", moved=5 * length * inputs, elements=length * inputs)
        for _ in range(readers):
            stored = _FLOAT * inputs * outputs if is_tied and self.kind == "fp32" else 0
            self._product(inputs, outputs, input_bytes=1 if shared else _FLOAT, stored=stored)
            if self.kind == "fp32":
                op = "Add" if followed_by is None else "Sum"
                self.add(op, moved=_FLOAT * (2 * elements + outputs), elements=elements)
        if followed_by is not None:
            self.add(followed_by, moved=2 * _FLOAT * elements, elements=elements, heavy=True)

    def _product(self, inputs: int, outputs: int, *, input_bytes: int, stored: int) -> None:
        length = self.length
        constants = 2 * _FLOAT * outputs if self.kind == "int8" else 0
        self.nodes.append(
            NodeWork(
                name="",
                op="DynamicQuantizeMatMul" if self.kind == "int8" else "FusedMatMul",
                arithmetic=self.kind,
                macs=length * inputs * outputs,
                weight_bytes=inputs * outputs * (1 if self.kind == "int8" else _FLOAT),
                rows=length,
                moved_bytes=length * (input_bytes * inputs + _FLOAT * outputs) + constants + stored,
                elements=length * outputs,
                heavy=False,
            )
        )
