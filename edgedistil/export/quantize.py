"""float32 graph → int8 or uint8: dynamic or static activations, quantized embeddings.

The choices follow measurements (docs/log.md#integer-kernels and the entries after it):

- a scale for each output, without a tensor of zero points: a tensor of zeros makes onnxruntime use
  a slower kernel;
- one quantization of x for all linear layers that read the same x;
- no packed QKV MatMul (docs/log.md#one-packed-qkv-matmul);
- the tied word-embedding matrix is stored once, as rows, and transposed when a session starts
  (docs/log.md#tied-word-embeddings-in-int8-stored-once).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from edgedistil.export.int8_arithmetic import (
    UINT8_ZERO,
    Int8Plan,
    int8_formulas,
    quantize_weight,
    uint8_grid,
)
from edgedistil.export.linears import (
    Linear,
    find_linears,
    find_position_embedding,
    find_word_embedding,
    weights_of_several_products,
)
from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.edit import (
    CONTRIB,
    add_initializer,
    constant_array,
    formula_of,
    insert,
    replace_value,
)
from edgedistil.export.powers import Powers
from edgedistil.parity.formula import call, scale_columns

# A linear layer with fewer outputs computes labels or spans and costs nothing: it stays in float.
SMALL_HEAD = 32


def narrow_shared(model: ir.Model, plan: Int8Plan) -> Int8Plan:
    """Plans 7 bits for the signed weights of a float32 graph that several layers share.

    onnxruntime's exact sums fail with larger integers of a signed weight with several products
    (docs/log.md#one-weight-of-several-products).
    """
    if not plan.signed:
        return plan
    return replace(plan, narrow_weights=weights_of_several_products(model))


# --- graphs --------------------------------------------------------------------------------------


def quantize_dynamic(model: ir.Model, plan: Int8Plan) -> list[str]:
    """Quantizes weights, and activations during each call; changes the graph in place.

    Returns:
        Names of the linear layers that were quantized.
    """
    # The layers are listed first: afterwards their names and weights are others.
    plan = narrow_shared(model, plan)
    linears = quantizable_linears(model, plan)
    store_constant_linears(model, plan)
    quantize_embeddings(model, plan)
    for readers in group_by_input(linears).values():
        # Quantizing x in a node of its own gains nothing if only one layer reads x
        # (docs/log.md#separate-dynamic-quantization).
        if len(readers) == 1:
            quantize_linear(model, readers[0], plan)
        else:
            _quantize_readers(model, readers, plan)
    drop_unused(model)
    return [linear.name for linear in linears]


def quantize_static(
    model: ir.Model, plan: Int8Plan, ranges: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Quantizes weights, and activations by ranges that were measured before.

    No call has to search for the extremes of its activations.

    Args:
        model: The float32 graph, changed in place.
        plan: How the weights are quantized.
        ranges: Name of a linear layer's input → its smallest and largest value.
    Returns:
        Names of the linear layers that were quantized.
    """
    plan = narrow_shared(model, plan)
    linears = quantizable_linears(model, plan)
    store_constant_linears(model, plan)
    quantize_embeddings(model, plan)
    # The names of the inputs before any of them is replaced.
    groups = {x.name or "": readers for x, readers in group_by_input(linears).items()}
    for name, readers in groups.items():
        quantized_x = quantize_input(model, readers[0], ranges[name])
        for linear in readers:
            quantize_reader(model, linear, plan, quantized_x)
    drop_unused(model)
    return [linear.name for linear in linears]


def quantizable_linears(model: ir.Model, plan: Int8Plan) -> list[Linear]:
    """Returns the linear layers of a call that a plan quantizes, in the order of computation."""
    linears = [linear for linear in find_linears(model) if not linear.constant]
    return [linear for linear in linears if _is_quantized(linear, plan)]


def group_by_input(linears: Iterable[Linear]) -> dict[ir.Value, list[Linear]]:
    """Groups linear layers by the value that they read, in the order of computation."""
    groups: dict[ir.Value, list[Linear]] = defaultdict(list)
    for linear in linears:
        groups[linear.x].append(linear)
    return groups


def _is_quantized(linear: Linear, plan: Int8Plan) -> bool:
    # The tied matrix is stored once, so both its readers get it in the same precision.
    if linear.tied and not plan.embeddings:
        return False
    if {linear.name, linear.matmul.name} & set(plan.keep_float):
        return False
    K, N = linear.matrix().shape
    return bool(N >= SMALL_HEAD and K > 1)


# --- linear layers -------------------------------------------------------------------------------


def store_constant_linears(model: ir.Model, plan: Int8Plan, *, suffix: str = "") -> None:
    """Stores the weights of layers that a session computes once in 8 bits; they stay in float.

    Only with ONNX's own operators: a session does not fold onnxruntime's integer MatMuls, and would
    compute the layers in every call (docs/log.md#constant-layers-in-int8).

    Args:
        model: The float32 graph, changed in place.
        plan: How the weights are quantized.
        suffix: Of the names of the weights; empty to share those of 8-bit layers.
    """
    for linear in find_linears(model):
        if not (linear.constant and _is_quantized(linear, plan)):
            continue
        integers, scale, zero_point = integer_weight(model, linear, plan, suffix=suffix)
        name, op = linear.matmul.name or "", partial(insert, linear.last)
        to_float = {"to": int(ir.DataType.FLOAT)}
        (numbers,) = op("Cast", [integers], name=f"{name}/Cast", attributes=to_float)
        if zero_point is not None:
            middle = _float_zero(model.graph)
            (numbers,) = op("Sub", [numbers, middle], name=f"{name}/Sub")
        (weight,) = op("Mul", [numbers, scale], name=f"{name}/Mul")
        (output,) = op("MatMul", [linear.x, weight], name=name)
        if linear.bias is not None:
            (output,) = op("Add", [output, linear.bias], name=f"{name}/bias")
        linear.replace_by(output)


@dataclass(frozen=True)
class QuantizedInput:
    """A layer's input in uint8, with its scale and zero point."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def quantize_linear(model: ir.Model, linear: Linear, plan: Int8Plan) -> None:
    """Replaces a linear layer by one operator that also quantizes its input."""
    weight, scale, zero_point = integer_weight(model, linear, plan)
    (output,) = insert(
        linear.last,
        "DynamicQuantizeMatMul",
        [linear.x, weight, scale, zero_point, linear.bias],
        name=linear.matmul.name or "",
        domain=CONTRIB,
    )
    linear.replace_by(output)


def _quantize_readers(model: ir.Model, readers: list[Linear], plan: Int8Plan) -> None:
    """Replaces linear layers that read the same x, which is quantized once."""
    first = readers[0].matmul
    # `.../attention/query/MatMul` → `.../attention/quantized_input`
    name = (first.name or "").rsplit("/", 2)[0] + "/quantized_input"
    outputs = insert(first, "DynamicQuantizeLinear", [readers[0].x], name=name, outputs=3)
    for linear in readers:
        quantize_reader(model, linear, plan, QuantizedInput(*outputs))


def quantize_input(
    model: ir.Model,
    linear: Linear,
    limits: tuple[float, float],
    *,
    x: ir.Value | None = None,
    name: str = "",
) -> QuantizedInput:
    """Quantizes an input by constants, in front of the first layer that reads it.

    Args:
        model: The graph, changed in place.
        linear: The first layer.
        limits: Smallest and largest value that are represented.
        x: The value to quantize; None for the layer's own input.
        name: Name of the node; after the layer's module by default.
    """
    scale, zero_point = uint8_grid(*limits)
    # After the node: two products of one module have inputs of their own.
    prefix = f"{linear.matmul.name}/input"
    # Both follow from measured limits, so their values are recorded as they are.
    x_scale = add_initializer(model.graph, f"{prefix}/scale", np.array(scale, np.float32))
    x_zero = add_initializer(model.graph, f"{prefix}/zero", np.array(zero_point, np.uint8))
    module = (linear.matmul.name or "").rsplit("/", 1)[0]
    (values,) = insert(
        linear.matmul,
        "QuantizeLinear",
        [x or linear.x, x_scale, x_zero],
        name=name or f"{module}/quantized_input",
    )
    return QuantizedInput(values, x_scale, x_zero)


def quantize_reader(
    model: ir.Model,
    linear: Linear,
    plan: Int8Plan,
    x: QuantizedInput,
    *,
    powers: Powers | None = None,
) -> None:
    """Replaces a linear layer whose input is quantized already.

    Args:
        model: The graph, changed in place.
        linear: The layer.
        plan: How its weight is quantized.
        x: Its quantized input.
        powers: Powers of two that move through the layer.
    """
    powers = powers or Powers()
    weight, scale, zero_point = integer_weight(model, linear, plan, powers=powers)
    # Powers of two that were moved out of the output apply to the bias, too.
    bias = linear.bias
    if bias is not None and powers.output is not None:
        bias = _scaled_bias(model.graph, linear, bias, powers.output)
    (output,) = insert(
        linear.last,
        "MatMulIntegerToFloat",
        [x.values, weight, x.scale, scale, x.zero_point, zero_point, bias],
        name=linear.matmul.name or "",
        domain=CONTRIB,
    )
    linear.replace_by(output)


def integer_weight(
    model: ir.Model,
    linear: Linear,
    plan: Int8Plan,
    *,
    suffix: str = "",
    powers: Powers | None = None,
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """Adds the integer weight (K, N); returns it with its scale and zero point."""
    graph = model.graph
    if linear.tied:
        return (*_tied_weight(graph, linear, plan), _zero_point(graph, plan))
    if linear.weight.name in plan.narrow_weights:
        plan = replace(plan, reduced_range=True)
    matrix_KN, formula = (powers or Powers()).move(linear.matrix(), linear.formula())
    # Kernels take a scale (N,) or a scalar, without the axis that NumPy needs.
    integers_KN, scale_1N = quantize_weight(matrix_KN, plan, axis=0)
    scale_shape = (-1,) if plan.per_channel else ()
    # After the weight, not the layer: layers that share a weight store its integers once.
    name = f"{linear.weight.name}{suffix}"
    formulas = int8_formulas(formula, plan, axis=0)
    return (
        add_initializer(graph, f"{name}.quantized", integers_KN, formulas.values),
        add_initializer(graph, f"{name}.scale", scale_1N.reshape(scale_shape), formulas.scale),
        _zero_point(graph, plan),
    )


def _scaled_bias(graph: ir.Graph, linear: Linear, bias: ir.Value, powers: str) -> ir.Value:
    """A layer's bias, times powers of two."""
    array = constant_array(bias)
    assert array is not None
    formula = call("scale_columns", formula_of(bias), repr(powers))
    return add_initializer(
        graph, f"{linear.matmul.name}/bias/scaled", scale_columns(array, powers), formula
    )


def _tied_weight(graph: ir.Graph, linear: Linear, plan: Int8Plan) -> tuple[ir.Value, ir.Value]:
    """The word-embedding rows as a weight (K, N), with a scale for each token."""
    rows_NK, scale_N1 = _quantized_rows(graph, linear.weight, plan)
    # A session computes this transpose once, when it starts.
    name = f"{linear.matmul.name}/rows"
    swapped = {"perm": [1, 0]}
    (weight_KN,) = insert(linear.matmul, "Transpose", [rows_NK], name=name, attributes=swapped)
    flat_N = np.asarray(constant_array(scale_N1)).reshape(-1)
    formula = formula_of(scale_N1)
    return weight_KN, add_initializer(graph, f"{scale_N1.name}.flat", flat_N, formula)


def _zero_point(graph: ir.Graph, plan: Int8Plan) -> ir.Value | None:
    # Signed weights have no zero-point tensor: zeros select a slower kernel.
    if plan.signed:
        return None
    return add_initializer(graph, "constant/uint8/128", np.array(UINT8_ZERO, np.uint8))


def _float_zero(graph: ir.Graph) -> ir.Value:
    """Zero point of unsigned weights, to be subtracted from floats."""
    return add_initializer(graph, "constant/float32/128", np.array(UINT8_ZERO, np.float32))


# --- embeddings ----------------------------------------------------------------------------------


def quantize_embeddings(model: ir.Model, plan: Int8Plan) -> None:
    """Quantizes word and position embeddings row by row, if the plan includes them.

    Each row has its own scale, so a rare large vector does not make the others coarser.
    """
    if not plan.embeddings:
        return
    for lookup in (find_word_embedding(model), find_position_embedding(model)):
        if lookup is not None:
            _quantize_lookup(model.graph, lookup, plan)


def _quantize_lookup(graph: ir.Graph, lookup: ir.Node, plan: Int8Plan) -> None:
    """Looks up integer rows and their scales, and multiplies them.

    Four standard operators: faster than GatherBlockQuantized, and every runtime has them
    (docs/log.md#embedding-lookup-in-int8).
    """
    matrix, selection = lookup.inputs[0], lookup.inputs[1:]
    assert matrix is not None
    rows, scale = _quantized_rows(graph, matrix, plan)
    name = lookup.name or lookup.op_type
    (integers,) = insert(lookup, lookup.op_type, [rows, *selection], name=name)
    (scales,) = insert(lookup, lookup.op_type, [scale, *selection], name=f"{name}/scale")
    (numbers,) = insert(
        lookup, "Cast", [integers], name=f"{name}/Cast", attributes={"to": int(ir.DataType.FLOAT)}
    )
    # uint8 is stored around 128, and a lookup has no zero-point input.
    if not plan.signed:
        (numbers,) = insert(lookup, "Sub", [numbers, _float_zero(graph)], name=f"{name}/Sub")
    (vectors,) = insert(lookup, "Mul", [numbers, scales], name=f"{name}/Mul")
    replace_value(lookup.outputs[0], vectors)


def _quantized_rows(graph: ir.Graph, matrix: ir.Value, plan: Int8Plan) -> tuple[ir.Value, ir.Value]:
    """Adds an embedding matrix as integers (V, D) with scales (V, 1); both only once."""
    name, scale_name = f"{matrix.name}.quantized", f"{matrix.name}.scale"
    if name in graph.initializers:
        return graph.initializers[name], graph.initializers[scale_name]
    rows_VD = constant_array(matrix)
    assert rows_VD is not None
    # A lookup could use all 8 bits, but a tied head multiplies the same rows: the reduced range of
    # the plan holds for them too.
    by_row = replace(plan, per_channel=True)
    integers_VD, scale_V1 = quantize_weight(rows_VD, by_row, axis=1)
    formulas = int8_formulas(formula_of(matrix), by_row, axis=1)
    return (
        add_initializer(graph, name, integers_VD, formulas.values),
        add_initializer(graph, scale_name, scale_V1, formulas.scale),
    )
