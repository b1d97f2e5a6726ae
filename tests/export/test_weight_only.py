from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgedistil.core.errors import ModelError
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.passes import weight_bytes
from edgedistil.export.weight_only import convert_to_float16, pack_int4, quantize_int4


def test_int4_packs_two_numbers_a_byte_and_uses_all_sixteen() -> None:
    matrix = np.random.default_rng(2).standard_normal((5, 41)).astype(np.float32)
    packed, scales = pack_int4(matrix)
    assert packed.shape == (5, 2, 16)
    numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(5, 2, 32).astype(np.float32) - 8
    restored = (numbers * scales.reshape(5, 2, 1)).reshape(5, 64)[:, :41]
    assert np.abs(restored - matrix).max() <= np.abs(scales).max() * 1.01
    assert numbers.min() == -8


def test_a_block_of_zeros_is_packed_as_zeros() -> None:
    packed, scales = pack_int4(np.zeros((2, 32), np.float32))
    assert (packed == 0x88).all()
    assert np.isfinite(scales).all()


def test_int4_and_float16_are_smaller_and_close_to_float32(
    graph: ir.Model, error: Callable[[ir.Model, ir.Model], float]
) -> None:
    four, half = graph.clone(), graph.clone()
    assert len(quantize_int4(four, Int8Plan())) == 13, (
        "the tied head stays in 8 bits with its matrix"
    )
    convert_to_float16(half)
    assert error(four, graph) < 0.5
    assert error(half, graph) < 2e-3
    assert weight_bytes(four) < weight_bytes(graph) * 0.29
    assert weight_bytes(half) < 0.62 * weight_bytes(graph)


def test_a_weight_that_does_not_fit_into_float16_is_refused(graph: ir.Model) -> None:
    initializers = graph.graph.initializers
    name = next(name for name in initializers if name.endswith("position_embeddings.weight"))
    initializers[name].const_value = ir.Tensor(np.full((521, 44), 7e4, np.float32), name=name)
    with pytest.raises(
        ModelError, match=r"position_embeddings.weight is as large as 70000: float16 ends at 65504"
    ):
        convert_to_float16(graph)
