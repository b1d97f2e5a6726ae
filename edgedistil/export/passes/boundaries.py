"""Names of the tensors that divide the encoder into parts."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import replace_value
from edgedistil.parity.instrument import boundary_tensor

# Operator that marks such a tensor in a traced graph.
BOUNDARY = "Boundary"


def name_boundaries(model: ir.Model) -> int:
    """Names the marked tensors after the parts that they end, and removes the marks.

    Requires: a mark has the name of its part.
    Ensures: `parity.instrument` finds every part, in every precision that is made of the graph.
    """
    marks = [node for node in model.graph if node.op_type == BOUNDARY]
    for mark in marks:
        tensor = mark.inputs[0]
        assert tensor is not None
        tensor.name = boundary_tensor(mark.attributes["part"].as_string())
        replace_value(mark.outputs[0], tensor)
        # Safe: a removed node would otherwise still count as a reader of the tensor.
        model.graph.remove(mark, safe=True)
    return len(marks)


def is_boundary(value: ir.Value) -> bool:
    """Whether a value has the name of a part that ends there."""
    return (value.name or "").startswith(boundary_tensor(""))
