"""The certificate of real artefacts: sound ones pass, any changed weight or constant is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import transformers
from onnx import numpy_helper
from transformers import AutoConfig, PreTrainedModel

from edgedistil.core.family import FAMILIES
from edgedistil.core.task import TASKS, Task
from edgedistil.export.input_scales import FixedScale, InputScale, row_scale_of
from edgedistil.export.int8_arithmetic import Int8Plan
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantize import (
    group_by_input,
    quantizable_linears,
    quantize_dynamic,
    quantize_static,
)
from edgedistil.export.quantize_invariant import quantize_invariant
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace_model
from edgedistil.export.weight_only import convert_to_float16, quantize_int4
from edgedistil.export.weight_source import read_weight_source, used_parameters
from edgedistil.parity import certificate
from edgedistil.parity.certificate import certify
from edgedistil.parity.formula import METADATA_KEY, WeightSource

from .conftest import make

MODELS: list[tuple[str, Task]] = [
    ("DistilBertForMaskedLM", "fill-mask"),
    ("BertForMaskedLM", "fill-mask"),
    ("BertModel", "feature-extraction"),
    ("DistilBertModel", "feature-extraction"),
    ("BertForSequenceClassification", "text-classification"),
    ("DistilBertForSequenceClassification", "text-classification"),
    ("BertForTokenClassification", "token-classification"),
    ("BertForQuestionAnswering", "question-answering"),
]
PRECISIONS = [
    "fp32",
    "fp16",
    "int8",
    "uint8",
    "int8-dynamic",
    "per tensor",
    "int8-static",
    "int4",
]


def random_scales(graph: ir.Model) -> dict[str, InputScale]:
    """A scale of each kind: fixed, fixed after powers of two moved, and one for each row."""
    rng = np.random.default_rng(0)
    scales: dict[str, InputScale] = {}
    for x, readers in group_by_input(quantizable_linears(graph, Int8Plan())).items():
        powers = rng.integers(-2, 3, readers[0].matrix().shape[0])
        moved = FixedScale(-5.0, 5.0, None if readers[0].tied else powers)
        by_row = row_scale_of(x)
        plain = len(scales) % 4 == 3
        scales[x.name or ""] = by_row if by_row.bounded_below or plain else moved
    return scales


def convert(graph: ir.Model, precision: str) -> None:
    if precision == "fp16":
        convert_to_float16(graph)
    elif precision == "int8":
        quantize_invariant(graph, Int8Plan(), random_scales(graph))
    elif precision == "int8-dynamic":
        quantize_dynamic(graph, Int8Plan())
    elif precision == "uint8":
        plan = Int8Plan(signed=False, reduced_range=True)
        quantize_invariant(graph, plan, random_scales(graph))
    elif precision == "per tensor":
        quantize_dynamic(graph, Int8Plan(per_channel=False))
    elif precision == "int8-static":
        inputs = group_by_input(quantizable_linears(graph, Int8Plan()))
        quantize_static(graph, Int8Plan(), {value.name or "": (-3.0, 5.0) for value in inputs})
    elif precision == "int4":
        quantize_int4(graph, Int8Plan())


def save(name: str, task: Task, precision: str, folder: Path) -> tuple[Path, WeightSource]:
    """An artefact of a small model as one file, and its source."""
    source = make(name)
    graph = trace_model(source, task=task)
    run_standard_passes(graph, source.config)
    convert(graph, precision)
    path = save_graph(graph, folder / "model.onnx", external=False)[0]
    return path, read_weight_source(source, task)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("name", "task"), MODELS)
def test_every_weight_of_a_sound_artefact_is_certified(
    name: str, task: Task, precision: str, tmp_path: Path
) -> None:
    path, source = save(name, task, precision, tmp_path)
    record = certify(path, source)
    assert record.problems == []
    assert record.initializers == len(onnx.load(path).graph.initializer)
    assert record.tensors >= len(source.used)
    # The epsilons of five or more LayerNorms, and the scale of the attention of two layers.
    assert record.attributes >= 7


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_change_of_any_initializer_is_found(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "_LISTED_PROBLEMS", 1000)
    path, source = save("BertForSequenceClassification", "text-classification", precision, tmp_path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = np.array(numpy_helper.to_array(tensor))
        # One value in the middle, changed by a step of an integer or by 1% of the tensor's size.
        flat = array.reshape(-1)
        flat[len(flat) // 2] += one_step(array)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    named = {problem.split(": ")[0] for problem in certify(path, source).problems}
    assert named == {tensor.name for tensor in model.graph.initializer}


def one_step(array: np.ndarray) -> np.generic:
    if array.dtype.kind in "iu":
        # A step that stays inside the low half of a byte, which holds 4 bits.
        step = 1 if array.flat[array.size // 2] % 16 < 15 else -1
        return np.array(step).astype(array.dtype)
    return array.dtype.type(float(np.abs(array).max()) * 0.01 or 0.01)


def broken(precision: str, folder: Path, change: Callable[[onnx.GraphProto], None]) -> list[str]:
    path, source = save("BertForMaskedLM", "fill-mask", precision, folder)
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return certify(path, source).problems


def test_rows_in_another_order_are_found_without_text(tmp_path: Path) -> None:
    def permute(graph: onnx.GraphProto) -> None:
        (rows,) = (t for t in graph.initializer if t.name.endswith("word_embeddings.weight"))
        array = numpy_helper.to_array(rows)[[*range(40), *range(52, 39, -1)]]
        rows.CopyFrom(numpy_helper.from_array(array, rows.name))

    (problem,) = broken("fp32", tmp_path, permute)
    assert problem.startswith("bert.embeddings.word_embeddings.weight: 528 of 2,332 values differ")


def set_attribute(op_type: str, name: str, value: float) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        node = next(node for node in graph.node if node.op_type == op_type)
        others = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*others, onnx.helper.make_attribute(name, value)])

    return change


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("op_type", "attribute", "value"),
    [("LayerNormalization", "epsilon", 1e-5), ("FusedMatMul", "alpha", 0.25)],
)
def test_a_constant_that_is_not_the_configs_is_found(
    op_type: str, attribute: str, value: float, precision: str, tmp_path: Path
) -> None:
    (problem,) = broken(precision, tmp_path, set_attribute(op_type, attribute, value))
    assert problem.startswith(f"{attribute} of /model/bert/")


def test_an_approximate_gelu_is_found(tmp_path: Path) -> None:
    def approximate(graph: onnx.GraphProto) -> None:
        next(node for node in graph.node if node.op_type == "Gelu").op_type = "FastGelu"

    (problem,) = broken("int8", tmp_path, approximate)
    assert problem.endswith("is a FastGelu, expected the config's exact gelu")


def test_a_weight_that_no_output_reads_is_found(tmp_path: Path) -> None:
    def skip_bias(graph: onnx.GraphProto) -> None:
        add = next(node for node in graph.node if node.op_type == "Add" and "query" in node.name)
        bias = next(name for name in add.input if name.endswith("bias"))
        other = next(name for name in add.input if name != bias)
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == add.output[0]:
                    node.input[index] = other

    bias = "bert.encoder.layer.0.attention.self.query.bias"
    problems = broken("fp32", tmp_path, skip_bias)
    assert problems == [
        f"no output depends on {bias}",
        f"the outputs do not depend on the model's {bias}",
    ]


def test_a_weight_without_a_formula_is_refused(tmp_path: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        bias = next(t for t in graph.initializer if t.name.endswith("key.bias"))
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == bias.name:
                    node.input[index] = "unknown"
        bias.name = "unknown"

    problems = broken("fp32", tmp_path, rename)
    assert problems[0] == "unknown has no formula: the export does not say what it is"


def test_a_file_without_formulas_is_refused(tmp_path: Path) -> None:
    path, source = save("BertModel", "feature-extraction", "fp32", tmp_path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    assert certify(path, source).problems == [
        "the file does not say which weights of the model its own are"
    ]
    model.metadata_props.add(key=METADATA_KEY, value="[1]")
    onnx.save(model, path)
    (problem,) = certify(path, source).problems
    assert problem.startswith("the file's record of its weights cannot be read")


def test_unused_parameters_are_those_that_no_output_reads() -> None:
    source = make("BertModel")
    names = {name for name, _ in source.named_parameters()}
    assert names - used_parameters(source, "feature-extraction") == {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    assert not any(parameter.requires_grad for parameter in source.parameters())


def small_model(family: str, auto_class: str) -> PreTrainedModel:
    """A random model of any family, whose sizes differ from each other."""
    keys = FAMILIES[family].keys
    sizes = {
        keys.vocabulary: 53,
        # Rotary positions turn pairs of a head's numbers, so a head has an even number of them.
        keys.hidden: 48,
        keys.layers: 2,
        keys.heads: 4,
        keys.intermediate: 68,
        keys.positions: 40,
        keys.embedding: 20,
        "true_hidden_size": 48,
        "intra_bottleneck_size": 48,
        "pad_token_id": 0 if FAMILIES[family].position_pad is None else 1,
    }
    config = AutoConfig.for_model(family, **sizes)
    torch.manual_seed(7)
    return getattr(transformers, auto_class).from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_certified(family: str, precision: str, tmp_path: Path) -> None:
    for task in ("fill-mask", "text-classification"):
        source = small_model(family, TASKS[task].auto_class)
        graph = trace_model(source, task=task)
        run_standard_passes(graph, source.config)
        convert(graph, precision)
        path = save_graph(graph, tmp_path / f"{task}.onnx", external=False)[0]
        assert certify(path, read_weight_source(source, task)).problems == []
