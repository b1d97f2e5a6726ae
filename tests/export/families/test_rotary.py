"""ModernBERT, NomicBERT and EuroBERT: rotary positions, gated layers, windows, grouped heads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from edgedistil.core.export_records import InvarianceRecord
from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.export.passes.rotary import BLOCK
from tests.export.families.conftest import (
    LAYERS,
    Export,
    Exported,
    check_int8,
    check_lengths,
    feeds,
    largest_difference,
)

NAMES = ("modernbert", "nomic_bert", "eurobert")
PAIRS = [
    (name, task)
    for name in NAMES
    for task in TASKS
    if TASKS[task].architectures[0] not in FAMILIES[name].missing_heads
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(*request.param)


def test_the_graph_gives_pytorchs_outputs_at_every_length(exported: Exported) -> None:
    check_lengths(exported)


def test_int8_passed_its_gate_and_no_weight_is_stored_twice(exported: Exported) -> None:
    check_int8(exported)


def test_attention_norms_and_activations_are_fused(exported: Exported) -> None:
    operators, fused = exported.operators(), exported.record().fused
    assert fused["attention"] == LAYERS
    assert operators["RotaryEmbedding"] == 2 * LAYERS
    # Nothing of the spelled-out rotation, norm, or activation is left.
    assert not operators.keys() & {"Sin", "Cos", "Neg", "Sigmoid", "Erf", "Pow", "ReduceMean"}
    if exported.model.config.model_type == "modernbert":
        # The first layer attends to all tokens, the second to a window.
        assert (operators["Scan"], operators["Softmax"]) == (1, 1)
        # The embeddings, the feed-forwards, the second attention, and the end.
        norms = 3 + LAYERS
        head_norm = exported.task not in ("feature-extraction",)
        assert fused["norm-biases"] == operators["LayerNormalization"] == norms + head_norm
    else:
        assert operators["Scan"] == LAYERS
        assert fused["silu"] == operators["QuickGelu"] >= LAYERS
    if exported.model.config.model_type == "eurobert":
        assert fused["rms-norm"] == operators["SimplifiedLayerNormalization"] == 2 * LAYERS + 1


# --- long texts ----------------------------------------------------------------------------------

LONG = 3 * BLOCK + 5


@pytest.fixture(scope="module", params=NAMES)
def long_exported(request: pytest.FixtureRequest, export_case: Export) -> Exported:
    return export_case(request.param, "feature-extraction", ("fp32",), max_position_embeddings=LONG)


# One block, one query more, and as many as there are positions.
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, LONG])
def test_texts_of_several_blocks_are_exact(long_exported: Exported, length: int) -> None:
    assert largest_difference(long_exported, 2, length) < 1e-4


@pytest.mark.parametrize("window", [2, 3 * BLOCK])
def test_windows_of_other_widths_are_exact(export_case: Export, window: int) -> None:
    changes = {"local_attention": window, "max_position_embeddings": LONG}
    exported = export_case("modernbert", "feature-extraction", ("fp32",), **changes)
    assert largest_difference(exported, 2, LONG) < 1e-4


def test_no_tensor_grows_with_the_square_of_the_length(long_exported: Exported) -> None:
    def largest(L: int) -> int:
        return max(size for size in _tensor_sizes(long_exported, L))

    # From one block to three: a matrix of all pairs would have nine times the numbers.
    assert largest(3 * BLOCK) <= 3.2 * largest(BLOCK)


def _tensor_sizes(exported: Exported, L: int) -> list[int]:
    """Numbers in every tensor of the graph, those of the blocks included."""
    import onnxruntime as ort

    file = exported.folder / exported.record().files[0].path
    model = onnx.load(file)
    names = [name for node in model.graph.node for name in node.output if name]
    # The scores of a block are the output of no node of the outer graph.
    for node in model.graph.node:
        body = next((a.g for a in node.attribute if a.name == "body"), None)
        if body is not None:
            scores = next(n.output[0] for n in body.node if n.op_type == "Softmax")
            body.output.append(onnx.helper.make_tensor_value_info(scores, 1, None))
            node.output.append(f"{node.name}/scores")
            names.append(f"{node.name}/scores")
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    arrays = feeds(exported, 1, L)
    inputs = {value.name: arrays[value.name] for value in session.get_inputs()}
    outputs = session.run(None, inputs)
    sizes = []
    for name, array in zip(names, outputs, strict=True):
        # The blocks of a scan are computed one after the other.
        count = array.shape[0] if name.endswith("/scores") else 1
        sizes.append(np.size(array) // count)
    return sizes


# --- options -------------------------------------------------------------------------------------

_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("modernbert", {"norm_bias": True, "mlp_bias": True, "attention_bias": True}),
        ("modernbert", {"classifier_bias": True, "hidden_activation": "silu"}),
        ("modernbert", {"layer_types": ["sliding_attention"] * LAYERS}),
        ("eurobert", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
        ("eurobert", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        (
            "eurobert",
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        ),
        ("nomic_bert", {"type_vocab_size": 1, "hidden_act": "gelu"}),
    ],
)
def test_options_of_a_config_are_exact(
    export_case: Export, name: str, changes: dict[str, Any]
) -> None:
    exported = export_case(name, "fill-mask", ("fp32",), **changes)
    check_lengths(exported)
    assert Counter(exported.record().fused)["attention"] == LAYERS


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_classifiers_of_every_pooling_are_exact(
    export_case: Export, pooling: str, problem: str
) -> None:
    changes = {"num_labels": 1 if problem == "regression" else 3, "problem_type": problem}
    task: Task = "text-classification"
    exported = export_case("modernbert", task, ("fp32",), classifier_pooling=pooling, **changes)
    check_lengths(exported)


@pytest.mark.parametrize("pooling", ["bos", "mean", "late"])
def test_eurobert_pools_in_three_ways(export_case: Export, pooling: str) -> None:
    task: Task = "text-classification"
    exported = export_case("eurobert", task, ("fp32",), classifier_pooling=pooling)
    check_lengths(exported)
    ((_, parity),) = exported.artefacts
    assert isinstance(parity.invariance, InvarianceRecord)
    # The tokenizer pads on the left, and PyTorch's class pools the first position, padding or not.
    assert (parity.invariance.bound is None) == (pooling == "bos")
