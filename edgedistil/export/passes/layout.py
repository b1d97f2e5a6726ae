"""Sequence-first activations: (L, B, D) inside, (B, L) and (B, L, D) at the door."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import insert


def sequence_first(model: ir.Model) -> int:
    """Token ids and token types are transposed on the way in, the encoder's last hidden state on the way out.

    Requires: the graph of `trace`. Everything between treats a row as a row.
    Ensures: with (L, B, H, D) the products of attention can read heads by stride, which they cannot with (B, L, H, D);
        three transposes a layer go, and what comes is free for one sequence.
    """
    graph = model.graph
    for name in ("input_ids", "token_type_ids"):
        given = next((value for value in graph.inputs if value.name == name), None)
        gathers = (
            [use for use in given.uses() if use.node.op_type == "Gather" and use.idx == 1]
            if given
            else []
        )
        for use in gathers:
            (turned,) = insert(
                use.node, "Transpose", [given], name=f"{name}/turned", attributes={"perm": [1, 0]}
            )
            use.node.replace_input_with(1, turned)
    last = [
        node
        for node in graph
        if node.op_type == "LayerNormalization" and "layer." in (node.name or "")
    ][-1]
    hidden = last.outputs[0]
    readers = list(hidden.uses())
    is_output = hidden.is_graph_output()
    after = next((node for node in graph if node is not last and hidden in node.inputs), None)
    (turned,) = _after(graph, last, after, hidden)
    for use in readers:
        use.node.replace_input_with(use.idx, turned)
    if is_output:
        turned.type, turned.shape = hidden.type, hidden.shape
        index = next(i for i, each in enumerate(graph.outputs) if each is hidden)
        name, hidden.name = hidden.name or "", f"{last.name}_output"
        turned.name = name
        graph.outputs[index] = turned
    return 1


def _after(
    graph: ir.Graph, last: ir.Node, reader: ir.Node | None, hidden: ir.Value
) -> list[ir.Value]:
    if reader is not None:
        return insert(
            reader, "Transpose", [hidden], name="encoder/turned", attributes={"perm": [1, 0, 2]}
        )
    node = ir.node("Transpose", [hidden], attributes={"perm": [1, 0, 2]}, name="encoder/turned")
    graph.insert_after(last, node)
    return list(node.outputs)
