"""Each rewritten operator computes what onnxruntime's own operator does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgedistil.core.errors import ModelError
from edgedistil.runtime.plain_graph import rewrite, write_plain_graph

M, K, N = 7, 5, 3


def run(model: onnx.ModelProto, feeds: dict[str, Any], *, optimized: bool = False) -> NDArray[Any]:
    """The output, without the fusions that would undo the rewriting."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, feeds)[0])


def one_node(
    node: onnx.NodeProto, inputs: dict[str, list[int]], weights: dict[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A graph of one operator with float32 inputs."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9)


def fused(op_type: str, inputs: list[str], **settings: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], domain="com.microsoft", **settings)


def domains(model: onnx.ModelProto) -> set[str]:
    return {node.domain for node in model.graph.node}


RANDOM = np.random.default_rng(5)
WEIGHT_KN = RANDOM.integers(-100, 100, (K, N)).astype(np.int8)
SCALE_N = RANDOM.uniform(0.01, 0.02, N).astype(np.float32)
BIAS_N = RANDOM.normal(size=N).astype(np.float32)
INTEGER_WEIGHTS = {"w": WEIGHT_KN, "s": SCALE_N, "b": BIAS_N}


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (one_node(fused("Gelu", ["x"]), {"x": [M, K]}, {}), {"x": (M, K)}),
        (one_node(fused("QuickGelu", ["x"], alpha=1.0), {"x": [M, K]}, {}), {"x": (M, K)}),
        (one_node(fused("QuickGelu", ["x"], alpha=1.5), {"x": [M, K]}, {}), {"x": (M, K)}),
        (
            one_node(
                fused("FusedMatMul", ["x", "w"], transB=1),
                {"x": [2, M, K]},
                {"w": RANDOM.normal(size=(N, K)).astype(np.float32)},
            ),
            {"x": (2, M, K)},
        ),
        # Attention on activations whose first dimension is the length.
        (
            one_node(
                fused(
                    "FusedMatMul",
                    ["q", "k"],
                    alpha=0.5,
                    transB=1,
                    transBatchA=1,
                    transBatchB=1,
                ),
                {"q": [M, 2, 3, K], "k": [N, 2, 3, K]},
                {},
            ),
            {"q": (M, 2, 3, K), "k": (N, 2, 3, K)},
        ),
        (
            one_node(
                fused("DynamicQuantizeMatMul", ["x", "w", "s", "", "b"]),
                {"x": [M, K]},
                INTEGER_WEIGHTS,
            ),
            {"x": (M, K)},
        ),
    ],
    ids=["gelu", "silu", "quick-gelu", "weight", "attention", "dynamic int8"],
)
def test_an_operator_is_rewritten(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]
) -> None:
    random = np.random.default_rng(11)
    feeds = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    operator, expected = model.graph.node[0].op_type, run(model, feeds)
    assert rewrite(model) == {operator: 1}
    assert domains(model) == {""}
    np.testing.assert_allclose(run(model, feeds), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("precision", ["", "_int8"])
def test_an_export_computes_the_same(precision: str, small_export: Path, tmp_path: Path) -> None:
    path, plain = small_export / "onnx" / f"model{precision}.onnx", tmp_path / "plain.onnx"
    changed = write_plain_graph(path, plain)
    assert changed["FusedMatMul"] > 0 and changed["Gelu"] > 0
    if precision:
        assert changed["MatMulIntegerToFloat"] > 0 and changed["QuantizeLinear"] > 0
    model = onnx.load(plain)
    assert domains(model) == {""}
    ids_BL = np.random.default_rng(13).integers(5, 90, (2, 11))
    feeds = {"input_ids": ids_BL, "attention_mask": np.ones_like(ids_BL)}
    feeds["token_type_ids"] = feeds["input_ids"] * 0
    expected = run(onnx.load(path), feeds, optimized=True)
    # A value at a half may be rounded to the other side, once in a thousand.
    tolerance = 0.02 if precision else 1e-5
    np.testing.assert_allclose(run(model, feeds), expected, rtol=0, atol=tolerance)


def test_a_standard_quantization_remains() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"])
    back = helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"])
    weights = {"step": np.array(0.1, np.float32), "zero": np.array(3, np.uint8)}
    model = one_node(node, {"x": [M, K]}, weights)
    model.graph.node.append(back)
    assert rewrite(model) == {}


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_a_quantization_along_an_axis_keeps_its_axis(axis: int) -> None:
    x_MKN = RANDOM.normal(size=(M, K, N)).astype(np.float32)
    zero = helper.make_tensor("zero", TensorProto.UINT8, [1], [128])
    model = one_node(
        helper.make_node("Mul", ["raw", "two"], ["scale"]),
        {"x": [M, K, N], "raw": [x_MKN.shape[axis]]},
        {"two": np.array(2, np.float32)},
    )
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["scale"], ["count"]),
            helper.make_node("ConstantOfShape", ["count"], ["zeros"], value=zero),
            helper.make_node("QuantizeLinear", ["x", "scale", "zeros"], ["q"], axis=axis),
            helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
        ]
    )
    raw = RANDOM.uniform(0.005, 0.05, x_MKN.shape[axis]).astype(np.float32)
    feeds = {"x": x_MKN, "raw": raw}
    expected = run(model, feeds)
    assert rewrite(model) == {"QuantizeLinear": 1}
    np.testing.assert_array_equal(run(model, feeds), expected)


def branch(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [output])


def test_constants_that_are_read_in_a_body_or_returned_remain() -> None:
    model = one_node(
        fused("FusedMatMul", ["x", "w"], transB=1),
        {"x": [M, K]},
        {
            "w": RANDOM.normal(size=(N, K)).astype(np.float32),
            "b": BIAS_N,
            "returned": SCALE_N,
            "condition": np.array(True),
            "unused": SCALE_N,
        },
    )
    [product] = model.graph.node
    product.output[0] = "product"
    add = branch("then", helper.make_node("Add", ["product", "b"], ["sum"]))
    same = branch("else", helper.make_node("Identity", ["product"], ["same"]))
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["y"], then_branch=add, else_branch=same)
    )
    model.graph.output.append(helper.make_tensor_value_info("returned", TensorProto.FLOAT, [N]))
    feeds = {"x": RANDOM.normal(size=(M, K)).astype(np.float32)}
    expected = run(model, feeds)
    assert rewrite(model) == {"FusedMatMul": 1}
    np.testing.assert_allclose(run(model, feeds), expected, rtol=0, atol=2e-6)
    constants = {tensor.name for tensor in model.graph.initializer}
    assert constants == {"w/turned", "b", "returned", "condition"}


def test_a_product_of_unknown_dimensions_is_refused() -> None:
    model = one_node(fused("FusedMatMul", ["z", "x"], transBatchA=1), {"x": [M, K]}, {})
    model.graph.node.insert(0, helper.make_node("Loop", ["x"], ["z"]))
    with pytest.raises(ModelError, match="dimensions of 'z' is unknown: Loop computes it"):
        rewrite(model)


def test_a_graph_that_cannot_be_rewritten_is_named(tmp_path: Path) -> None:
    model = one_node(fused("FusedMatMul", ["z", "x"], transBatchA=1), {"x": [M, K]}, {})
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"/model\.onnx: the number of dimensions") as caught:
        write_plain_graph(path, tmp_path / "graph.onnx")
    assert "leave out --runtime" in str(caught.value.hint)


def test_a_malformed_node_remains_for_the_runtime_to_refuse() -> None:
    model = one_node(fused("FusedMatMul", ["x"]), {"x": [M, K]}, {})
    assert rewrite(model) == {}
    assert [node.op_type for node in model.graph.node] == ["FusedMatMul"]


def test_a_value_that_depends_on_itself_is_refused() -> None:
    model = one_node(fused("FusedMatMul", ["a", "x"], transBatchA=1), {"x": [M, K]}, {})
    model.graph.node.extend(
        [helper.make_node("Cast", ["b"], ["a"]), helper.make_node("Cast", ["a"], ["b"])]
    )
    with pytest.raises(ModelError, match="depends on itself"):
        rewrite(model)
