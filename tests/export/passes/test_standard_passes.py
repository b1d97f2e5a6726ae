"""The passes together, on traced models, and the checks of `run_passes`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgedistil.core.errors import EdgeDistilError
from edgedistil.export.passes import (
    Pass,
    PassCounts,
    run_passes,
    run_standard_passes,
    standard_passes,
    weight_bytes,
)
from edgedistil.export.passes.activation import fuse_gelu
from edgedistil.export.passes.constants import name_constants, read_weights_as_stored
from edgedistil.export.passes.edit import add_initializer
from edgedistil.export.trace import trace_model

if TYPE_CHECKING:
    from tests.export.conftest import Answer, Make

SHAPE_ARITHMETIC = {
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


@pytest.fixture
def traced(model: Make) -> tuple[ir.Model, PassCounts]:
    """A masked LM as traced, before any pass, and its counts."""
    source = model("DistilBertForMaskedLM")
    graph = trace_model(source, task="fill-mask")
    return graph, PassCounts.of(graph, source.config)


def operators(graph: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph)


def test_no_shape_arithmetic_is_left_but_the_length_of_the_sequence(
    traced: tuple[ir.Model, PassCounts],
) -> None:
    graph, counts = traced
    before = operators(graph)
    changed = run_passes(graph, standard_passes(counts))
    after = operators(graph)
    assert changed == {
        "boundaries": 6,
        "sequence-first": 1,
        "attention": 2,
        "positions": 1,
        "gelu": 3,
        "weights-as-stored": 14,
        "residual-sums": 4,
        "bias-sums": 3,
    }
    # The word embeddings; the length, the position rows, their batch axis; the mask's two axes.
    left = {name: after[name] for name in SHAPE_ARITHMETIC if after[name]}
    assert left == {"Gather": 1, "Shape": 1, "Slice": 1, "Unsqueeze": 2}
    assert sum(before[name] for name in SHAPE_ARITHMETIC) > 40
    assert {node.domain for node in graph.graph} == {"", "com.microsoft"}
    assert after["Transpose"] == counts.layers + 2, (
        "one for the context of each layer, one for the inputs, one for the output"
    )
    assert (after["FusedMatMul"], after["MatMul"]) == (2 * counts.layers + 14, 0), (
        "scores, context, and every weight"
    )


def test_tied_weights_are_stored_once(model: Make) -> None:
    source = model("DistilBertForMaskedLM")
    graph = trace_model(source, task="fill-mask")
    run_standard_passes(graph, source.config)
    unique = sum(parameter.numel() for parameter in source.parameters()) * 4
    assert unique <= weight_bytes(graph) <= unique * 1.02


@pytest.mark.parametrize(
    "name", ["gelu", "weights-as-stored", "residual-sums", "bias-sums", "constants"]
)
def test_a_pass_alone_keeps_the_outputs(
    traced: tuple[ir.Model, PassCounts], answer: Answer, name: str
) -> None:
    """The passes that a runnable graph does not need: without the pass, and with it last."""
    graph, counts = traced
    passes = standard_passes(counts)
    needs = {"gelu": {"bias-sums"}}.get(name, set())
    others = [step for step in passes if step.name != name and step.name not in needs]
    run_passes(graph, others)
    before, size = answer(graph), weight_bytes(graph)
    run_passes(graph, [step for step in passes if step.name == name])
    np.testing.assert_allclose(answer(graph), before, atol=2e-6)
    assert weight_bytes(graph) <= size


def test_a_session_fuses_neither_the_bias_with_gelu_nor_the_residual_with_its_norm(
    graph: ir.Model, tmp_path: Path
) -> None:
    """Both fused kernels are slower than their parts; onnxruntime makes them of every `Add`."""
    gelus = operators(graph)["Gelu"]
    optimized = _optimized(graph, tmp_path)
    assert optimized["Gelu"] == gelus == 3
    assert not {"BiasGelu", "SkipLayerNormalization"} & set(optimized)
    for node in graph.graph:
        if node.op_type == "Sum":
            node.op_type = "Add"
    assert _optimized(graph, tmp_path)["BiasGelu"] == gelus


def _optimized(graph: ir.Model, folder: Path) -> Counter[str]:
    """Operators of the graph that a session runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return operators(ir.load(folder / "optimized.onnx"))


def test_a_pass_that_changes_another_number_of_places_than_it_declared_fails(
    traced: tuple[ir.Model, PassCounts],
) -> None:
    graph, counts = traced
    wrong = standard_passes(replace(counts, gelus=counts.gelus + 1))
    with pytest.raises(EdgeDistilError, match="'gelu' changed 3 places, expected 4"):
        run_passes(graph, wrong)


def test_a_pass_that_makes_the_weights_larger_fails(traced: tuple[ir.Model, PassCounts]) -> None:
    graph, _ = traced

    def grow(model: ir.Model) -> int:
        initializers = model.graph.initializers
        bias = next(v for name, v in initializers.items() if name.endswith("vocab_projector.bias"))
        (use,) = bias.uses()
        larger = add_initializer(model.graph, "larger", np.zeros((97, 53), np.float32))
        use.node.replace_input_with(use.idx, larger)
        return 1

    with pytest.raises(EdgeDistilError, match="'grow' made the weights larger"):
        run_passes(graph, [Pass("grow", grow, 1)])


def test_passes_change_nothing_the_second_time(graph: ir.Model) -> None:
    assert (fuse_gelu(graph), read_weights_as_stored(graph), name_constants(graph)) == (0, 0, 0)
