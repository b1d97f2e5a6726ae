"""Helpers to query and change a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.parity.formula import LITERAL_UP_TO_VALUES, META, Formula, literal
from edgedistil.parity.instrument import boundary_tensor

CONTRIB = "com.microsoft"  # domain of onnxruntime's own operators

# --- queries -------------------------------------------------------------------------------------


def graph_input(graph: ir.Graph, name: str) -> ir.Value | None:
    """The input of that name; None if the graph has no such input."""
    return next((value for value in graph.inputs if value.name == name), None)


def produced_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes `value`, if it is of that operator; otherwise None."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != op_type:
        return None
    return node


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`; None if several do, or if it is an output."""
    # A node that reads the value twice is one consumer.
    consumers = {use.node for use in value.uses()}
    if len(consumers) != 1 or value.is_graph_output():
        return None
    return next(iter(consumers))


def constant_array(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or a `Constant` node; None if the value is computed."""
    if value is None:
        return None
    # An initializer has its array; the output of a Constant node has it in the node.
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    node = produced_by(value, "Constant")
    if node is None:
        return None
    return np.asarray(node.attributes["value"].as_tensor().numpy())


# --- changes -------------------------------------------------------------------------------------


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
    """Inserts a new node in front of another one.

    Args:
        before: The node that the new one precedes.
        op_type: Operator.
        inputs: Inputs; None for an optional input that is left out.
        name: Name of the node; its outputs are named after it.
        domain: Domain of the operator; imported into the model if it is not ONNX's own.
        attributes: Attributes of the operator.
        outputs: Number of outputs.
    Returns:
        The outputs of the new node.
    """
    node = ir.node(
        op_type,
        inputs,
        attributes=dict(attributes or {}),
        domain=domain,
        num_outputs=outputs,
        name=name,
    )
    # Values get readable names, and no counter of a library is in the file.
    for index, output in enumerate(node.outputs):
        output.name = f"{name}/output_{index}" if outputs > 1 else f"{name}/output"
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    if domain:
        graph.opset_imports.setdefault(domain, 1)
    return list(node.outputs)


def add_initializer(
    graph: ir.Graph, name: str, array: NDArray[Any], formula: Formula | None = None
) -> ir.Value:
    """Adds a constant; returns the existing one if the graph has an initializer of that name.

    Args:
        graph: The graph.
        name: Name of the initializer.
        array: Its values.
        formula: How it follows from the source model, for the certificate
            (`edgedistil/parity/formula.py`). Shapes, axes and other small constants need none:
            their values are recorded. A larger array without a formula is refused at the export.
    """
    if name in graph.initializers:
        return graph.initializers[name]
    # The tensor refers to the array: nothing is copied before the graph is written.
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
    )
    graph.register_initializer(value)
    if formula is None and array.size <= LITERAL_UP_TO_VALUES:
        formula = literal(array)
    if formula is not None:
        value.meta[META] = formula
    return value


def record_attribute(node: ir.Node, name: str, formula: Formula) -> None:
    """Records what a float attribute of a node is, for the certificate."""
    node.meta[META] = {**node.meta.get(META, {}), name: formula}


def formula_of(value: ir.Value) -> Formula | None:
    """The recorded formula of an initializer; None if it has none, as in a graph from a file."""
    formula: Formula | None = value.meta.get(META)
    return formula


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes all readers of `old` read `new`; outputs and boundaries of parts keep their names."""
    if old.is_graph_output():
        graph = old.graph
        assert graph is not None
        replace_output(graph, old, new, old_name=f"{old.name}/replaced")
    elif (old.name or "").startswith(boundary_tensor("")):
        # A part is known by the name of its last tensor, also when another node computes it.
        name, old.name = old.name, f"{old.name}/replaced"
        new.name = name
    old.replace_all_uses_with(new)


def replace_output(graph: ir.Graph, old: ir.Value, new: ir.Value, *, old_name: str) -> None:
    """Makes `new` a graph output in place of `old`, under the same name.

    Args:
        graph: The graph.
        old: The output until now; the nodes that read it are not changed.
        new: Takes the name, the type and the shape of `old`.
        old_name: Name that `old` has from now on.
    """
    new.shape, new.type = old.shape, old.type
    # Two values of a graph must not have one name, not even for a moment.
    name, old.name = old.name, old_name
    new.name = name
    index = next(i for i, output in enumerate(graph.outputs) if output is old)
    graph.outputs[index] = new
