"""Graphs of multiple choice: (B, C, L) at the ends, and B · C sequences inside."""

from __future__ import annotations

import onnx_ir as ir

from edgedistil.export.passes.edit import insert, replace_output

# Axes of an input: questions, the choices of each, and tokens.
_RANK = 3


def choice_inputs(model: ir.Model) -> list[ir.Value]:
    """Inputs of a graph that have an axis of choices."""
    inputs = model.graph.inputs
    return [value for value in inputs if value.shape is not None and len(value.shape) == _RANK]


def merge_choices(model: ir.Model) -> int:
    """Makes inputs (B · C, L) and the output (B · C, 1), as the other passes expect them.

    Requires: the graph of `trace_model`: an input is read by the reshape that merges its first two
        axes, and the output is computed by the one that splits them.
    Ensures: neither reshape is left. Returns the number of inputs and outputs that it changed.
    """
    graph, changed = model.graph, 0
    inputs = choice_inputs(model)
    for value in inputs:
        merges = [use.node for use in value.uses() if use.node.op_type == "Reshape"]
        for merge in merges:
            merge.outputs[0].replace_all_uses_with(value)
            changed += 1
    for output in list(graph.outputs) if inputs else ():
        split = output.producer()
        if split is None or split.op_type != "Reshape":
            continue
        score = split.inputs[0]
        assert score is not None
        replace_output(graph, output, score, old_name=f"{output.name}/split")
        changed += 1
    return changed


def split_choices(model: ir.Model) -> int:
    """Gives inputs and output the axis of choices.

    Requires: inputs (B · C, L) and outputs (B · C, 1), which `merge_choices` has made of three axes
        and two; all other passes have run.
    Ensures: one `Flatten` an input, and one `Reshape` an output; no shape is fixed. Returns the
        number of inputs and outputs that it changed.
    """
    graph, changed = model.graph, 0
    inputs = choice_inputs(model)
    if not inputs:
        return 0
    first = next(iter(graph))
    for value in inputs:
        outer = ir.Value(name=value.name, type=value.type, shape=value.shape)
        readers = list(value.uses())
        value.name = f"{outer.name}/replaced"
        axis = {"axis": 2}
        (merged,) = insert(first, "Flatten", [outer], name=f"{outer.name}/merged", attributes=axis)
        for use in readers:
            use.node.replace_input_with(use.idx, merged)
        graph.inputs[graph.inputs.index(value)] = outer
        changed += 1
    for output in list(graph.outputs):
        _split(graph, output)
        changed += 1
    return changed


def _split(graph: ir.Graph, scores: ir.Value) -> None:
    """Appends the reshape of an output to (B, C)."""
    # All inputs have the same questions and choices.
    first_two = {"start": 0, "end": 2}
    shape = ir.node("Shape", [graph.inputs[0]], attributes=first_two, name="choices/shape")
    split = ir.node("Reshape", [scores, shape.outputs[0]], name="choices/split")
    shape.outputs[0].name, split.outputs[0].name = "choices/shape/output", "choices/split/output"
    graph.extend([shape, split])
    replace_output(graph, scores, split.outputs[0], old_name="choices/merged/output")
    # The shape is the output's.
    scores.shape = None
