"""float32 graph → int8 or uint8 whose outputs do not depend on other texts or on padding.

Inputs of products are rounded on fixed scales, or on a scale for each row (`input_scales`). Both
were measured against a search for the extremes of each call (docs/log.md#int8-without-neighbours).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgedistil.export.input_scales import FixedScale, InputScale, RowScale, row_scale_of
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import Linear, part_of
from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.edit import CONTRIB, add_initializer, insert, only_consumer
from edgedistil.export.powers import Powers
from edgedistil.export.quantize import (
    QuantizedInput,
    group_by_input,
    integer_weight,
    narrow_shared,
    quantizable_linears,
    quantize_embeddings,
    quantize_input,
    quantize_reader,
    store_constant_linears,
)
from edgedistil.parity.formula import powers, powers_text


def quantize_invariant(
    model: ir.Model, plan: Int8Plan, scales: Mapping[str, InputScale]
) -> list[str]:
    """Quantizes weights, and each row of the activations without regard to the others.

    Args:
        model: The float32 graph, changed in place.
        plan: How the weights are quantized.
        scales: Name of a linear layer's input → its scale.
    Returns:
        Names of the linear layers that were quantized.
    """
    plan = narrow_shared(model, plan)
    linears = quantizable_linears(model, plan)
    # The names of the inputs before any of them is replaced: a looked-up row may be one.
    groups = {x.name or "": readers for x, readers in group_by_input(linears).items()}
    store_constant_linears(model, plan)
    quantize_embeddings(model, plan)
    producers = _producers_of_contexts(linears, groups, scales)
    outputs = {value: _inverse(scales[name]) for name, value in producers.items()}
    rows = _RowQuantizer(model)
    for name, readers in groups.items():
        scale = scales[name]
        if isinstance(scale, RowScale):
            rows.quantize(readers, plan, scale)
            continue
        x = _quantize_fixed(model, readers, scale, moves=name not in producers)
        text = powers_text(scale.powers.tolist()) if scale.powers is not None else None
        for linear in readers:
            quantize_reader(model, linear, plan, x, powers=Powers(text, outputs.get(linear.name)))
    drop_unused(model)
    return [linear.name for linear in linears]


def _producers_of_contexts(
    linears: Sequence[Linear],
    groups: Mapping[str, Sequence[Linear]],
    scales: Mapping[str, InputScale],
) -> dict[str, str]:
    """Name of an attention's output → the layer of its values, which can divide it for nothing.

    An attention's output is a weighted mean of its values, so their powers of two are its own.
    """
    by_output = {linear.last.outputs[0]: linear for linear in linears}
    weights = Counter(linear.weight for linear in linears)
    producers = {}
    for name, readers in groups.items():
        scale = scales[name]
        value = _value_of(readers[0].x)
        linear = by_output.get(value) if value is not None else None
        if linear is None or not isinstance(scale, FixedScale) or scale.powers is None:
            continue
        # A scale for each row has no place for the powers of the outputs.
        is_fixed = isinstance(scales[linear.x.name or ""], FixedScale)
        # Fewer heads of values than of queries: each is read by several channels.
        is_same_width = linear.matrix().shape[1] == len(scale.powers)
        if is_fixed and is_same_width and weights[linear.weight] == 1:
            producers[name] = linear.name
    return producers


def _value_of(context: ir.Value) -> ir.Value | None:
    """The values that an attention's output averages; None for any other value."""
    value: ir.Value | None = context
    for operators in (("Reshape",), ("Transpose",), ("FusedMatMul", "MatMul"), ("Reshape",)):
        node = value.producer() if value is not None else None
        if node is None or node.op_type not in operators:
            return None
        if only_consumer(node.outputs[0]) is None:
            return None
        value = node.inputs[1] if len(operators) > 1 else node.inputs[0]
    return value if value is not None and only_consumer(value) is not None else None


def _inverse(scale: InputScale) -> str:
    assert isinstance(scale, FixedScale) and scale.powers is not None
    return powers_text((-scale.powers).tolist())


def quantize_rows(model: ir.Model, linear: Linear, plan: Int8Plan) -> None:
    """Replaces one linear layer, whose input gets a scale for each row."""
    _RowQuantizer(model).quantize([linear], plan, row_scale_of(linear.x))


def _quantize_fixed(
    model: ir.Model, readers: list[Linear], scale: FixedScale, *, moves: bool
) -> QuantizedInput:
    """Quantizes an input by constants, once for all its readers.

    Args:
        model: The graph, changed in place.
        readers: The layers that read it.
        scale: Its scale.
        moves: Whether it has to be divided by the powers, because nothing before it was.
    """
    x = readers[0].x
    if scale.powers is not None and moves:
        # x / s here and W · s in the weight: the product is the same number, bit for bit.
        inverse = _inverse(scale)
        name = f"{_place(readers)}/powers.scale"
        factors = add_initializer(model.graph, name, powers(inverse), f"powers({inverse!r})")
        (x,) = insert(readers[0].matmul, "Mul", [x, factors], name=f"{_place(readers)}/scaled")
    limits, name = (scale.low, scale.high), f"{_place(readers)}/quantized_input"
    return quantize_input(model, readers[0], limits, x=x, name=name)


def _place(readers: list[Linear]) -> str:
    """Prefix of the nodes that serve all readers of an input."""
    return f"{readers[0].matmul.name}/input"


class _RowQuantizer:
    """Quantizes inputs row by row; layers of the encoder share what depends on the shape only."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._zeros: dict[int, ir.Value] = {}
        self._leading: ir.Value | None = None

    def quantize(self, readers: list[Linear], plan: Int8Plan, scale: RowScale) -> None:
        """Replaces the readers of an input by products of its integer rows."""
        place, first = f"{_place(readers)}/rows", readers[0].matmul
        graph = self._model.graph
        flat = add_initializer(graph, "constant/flat", np.array([-1], np.int64))
        x = readers[0].x
        shape = self._leading_shape(readers[0], place)

        # One axis of rows: QuantizeLinear takes a scale for each entry of one axis.
        width = readers[0].matrix().shape[0]
        rows = add_initializer(graph, f"constant/rows/{width}", np.array([-1, width], np.int64))
        (x_MK,) = insert(first, "Reshape", [x, rows], name=f"{place}/flat")
        step_M1 = self._steps(first, x_MK, scale, place)
        (step_M,) = insert(first, "Reshape", [step_M1, flat], name=f"{place}/step")
        zeros_M = self._zero_points(readers[0], step_M, scale.zero, place)
        (integers_MK,) = insert(
            first,
            "QuantizeLinear",
            [x_MK, step_M, zeros_M],
            name=f"{place}/quantized_input",
            attributes={"axis": 0},
        )
        one = add_initializer(graph, "constant/one", np.array(1, np.float32))
        zero = add_initializer(
            graph, f"constant/uint8/{scale.zero}", np.array(scale.zero, np.uint8)
        )
        for linear in readers:
            self._multiply(linear, plan, QuantizedInput(integers_MK, one, zero), step_M1, shape)

    def _steps(self, first: ir.Node, x_MK: ir.Value, scale: RowScale, place: str) -> ir.Value:
        """Inserts the scale of each row, (M, 1)."""
        graph = self._model.graph
        last = {"axes": [-1], "keepdims": 1}
        (top_M1,) = insert(first, "ReduceMax", [x_MK], name=f"{place}/top", attributes=last)
        above = add_initializer(
            graph, f"constant/above/{scale.zero}", np.array(scale.above, np.float32)
        )
        (high_M1,) = insert(first, "Mul", [top_M1, above], name=f"{place}/high")
        smallest = add_initializer(
            graph, f"constant/smallest/{scale.zero}", np.array(scale.smallest, np.float32)
        )
        candidates = [high_M1, smallest]
        if not scale.bounded_below:
            (bottom_M1,) = insert(
                first, "ReduceMin", [x_MK], name=f"{place}/bottom", attributes=last
            )
            below = add_initializer(
                graph, f"constant/below/{scale.zero}", np.array(scale.below, np.float32)
            )
            candidates += insert(first, "Mul", [bottom_M1, below], name=f"{place}/low")
        return insert(first, "Max", candidates, name=f"{place}/steps")[0]

    def _multiply(
        self,
        linear: Linear,
        plan: Int8Plan,
        x: QuantizedInput,
        step_M1: ir.Value,
        shape: ir.Value,
    ) -> None:
        """Replaces a linear layer by the product of integer rows, times the scale of each row."""
        weight, scale, zero_point = integer_weight(self._model, linear, plan)
        name = linear.matmul.name or ""
        (product_MN,) = insert(
            linear.last,
            "MatMulIntegerToFloat",
            [x.values, weight, x.scale, scale, x.zero_point, zero_point],
            name=name,
            domain=CONTRIB,
        )
        (scaled_MN,) = insert(linear.last, "Mul", [product_MN, step_M1], name=f"{name}/scaled")
        (output,) = insert(linear.last, "Reshape", [scaled_MN, shape], name=f"{name}/shaped")
        if linear.bias is not None:
            (output,) = insert(linear.last, "Add", [output, linear.bias], name=f"{name}/bias")
        linear.replace_by(output)

    def _leading_shape(self, linear: Linear, place: str) -> ir.Value:
        """Shape of a linear layer's output, whose last size is computed: [L, B, -1]."""
        if self._leading is not None and _is_in_layer(linear):
            return self._leading
        flat = add_initializer(self._model.graph, "constant/flat", np.array([-1], np.int64))
        (sizes,) = insert(
            linear.matmul, "Shape", [linear.x], name=f"{place}/sizes", attributes={"end": -1}
        )
        (shape,) = insert(
            linear.matmul, "Concat", [sizes, flat], name=f"{place}/shape", attributes={"axis": 0}
        )
        if _is_in_layer(linear):
            self._leading = shape
        return shape

    def _zero_points(self, linear: Linear, step_M: ir.Value, zero: int, place: str) -> ir.Value:
        """The zero point once for each row, as QuantizeLinear wants it."""
        if zero in self._zeros and _is_in_layer(linear):
            return self._zeros[zero]
        (count,) = insert(linear.matmul, "Shape", [step_M], name=f"{place}/count")
        value = ir.tensor(np.array([zero], np.uint8))
        (zeros_M,) = insert(
            linear.matmul,
            "ConstantOfShape",
            [count],
            name=f"{place}/zeros",
            attributes={"value": value},
        )
        if _is_in_layer(linear):
            self._zeros[zero] = zeros_M
        return zeros_M


def _is_in_layer(linear: Linear) -> bool:
    """Whether a linear layer has one row for each token of the call."""
    return part_of(linear.name) in {"attention", "feed-forward"}
