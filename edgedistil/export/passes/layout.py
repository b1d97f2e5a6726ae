"""Sequence-first activations: (L, B, D) inside the graph, (B, L) and (B, L, D) at its ends."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import graph_input, insert, replace_output

# Operators that mark a value in a traced graph: the encoder's last hidden state, and the output of
# embeddings that combine the vectors of neighbouring tokens.
LAST_HIDDEN_STATE = "LastHiddenState"
EMBEDDINGS = "Embeddings"


def sequence_first(model: ir.Model) -> int:
    """Transposes token ids and token types at the start, and the last hidden state at the end.

    Requires: the graph of `trace_model`: every node in between treats a row as a row. Embeddings
        that combine neighbours do not, and are marked: there the vectors are transposed.
    Ensures: the MatMuls of attention can read heads of (L, B, H, D) by stride, which they cannot of
        (B, L, H, D). Three transposes a layer become unnecessary, and the new ones cost nothing for
        a single sequence (docs/log.md#sequence-first-activations).
    """
    graph = model.graph
    ends = [node for node in graph if node.op_type == LAST_HIDDEN_STATE]
    if not ends:
        return 0
    starts = [node for node in graph if node.op_type == EMBEDDINGS]
    for mark in starts:
        _transpose_at(mark, name="embeddings/turned")
    if not starts:
        for name in ("input_ids", "token_type_ids"):
            _transpose_lookups(graph, name)
    for mark in ends:
        _transpose_at(mark, name="encoder/turned")
    return 1


def _transpose_lookups(graph: ir.Graph, name: str) -> None:
    """Makes the embedding lookups of an input read it as (L, B)."""
    ids_BL = graph_input(graph, name)
    if ids_BL is None:
        return
    # Other readers, such as the length of the sequence, need (B, L).
    lookups = [use for use in ids_BL.uses() if use.node.op_type == "Gather" and use.idx == 1]
    for use in lookups:
        (ids_LB,) = insert(
            use.node, "Transpose", [ids_BL], name=f"{name}/turned", attributes={"perm": [1, 0]}
        )
        use.node.replace_input_with(1, ids_LB)


def _transpose_at(mark: ir.Node, *, name: str) -> None:
    """Replaces a mark by a transpose of its first two axes; a graph output keeps its name."""
    order = {"perm": [1, 0, 2]}
    (turned,) = insert(mark, "Transpose", [mark.inputs[0]], name=name, attributes=order)
    old, graph = mark.outputs[0], mark.graph
    assert isinstance(graph, ir.Graph)
    if old.is_graph_output():
        replace_output(graph, old, turned, old_name=f"{old.name}/marked")
    old.replace_all_uses_with(turned)
    graph.remove(mark)
