"""int8 whose outputs do not depend on padding or on other texts of the call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgedistil.core.session import PROVIDERS, SessionOptions
from edgedistil.export.calibrate import RowSample, collect_rows
from edgedistil.export.input_scales import (
    FixedScale,
    InputScale,
    RowScale,
    round_fixed,
    round_rows,
    select_scales,
)
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.linears import Linear
from edgedistil.export.passes.edit import CONTRIB
from edgedistil.export.quantize import group_by_input, quantizable_linears, quantize_dynamic
from edgedistil.export.quantize_invariant import quantize_invariant
from edgedistil.export.storage import save_graph
from edgedistil.parity.invariance import MAX_CHANGE

if TYPE_CHECKING:
    from tests.export.conftest import MakeGraph

Run = Callable[[list[list[int]], int], NDArray[Any]]
TOKENS = st.lists(st.integers(5, 52), min_size=2, max_size=24)


def scales_of(graph: ir.Model, folder: Path) -> dict[str, InputScale]:
    """The scales that calibration on random tokens selects."""
    rng = np.random.default_rng(3)
    path = folder / "float.onnx"
    save_graph(graph, path, external=False)
    ids = rng.integers(5, 53, (4, 40))
    mask = np.ones_like(ids)
    mask[1:, 30:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
    feeds = {name: inputs[name] for name in names_of(graph)}
    linears = quantizable_linears(graph, Int8Plan())
    names = [value.name or "" for value in group_by_input(linears)]
    return select_scales(linears, collect_rows(path, names, [feeds]), Int8Plan())


def names_of(graph: ir.Model) -> list[str]:
    return [value.name or "" for value in graph.graph.inputs]


def runner(graph: ir.Model, path: Path) -> Run:
    save_graph(graph, path, external=False)
    options = SessionOptions(threads=1).to_onnxruntime()
    session = ort.InferenceSession(path, options, providers=list(PROVIDERS))

    def run(texts: list[list[int]], length: int) -> NDArray[Any]:
        ids, mask = (
            np.zeros((len(texts), length), np.int64),
            np.zeros((len(texts), length), np.int64),
        )
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        feeds = {name: inputs[name] for name in names_of(graph)}
        return np.asarray(session.run(None, feeds)[0])

    return run


def with_outliers(graph: ir.Model) -> ir.Model:
    """A copy whose LayerNorms have a few large channels, as those of trained models."""
    copy = graph.clone()
    for name, value in copy.graph.initializers.items():
        if name.endswith("LayerNorm.weight") and value.const_value is not None:
            gain = value.const_value.numpy().copy()
            gain[[3, 17, 29]] *= 12
            value.const_value = ir.Tensor(gain, name=name)
    return copy


@pytest.fixture
def graphs(make_graph: MakeGraph, tmp_path: Path) -> tuple[Run, Run, Run]:
    """float32, int8, and int8 with one scale for a call."""
    graph = with_outliers(make_graph("BertForMaskedLM", "fill-mask"))
    scales = scales_of(graph, tmp_path)
    int8, dynamic = graph.clone(), graph.clone()
    quantize_invariant(int8, Int8Plan(), scales)
    quantize_dynamic(dynamic, Int8Plan())
    files = (tmp_path / "int8.onnx", tmp_path / "dynamic.onnx")
    return runner(graph, tmp_path / "f.onnx"), runner(int8, files[0]), runner(dynamic, files[1])


def test_a_text_has_the_same_outputs_in_any_batch(graphs: tuple[Run, Run, Run]) -> None:
    _, run, run_dynamic = graphs
    changes: list[float] = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(TOKENS, st.lists(TOKENS, max_size=4), st.integers(0, 30), st.data())
    def check(text: list[int], others: list[list[int]], padding: int, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(others)))
        batch = [*others[:place], text, *others[place:]]
        length = max(map(len, batch)) + padding
        alone = run([text], len(text))[0]
        among = run(batch, length)[place, : len(text)]
        bound = MAX_CHANGE * max(1.0, float(np.abs(alone).max()))
        np.testing.assert_allclose(among, alone, rtol=0, atol=bound)
        dynamic = run_dynamic([text], len(text))[0]
        changes.append(
            float(np.abs(run_dynamic(batch, length)[place, : len(text)] - dynamic).max())
        )

    check()
    assert max(changes) > 100 * MAX_CHANGE, "one scale for a call does not have this property"


def test_it_is_nearer_to_float32_than_one_scale_for_a_call(graphs: tuple[Run, Run, Run]) -> None:
    texts = [np.random.default_rng(7).integers(5, 53, 33).tolist() for _ in range(5)]
    exact, int8, dynamic = (run(texts, 33) for run in graphs)
    assert np.abs(int8 - exact).mean() < 0.95 * np.abs(dynamic - exact).mean()


def test_a_gelus_outputs_have_a_scale_for_each_row(make_graph: MakeGraph, tmp_path: Path) -> None:
    graph = make_graph("DistilBertModel", "feature-extraction")
    scales = scales_of(graph, tmp_path)
    kinds = Counter(type(scale) for scale in scales.values())
    assert kinds[RowScale] >= 2, "one behind the GELU of each layer"
    quantize_invariant(graph, Int8Plan(), scales)
    operators = Counter(node.op_type for node in graph.graph)
    assert operators["DynamicQuantizeLinear"] == operators["DynamicQuantizeMatMul"] == 0
    assert operators["MatMulIntegerToFloat"] == 12
    assert operators["ReduceMax"] == kinds[RowScale]
    # Layers share what depends on the number of tokens only.
    assert operators["ConstantOfShape"] <= 2


def linear_of(weight_KN: NDArray[np.float32], producer: str = "Identity") -> Linear:
    source = ir.Value(name="source", type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node(producer, [source], domain=CONTRIB if producer == "Gelu" else "")
    node.outputs[0].name = "x"
    tensor = ir.Tensor(weight_KN, name="w")
    weight = ir.Value(name="w", const_value=tensor, shape=tensor.shape)
    matmul = ir.node("MatMul", [node.outputs[0], weight], name="m/MatMul")
    return Linear("m", matmul, matmul, weight, None, rows_are_outputs=False, constant=False)


def sample_of(rows_RK: NDArray[np.float32]) -> dict[str, RowSample]:
    return {"x": RowSample(rows_RK.min(axis=0), rows_RK.max(axis=0), rows_RK)}


def test_an_outlier_channel_moves_into_the_weight() -> None:
    rng = np.random.default_rng(5)
    rows_RK = rng.standard_normal((200, 16)).astype(np.float32)
    rows_RK[:, 3] *= 60
    linear = linear_of(rng.standard_normal((16, 40)).astype(np.float32))
    scale = select_scales([linear], sample_of(rows_RK), Int8Plan())["x"]
    assert isinstance(scale, FixedScale)
    assert scale.powers is not None
    assert scale.powers.argmax() == 3
    assert scale.powers[3] >= 3
    assert scale.high < 40, "the range is that of the divided values"


def test_even_channels_stay_and_rows_of_unlike_sizes_get_their_own_scale() -> None:
    rng = np.random.default_rng(6)
    rows_RK = rng.standard_normal((200, 16)).astype(np.float32)
    linear = linear_of(rng.standard_normal((16, 40)).astype(np.float32))
    even = select_scales([linear], sample_of(rows_RK), Int8Plan())["x"]
    assert isinstance(even, FixedScale)
    assert even.powers is None
    rows_RK *= np.exp2(rng.integers(-9, 3, (200, 1))).astype(np.float32)
    # The small rows are lost on the scale of the large ones, but count for little in the sum.
    gelu = linear_of(rng.standard_normal((16, 40)).astype(np.float32), "Gelu")
    assert isinstance(select_scales([gelu], sample_of(rows_RK), Int8Plan())["x"], RowScale)


def test_roundings_are_half_a_step_at_most() -> None:
    rng = np.random.default_rng(8)
    rows_RK = (rng.standard_normal((50, 30)) * np.exp2(rng.integers(-6, 6, (50, 1)))).astype(
        np.float32
    )
    rounded = round_rows(rows_RK, RowScale())
    step = np.maximum(rows_RK.max(axis=1) / 127, -rows_RK.min(axis=1) / 128)
    assert (np.abs(rounded - rows_RK) <= 0.5001 * step[:, None]).all()
    fixed = round_fixed(np.array([-1.0, 0.0, 3.0, 9.0], np.float32), FixedScale(-1.0, 4.0))
    np.testing.assert_allclose(fixed, [-1, 0, 3, 4], atol=5 / 255)
    assert fixed[1] == 0
