from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgedistil.core.errors import EdgeDistilError
from edgedistil.export.passes import Pass, Shape, run_passes, standard_passes, weight_bytes
from edgedistil.export.passes.activation import fuse_gelu
from edgedistil.export.passes.constants import name_constants, read_weights_as_stored
from edgedistil.export.passes.edit import add_initializer
from edgedistil.export.trace import trace

ARITHMETIC = {
    "Shape",
    "Gather",
    "Concat",
    "Unsqueeze",
    "Slice",
    "Expand",
    "Where",
    "ConstantOfShape",
    "Range",
    "Equal",
}


def traced(
    model, name: str = "DistilBertForMaskedLM", task: str = "fill-mask"
) -> tuple[ir.Model, Shape]:
    source = model(name)
    graph = trace(source, task=task, token_types=name.startswith("Bert"))
    return graph, Shape.of(graph, source.config)


def passes_of(shape: Shape) -> list[Pass]:
    return standard_passes(shape, token_types=False, drop_token_types=False)


def answers(graph: ir.Model, B: int = 3, L: int = 7) -> np.ndarray:
    opened = ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ids = np.random.default_rng(5).integers(5, 53, (B, L))
    mask = np.ones((B, L), np.int64)
    mask[1, 4:] = 0
    return opened.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def test_no_shape_arithmetic_is_left_but_the_length_of_the_sequence(model) -> None:
    graph, shape = traced(model)
    before = Counter(node.op_type for node in graph.graph)
    counts = run_passes(graph, passes_of(shape))
    after = Counter(node.op_type for node in graph.graph)
    assert counts == {
        "sequence-first": 1,
        "attention": 2,
        "positions": 1,
        "gelu": 3,
        "weights-as-stored": 14,
    } | {
        "residual-sums": 4,
        "bias-sums": 3,
    }
    left = {op: after[op] for op in ARITHMETIC if after[op]}
    # the table of words; the length, the rows of the position table, their batch axis; the mask's two axes
    assert left == {"Gather": 1, "Shape": 1, "Slice": 1, "Unsqueeze": 2}
    assert sum(before[op] for op in ARITHMETIC) > 40
    assert {node.domain for node in graph.graph} == {"", "com.microsoft"}
    assert after["Transpose"] == shape.layers + 2, (
        "one for the context of each layer, one on the way in, one on the way out"
    )
    assert (after["FusedMatMul"], after["MatMul"]) == (2 * shape.layers + 14, 0), (
        "scores, context, and every weight"
    )


def test_tied_weights_are_stored_once(model) -> None:
    graph, shape = traced(model)
    run_passes(graph, passes_of(shape))
    source = model("DistilBertForMaskedLM")
    unique = sum(parameter.numel() for parameter in source.parameters()) * 4
    assert unique <= weight_bytes(graph) <= unique * 1.02


@pytest.mark.parametrize(
    "step", ["gelu", "weights-as-stored", "residual-sums", "bias-sums", "constants"]
)
def test_a_pass_alone_keeps_the_outputs(model, step: str) -> None:
    """The passes that a runnable graph can go without: without the step, and with it last, the outputs are equal."""
    graph, shape = traced(model)
    builds_on = {"gelu": {"bias-sums"}}.get(step, set())
    others = [each for each in passes_of(shape) if each.name != step and each.name not in builds_on]
    run_passes(graph, others)
    before, size = answers(graph), weight_bytes(graph)
    run_passes(graph, [each for each in passes_of(shape) if each.name == step])
    np.testing.assert_allclose(answers(graph), before, atol=2e-6)
    assert weight_bytes(graph) <= size


def test_a_session_fuses_neither_the_bias_with_gelu_nor_the_residual_with_its_norm(
    model, tmp_path: Path
) -> None:
    """Both fused kernels are slower than their parts (docs/log.md); onnxruntime makes them of every `Add`."""
    graph, shape = traced(model)
    run_passes(graph, passes_of(shape))
    kept = _optimised(graph, tmp_path)
    assert kept["Gelu"] == shape.gelus
    assert not {"BiasGelu", "SkipLayerNormalization"} & set(kept)
    for node in graph.graph:
        if node.op_type == "Sum":
            node.op_type = "Add"
    assert _optimised(graph, tmp_path)["BiasGelu"] == shape.gelus


def _optimised(graph: ir.Model, folder: Path) -> Counter[str]:
    """Operators of the graph that a session runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Counter(node.op_type for node in ir.load(folder / "optimised.onnx").graph)


def test_a_pass_that_finds_another_number_of_places_than_it_declared_fails(model) -> None:
    graph, shape = traced(model)
    wrong = [
        replace(each, expected=each.expected + 1) if each.name == "gelu" else each
        for each in passes_of(shape)
    ]
    with pytest.raises(EdgeDistilError, match="'gelu' changed 3 places, expected 4"):
        run_passes(graph, wrong)


def test_a_pass_that_makes_the_weights_larger_fails(model) -> None:
    graph, _ = traced(model)

    def grow(each: ir.Model) -> int:
        bias = next(
            value
            for name, value in each.graph.initializers.items()
            if name.endswith("vocab_projector.bias")
        )
        (use,) = bias.uses()
        doubled = add_initializer(each.graph, "larger", np.zeros((97, 53), np.float32))
        use.node.replace_input_with(use.idx, doubled)
        return 1

    with pytest.raises(EdgeDistilError, match="'grow' made the weights larger"):
        run_passes(graph, [Pass("grow", grow, 1)])


def test_passes_change_nothing_the_second_time(model) -> None:
    graph, shape = traced(model)
    run_passes(graph, passes_of(shape))
    assert (fuse_gelu(graph), read_weights_as_stored(graph), name_constants(graph)) == (0, 0, 0)
