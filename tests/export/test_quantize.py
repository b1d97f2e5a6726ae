from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistil.core.errors import ModelError
from edgedistil.export.calibrate import Spread, entropy_range, percentile_range
from edgedistil.export.census import bytes_by_part, kept_float
from edgedistil.export.linears import find_linears, part_of
from edgedistil.export.passes import Shape, run_passes, standard_passes, weight_bytes
from edgedistil.export.quantize import (
    Int8Plan,
    activation_grid,
    quantize_dynamic,
    quantize_static,
    quantized,
)
from edgedistil.export.trace import trace
from edgedistil.export.weight_only import halve_weights, packed_int4, quantize_int4


@pytest.fixture
def graph(model) -> ir.Model:
    source = model("DistilBertForMaskedLM")
    made = trace(source, task="fill-mask", token_types=False)
    run_passes(
        made,
        standard_passes(Shape.of(made, source.config), token_types=False, drop_token_types=False),
    )
    return made


def answers(made: ir.Model) -> np.ndarray:
    opened = ort.InferenceSession(
        ir.to_proto(made).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.random.default_rng(5).integers(5, 53, (3, 17))
    return opened.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


def error(made: ir.Model, reference: ir.Model) -> float:
    want = answers(reference)
    return float(np.abs(answers(made) - want).mean() / np.abs(want).mean())


def test_dynamic_int8_quantizes_what_it_says_and_shares_one_input_between_query_key_and_value(
    graph,
) -> None:
    made = graph.clone()
    names = quantize_dynamic(made, Int8Plan())
    ops = Counter(node.op_type for node in made.graph)
    assert len(names) == 14
    assert (
        ops["DynamicQuantizeLinear"],
        ops["MatMulIntegerToFloat"],
        ops["DynamicQuantizeMatMul"],
    ) == (2, 6, 8)
    assert ops["MatMul"] == 0
    assert not [name for name, value in made.graph.initializers.items() if "zero" in name], (
        "zeros take the slow path"
    )
    assert error(made, graph) < 0.05
    assert weight_bytes(made) < 0.32 * weight_bytes(graph), (
        "a byte each, and the scales of rows 44 wide"
    )
    assert not [name for name in kept_float(made) if "embeddings.weight" in name], (
        "words and positions in 8 bits"
    )
    tables = [
        value
        for value in made.graph.initializers.values()
        if 53 in (value.shape or ()) and 44 in value.shape
    ]
    assert len(tables) == 1, "the tied table is stored once"


def test_per_channel_is_closer_than_one_scale_and_full_range_than_a_reduced_one(graph) -> None:
    errors = {}
    for name, plan in {
        "best": Int8Plan(),
        "one scale": Int8Plan(per_channel=False),
        "reduced": Int8Plan(reduced_range=True),
    }.items():
        made = graph.clone()
        quantize_dynamic(made, plan)
        errors[name] = error(made, graph)
    assert errors["best"] < errors["one scale"]
    assert errors["best"] < errors["reduced"]


def test_uint8_is_int8_around_128(graph) -> None:
    signed, unsigned = graph.clone(), graph.clone()
    quantize_dynamic(signed, Int8Plan())
    quantize_dynamic(unsigned, Int8Plan(signed=False))
    np.testing.assert_allclose(answers(unsigned), answers(signed), atol=1e-4)
    stored = {
        value.const_value.dtype
        for name, value in unsigned.graph.initializers.items()
        if "quantized" in name
    }
    assert stored == {ir.DataType.UINT8}


def test_kept_products_stay_in_float_and_are_listed(graph) -> None:
    made = graph.clone()
    kept = "transformer.layer.1.ffn.lin2"
    names = quantize_dynamic(made, Int8Plan(keep=[kept]))
    assert kept not in names
    assert [name for name in kept_float(made) if "lin2.weight" in name] == [
        "distilbert.transformer.layer.1.ffn.lin2.weight"
    ]
    node = next(each.product.name for each in find_linears(graph) if each.name == kept)
    by_node = graph.clone()
    assert quantize_dynamic(by_node, Int8Plan(keep=[node])) == names


def test_bytes_by_part_add_up(graph) -> None:
    made = graph.clone()
    quantize_dynamic(made, Int8Plan())
    parts = bytes_by_part(made)
    assert sum(parts.values()) == weight_bytes(made)
    assert all(parts[part] > 0 for part in ("embeddings", "attention", "feed-forward", "head"))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("distilbert.embeddings.word_embeddings.weight", "embeddings"),
        ("transformer.layer.3.attention.q_lin.weight.quantized", "attention"),
        ("distilbert.transformer.layer.0.sa_layer_norm.weight", "attention"),
        ("encoder.layer.11.attention.output.dense.weight", "attention"),
        ("encoder.layer.11.intermediate.dense.weight.T", "feed-forward"),
        ("bert.encoder.layer.2.output.LayerNorm.bias", "feed-forward"),
        ("vocab_projector.bias", "head"),
        ("cls.predictions.transform.dense.weight.T", "head"),
        ("constant/masked", "other"),
    ],
)
def test_parts_of_a_model(name: str, part: str) -> None:
    assert part_of(name) == part


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([True, False]), st.sampled_from([True, False]))
def test_a_quantized_weight_is_within_half_a_step(seed: int, signed: bool, reduced: bool) -> None:
    plan = Int8Plan(signed=signed, reduced_range=reduced)
    weight = np.random.default_rng(seed).standard_normal((7, 11)).astype(np.float32)
    integers, scale = quantized(weight, plan, axis=0)
    back = (integers.astype(np.float32) - (0 if signed else 128)) * scale
    assert np.abs(back - weight).max() <= 0.501 * scale.max()
    assert np.abs(integers.astype(int) - (0 if signed else 128)).max() == plan.largest


def test_a_column_of_zeros_is_no_division_by_zero() -> None:
    integers, scale = quantized(np.zeros((7, 3), np.float32), Int8Plan(), axis=0)
    assert not integers.any()
    assert np.isfinite(scale).all()


def test_static_int8_uses_the_ranges_that_it_is_given(graph) -> None:
    linears = find_linears(graph)
    names = {each.x.name for each in linears}
    good, narrow = graph.clone(), graph.clone()
    quantize_static(good, Int8Plan(), dict.fromkeys(names, (-12.0, 12.0)))
    quantize_static(narrow, Int8Plan(), dict.fromkeys(names, (-0.5, 0.5)))
    assert error(good, graph) < 0.2 < error(narrow, graph)
    assert not [
        node
        for node in good.graph
        if node.op_type in {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
    ]


@pytest.mark.parametrize(
    ("low", "high", "zero"), [(-1.0, 1.0, 128), (0.0, 2.55, 0), (0.5, 2.55, 0), (-2.55, -1.0, 255)]
)
def test_the_activation_grid_always_has_a_zero(low: float, high: float, zero: int) -> None:
    scale, got = activation_grid(low, high)
    assert got == zero
    assert (0 - got) * scale <= min(low, 0) + scale
    assert (255 - got) * scale >= max(high, 0) - scale


def test_calibration_leaves_a_lonely_outlier_out_unless_told_to_cover_it() -> None:
    spread = Spread()
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    spread.add(values)
    spread.add(np.array([60.0], np.float32))
    assert spread.high == 60.0
    assert spread.counts.sum() == 100_001
    assert 2 < percentile_range(spread)[1] < 10
    assert 2 < entropy_range(spread)[1] < 30


def test_int4_packs_two_numbers_a_byte_and_uses_all_sixteen() -> None:
    matrix = np.random.default_rng(2).standard_normal((5, 41)).astype(np.float32)
    packed, scales = packed_int4(matrix)
    assert packed.shape == (5, 2, 16)
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(5, 2, 32).astype(np.float32) - 8
    back = (numbers * scales.reshape(5, 2, 1)).reshape(5, 64)[:, :41]
    assert np.abs(back - matrix).max() <= np.abs(scales).max() * 1.01
    assert numbers.min() == -8


def test_int4_and_float16_are_smaller_and_still_answer(graph) -> None:
    four, half = graph.clone(), graph.clone()
    assert len(quantize_int4(four, Int8Plan())) == 13, (
        "the tied head stays in 8 bits with its table"
    )
    halve_weights(half)
    assert error(four, graph) < 0.5
    assert error(half, graph) < 2e-3
    assert weight_bytes(four) < weight_bytes(graph) * 0.29
    assert weight_bytes(half) < 0.62 * weight_bytes(graph)


def test_float16_refuses_a_weight_that_does_not_fit(graph) -> None:
    value = next(
        v for n, v in graph.graph.initializers.items() if n.endswith("position_embeddings.weight")
    )
    value.const_value = ir.Tensor(np.full((521, 44), 7e4, np.float32), name=value.name)
    with pytest.raises(
        ModelError, match=r"position_embeddings.weight is as large as 70000: float16 ends at 65504"
    ):
        halve_weights(graph)
