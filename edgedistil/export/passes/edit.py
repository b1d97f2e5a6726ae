"""Small words for changing a graph, so that a pass reads as what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CONTRIB = "com.microsoft"


def produced_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of that kind that makes `value`, if one does."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`; none when it has several readers or is an output."""
    users = {use.node for use in value.uses()}
    return next(iter(users)) if len(users) == 1 and not value.is_graph_output() else None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """What a constant node or an initializer holds."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = produced_by(value, "Constant")
    return np.asarray(node.attributes["value"].as_tensor().numpy()) if node is not None else None


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    name: str,
    domain: str = "",
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
) -> list[ir.Value]:
    """A new node in front of another one; returns its outputs, named after it."""
    node = ir.node(
        op_type,
        inputs,
        attributes=dict(attributes or {}),
        domain=domain,
        num_outputs=outputs,
        name=name,
    )
    for index, output in enumerate(node.outputs):
        output.name = f"{name}/output_{index}" if outputs > 1 else f"{name}/output"
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    if domain:
        graph.opset_imports.setdefault(domain, 1)
    return list(node.outputs)


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A named constant of the graph; the same name gives the same value back."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace(old: ir.Value, new: ir.Value) -> None:
    """Everyone who read `old` reads `new`; an output keeps its name."""
    graph = old.graph
    if old.is_graph_output():
        assert graph is not None
        new.shape, new.type = old.shape, old.type
        index = next(i for i, each in enumerate(graph.outputs) if each is old)
        name, old.name = old.name, f"{old.name}/replaced"
        new.name = name
        graph.outputs[index] = new
    old.replace_all_uses_with(new)
