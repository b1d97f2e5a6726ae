from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.export.int8_arithmetic import Int8Plan, quantize_weight, uint8_grid
from edgedistil.export.linears import find_linears, float_weights
from edgedistil.export.passes import weight_bytes
from edgedistil.export.quantize import quantize_dynamic, quantize_static

if TYPE_CHECKING:
    from tests.export.conftest import Answer

Error = Callable[[ir.Model, ir.Model], float]


def test_dynamic_int8_quantizes_what_it_says_and_shares_one_input_between_query_key_and_value(
    graph: ir.Model, error: Error
) -> None:
    int8 = graph.clone()
    names = quantize_dynamic(int8, Int8Plan())
    operators = Counter(node.op_type for node in int8.graph)
    assert len(names) == 14
    assert operators["DynamicQuantizeLinear"] == 2
    assert operators["MatMulIntegerToFloat"] == 6
    assert operators["DynamicQuantizeMatMul"] == 8
    assert operators["MatMul"] == 0
    initializers = int8.graph.initializers
    assert not [name for name in initializers if "zero" in name], "zeros select a slower kernel"
    assert error(int8, graph) < 0.05
    assert weight_bytes(int8) < 0.32 * weight_bytes(graph), (
        "a byte each, and the scales of rows 44 wide"
    )
    assert not [name for name in float_weights(int8) if "embeddings.weight" in name], (
        "word and position embeddings in 8 bits"
    )
    shapes = [tuple(value.shape or ()) for value in initializers.values()]
    assert len([shape for shape in shapes if 53 in shape and 44 in shape]) == 1, (
        "the tied matrix is stored once"
    )


def test_per_channel_is_closer_than_one_scale_and_full_range_than_a_reduced_one(
    graph: ir.Model, error: Error
) -> None:
    errors = {}
    for name, plan in {
        "best": Int8Plan(),
        "one scale": Int8Plan(per_channel=False),
        "reduced": Int8Plan(reduced_range=True),
    }.items():
        int8 = graph.clone()
        quantize_dynamic(int8, plan)
        errors[name] = error(int8, graph)
    assert errors["best"] < errors["one scale"]
    assert errors["best"] < errors["reduced"]


def test_uint8_is_int8_around_128(graph: ir.Model, answer: Answer) -> None:
    signed, unsigned = graph.clone(), graph.clone()
    quantize_dynamic(signed, Int8Plan())
    quantize_dynamic(unsigned, Int8Plan(signed=False))
    np.testing.assert_allclose(answer(unsigned), answer(signed), atol=1e-4)
    weights = [v for name, v in unsigned.graph.initializers.items() if "quantized" in name]
    assert {value.const_value.dtype for value in weights} == {ir.DataType.UINT8}


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_layers_of_one_weight_run_with_exact_sums(
    graph: ir.Model, error: Error, method: str
) -> None:
    linears = {linear.name: linear for linear in find_linears(graph)}
    modules = ("attention.q_lin", "attention.k_lin", "ffn.lin1")
    for module in modules:
        first, second = (linears[f"transformer.layer.{layer}.{module}"] for layer in (0, 1))
        second.matmul.replace_input_with(1, first.weight)
    int8 = graph.clone()
    if method == "dynamic":
        quantize_dynamic(int8, Int8Plan())
    else:
        names = {linear.x.name for linear in find_linears(graph)}
        quantize_static(int8, Int8Plan(), dict.fromkeys(names, (-12.0, 12.0)))
    # `error` runs with the option that does not start on two products of one initializer.
    assert error(int8, graph) < 0.2
    largest = {
        name.removesuffix(".quantized"): int(np.abs(value.const_value.numpy().astype(int)).max())
        for name, value in int8.graph.initializers.items()
        if name.endswith(".quantized")
    }
    shared = {linears[f"transformer.layer.0.{module}"].weight.name for module in modules}
    assert {name for name, value in largest.items() if value == 63} == shared
    assert {value for name, value in largest.items() if name not in shared} == {127}


def test_layers_stay_in_float_by_module_or_by_node_name(graph: ir.Model) -> None:
    name = "transformer.layer.1.ffn.lin2"
    by_module, by_node = graph.clone(), graph.clone()
    names = quantize_dynamic(by_module, Int8Plan(keep_float=[name]))
    assert name not in names
    node = next(linear.matmul.name for linear in find_linears(graph) if linear.name == name)
    assert quantize_dynamic(by_node, Int8Plan(keep_float=[node or ""])) == names


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([True, False]), st.sampled_from([True, False]))
def test_a_quantized_weight_is_within_half_a_step(seed: int, signed: bool, reduced: bool) -> None:
    plan = Int8Plan(signed=signed, reduced_range=reduced)
    weight = np.random.default_rng(seed).standard_normal((7, 11)).astype(np.float32)
    integers, scale = quantize_weight(weight, plan, axis=0)
    middle = 0 if signed else 128
    restored = (integers.astype(np.float32) - middle) * scale
    assert np.abs(restored - weight).max() <= 0.501 * scale.max()
    assert np.abs(integers.astype(int) - middle).max() == plan.largest


def test_a_column_of_zeros_does_not_divide_by_zero() -> None:
    integers, scale = quantize_weight(np.zeros((7, 3), np.float32), Int8Plan(), axis=0)
    assert not integers.any()
    assert np.isfinite(scale).all()


def test_static_int8_uses_the_ranges_of_its_inputs(graph: ir.Model, error: Error) -> None:
    names = {linear.x.name for linear in find_linears(graph)}
    good, narrow = graph.clone(), graph.clone()
    quantize_static(good, Int8Plan(), dict.fromkeys(names, (-12.0, 12.0)))
    quantize_static(narrow, Int8Plan(), dict.fromkeys(names, (-0.5, 0.5)))
    assert error(good, graph) < 0.2 < error(narrow, graph)
    operators = {node.op_type for node in good.graph}
    assert not operators & {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}


@pytest.mark.parametrize(
    ("low", "high", "zero_point"),
    [(-1.0, 1.0, 128), (0.0, 2.55, 0), (0.5, 2.55, 0), (-2.55, -1.0, 255)],
)
def test_the_uint8_grid_always_has_a_zero(low: float, high: float, zero_point: int) -> None:
    scale, got = uint8_grid(low, high)
    assert got == zero_point
    assert (0 - got) * scale <= min(low, 0) + scale
    assert (255 - got) * scale >= max(high, 0) - scale
