"""float32 graph → a smaller one: dynamic int8 and uint8 products, float16 and 4-bit weights.

What was measured (docs/log.md) and stands behind the choices here: weights per output channel without a zero-point
tensor (a tensor of zeros makes onnxruntime take its slow path); one quantization of x for all products that read the
same x; no packed QKV product; the tied table stored once, as rows, and transposed when a session starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgedistil.export.linears import Linear, find_linears, find_positions, find_words
from edgedistil.export.passes import drop_unused
from edgedistil.export.passes.edit import CONTRIB, add_initializer, constant, insert, replace

SMALL_HEAD = (
    32  # a product with fewer outputs decides labels and spans and costs nothing: it stays in float
)


@dataclass(frozen=True)
class Int8Plan:
    """How the weights become 8-bit integers.

    Attributes:
        signed: int8 around 0, or uint8 around 128.
        per_channel: A scale for each output, or one for the whole weight.
        reduced_range: 7 bits, for kernels that add two products in 16 bits (AVX2 and AVX-512 without VNNI).
        embeddings: Whether the tables of words and positions are quantized too, row by row.
        keep: Products that stay in float, by module or by node name.
    """

    signed: bool = True
    per_channel: bool = True
    reduced_range: bool = False
    embeddings: bool = True
    keep: Collection[str] = ()

    @property
    def largest(self) -> int:
        return 63 if self.reduced_range else 127


def quantize_dynamic(model: ir.Model, plan: Int8Plan) -> list[str]:
    """Turns the products of a graph into integer products, in place; activations are quantized as they come.

    Returns:
        The names of the products that were quantized.
    """
    chosen = wanted_linears(model, plan)
    quantize_tables(model, plan)
    for x, linears in by_input(chosen).items():
        if len(linears) == 1:
            quantize_alone(model, linears[0], plan)
        else:
            _together(model, x, linears, plan)
    drop_unused(model)
    return [each.name for each in chosen]


def quantize_static(
    model: ir.Model, plan: Int8Plan, ranges: Mapping[str, tuple[float, float]]
) -> list[str]:
    """As `quantize_dynamic`, but what x ranges over was measured before: no search for its extremes in every call.

    Args:
        ranges: Smallest and largest value of each product's input, by the input's name.
    """
    chosen = wanted_linears(model, plan)
    quantize_tables(model, plan)
    for x, linears in by_input(chosen).items():
        scale, zero = activation_grid(*ranges[x.name or ""])
        x_scale = add_initializer(
            model.graph, f"{linears[0].name}.input.scale", np.array(scale, np.float32)
        )
        x_zero = add_initializer(
            model.graph, f"{linears[0].name}.input.zero", np.array(zero, np.uint8)
        )
        first = linears[0].product
        name = f"{(first.name or '').rsplit('/', 1)[0]}/quantized_input"
        (x_q,) = insert(first, "QuantizeLinear", [x, x_scale, x_zero], name=name)
        for linear in linears:
            _with_quantized_input(model, linear, plan, x_q, x_scale, x_zero)
    drop_unused(model)
    return [each.name for each in chosen]


def activation_grid(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of uint8 values that cover a range; 0 is always one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    return scale, int(np.clip(round(-low / scale), 0, 255))


def wanted_linears(model: ir.Model, plan: Int8Plan) -> list[Linear]:
    """The products that a plan quantizes."""
    return [each for each in find_linears(model) if _wanted(each, plan)]


def by_input(linears: Iterable[Linear]) -> dict[ir.Value, list[Linear]]:
    """Products by what they read, in the order of the computation."""
    grouped: dict[ir.Value, list[Linear]] = defaultdict(list)
    for linear in linears:
        grouped[linear.x].append(linear)
    return grouped


def _wanted(linear: Linear, plan: Int8Plan) -> bool:
    K, N = linear.matrix().shape
    if linear.tied and not plan.embeddings:
        return False
    return not {linear.name, linear.product.name} & set(plan.keep) and N >= SMALL_HEAD and K > 1


def quantize_alone(model: ir.Model, linear: Linear, plan: Int8Plan) -> None:
    weight, scale, zero = _stored(model, linear, plan)
    (out,) = insert(
        linear.last,
        "DynamicQuantizeMatMul",
        [linear.x, weight, scale, zero, linear.bias],
        name=linear.product.name or "",
        domain=CONTRIB,
    )
    replace(linear.last.outputs[0], out)


def _together(model: ir.Model, x: ir.Value, linears: list[Linear], plan: Int8Plan) -> None:
    """Products that read the same x: it is quantized once."""
    first = linears[0].product
    name = (first.name or "").rsplit("/", 2)[0] + "/quantized_input"
    x_q, x_scale, x_zero = insert(first, "DynamicQuantizeLinear", [x], name=name, outputs=3)
    for linear in linears:
        _with_quantized_input(model, linear, plan, x_q, x_scale, x_zero)


def _with_quantized_input(
    model: ir.Model,
    linear: Linear,
    plan: Int8Plan,
    x_q: ir.Value,
    x_scale: ir.Value,
    x_zero: ir.Value,
) -> None:
    weight, scale, zero = _stored(model, linear, plan)
    (out,) = insert(
        linear.last,
        "MatMulIntegerToFloat",
        [x_q, weight, x_scale, scale, x_zero, zero, linear.bias],
        name=linear.product.name or "",
        domain=CONTRIB,
    )
    replace(linear.last.outputs[0], out)


def _stored(
    model: ir.Model, linear: Linear, plan: Int8Plan
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """The integer weight (K, N), its scale, and its zero point; of the tied table its one stored copy."""
    if linear.tied:
        rows, scale = _table_rows(model, linear.weight, plan)
        (weight,) = insert(
            linear.product,
            "Transpose",
            [rows],
            name=f"{linear.product.name}/rows",
            attributes={"perm": [1, 0]},
        )
        flat = add_initializer(
            model.graph, f"{scale.name}.flat", np.asarray(constant(scale)).reshape(-1)
        )
        return weight, flat, _zero(model, plan)
    array, scale_N = quantized(linear.matrix(), plan, axis=0)
    name = f"{linear.name}.weight"
    return (
        add_initializer(model.graph, f"{name}.quantized", array),
        add_initializer(
            model.graph,
            f"{name}.scale",
            scale_N.reshape(-1) if plan.per_channel else scale_N.reshape(()),
        ),
        _zero(model, plan),
    )


def _zero(model: ir.Model, plan: Int8Plan) -> ir.Value | None:
    return (
        None
        if plan.signed
        else add_initializer(model.graph, "constant/uint8/128", np.array(128, np.uint8))
    )


def quantize_tables(model: ir.Model, plan: Int8Plan) -> None:
    """Words and positions row by row: each keeps its own scale, so a rare large vector does not coarsen the others."""
    if not plan.embeddings:
        return
    for reader in (find_words(model), find_positions(model)):
        if reader is None:
            continue
        table, which = reader.inputs[0], reader.inputs[1:]
        assert table is not None
        rows, scale = _table_rows(model, table, plan)
        name = reader.name or reader.op_type
        (picked,) = insert(reader, reader.op_type, [rows, *which], name=name)
        (scales,) = insert(reader, reader.op_type, [scale, *which], name=f"{name}/scale")
        (numbers,) = insert(
            reader, "Cast", [picked], name=f"{name}/Cast", attributes={"to": int(ir.DataType.FLOAT)}
        )
        if not plan.signed:
            middle = add_initializer(model.graph, "constant/float32/128", np.array(128, np.float32))
            (numbers,) = insert(reader, "Sub", [numbers, middle], name=f"{name}/Sub")
        (vectors,) = insert(reader, "Mul", [numbers, scales], name=f"{name}/Mul")
        replace(reader.outputs[0], vectors)


def _table_rows(model: ir.Model, table: ir.Value, plan: Int8Plan) -> tuple[ir.Value, ir.Value]:
    name = f"{table.name}.quantized"
    if name in model.graph.initializers:
        return model.graph.initializers[name], model.graph.initializers[f"{table.name}.scale"]
    rows_VD = constant(table)
    assert rows_VD is not None
    # Rows are read one by one, but the tied head multiplies them: they keep to the products' range.
    array, scale_V1 = quantized(rows_VD, plan, axis=1, per_channel=True)
    return (
        add_initializer(model.graph, name, array),
        add_initializer(model.graph, f"{table.name}.scale", scale_V1),
    )


def quantized(
    weight: NDArray[np.float32], plan: Int8Plan, *, axis: int, per_channel: bool | None = None
) -> tuple[NDArray[np.int8] | NDArray[np.uint8], NDArray[np.float32]]:
    """8-bit integers and the scale they are multiplied with; the scale keeps `axis` as a dimension of 1.

    Args:
        axis: The axis that is summed over in the product.
        per_channel: Overrides the plan's.
    """
    along = axis if (plan.per_channel if per_channel is None else per_channel) else None
    top = np.abs(weight).max(axis=along, keepdims=True)
    scale = np.maximum(top / plan.largest, np.finfo(np.float32).tiny).astype(np.float32)
    integers = np.clip(np.rint(weight / scale), -plan.largest, plan.largest)
    if plan.signed:
        return integers.astype(np.int8), scale
    return (integers + 128).astype(np.uint8), scale
