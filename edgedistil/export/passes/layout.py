"""Sequence-first activations: (L, B, D) inside the graph, (B, L) and (B, L, D) at its ends."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import graph_input, insert, replace_output


def sequence_first(model: ir.Model) -> int:
    """Transposes token ids and token types at the start, and the last hidden state at the end.

    Requires: the graph of `trace_model`: every node in between treats a row as a row.
    Ensures: the MatMuls of attention can read heads of (L, B, H, D) by stride, which they cannot of
        (B, L, H, D). Three transposes a layer become unnecessary, and the new ones cost nothing for
        a single sequence (docs/log.md#sequence-first-activations).
    """
    graph = model.graph
    norms = [node for node in graph if _is_layer_norm_of_a_layer(node)]
    if not norms:
        return 0
    for name in ("input_ids", "token_type_ids"):
        _transpose_lookups(graph, name)
    _transpose_back(graph, norms[-1])
    return 1


def _is_layer_norm_of_a_layer(node: ir.Node) -> bool:
    # The embeddings and a masked-LM head have a LayerNorm too; their names hold no `layer.N`.
    return node.op_type == "LayerNormalization" and "layer." in (node.name or "")


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


def _transpose_back(graph: ir.Graph, last_norm: ir.Node) -> None:
    """Makes all readers of the last hidden state, an output too, read it as (B, L, D)."""
    hidden_LBD = last_norm.outputs[0]
    uses = list(hidden_LBD.uses())
    is_output = hidden_LBD.is_graph_output()

    node = ir.node("Transpose", [hidden_LBD], attributes={"perm": [1, 0, 2]}, name="encoder/turned")
    hidden_BLD = node.outputs[0]
    readers = [
        reader for reader in graph if reader is not last_norm and hidden_LBD in reader.inputs
    ]
    # The transpose precedes its first reader, so that the nodes stay sorted.
    # In an encoder without a head no node reads the norm.
    if readers:
        hidden_BLD.name = "encoder/turned/output"
        graph.insert_before(readers[0], node)
    else:
        graph.insert_after(last_norm, node)

    for use in uses:
        use.node.replace_input_with(use.idx, hidden_BLD)
    if is_output:
        replace_output(graph, hidden_LBD, hidden_BLD, old_name=f"{last_norm.name}_output")
