"""Quantized artefacts against PyTorch with the same roundings: right ones pass, faults do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from edgedistil.core.precision import Precision
from edgedistil.core.task import Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.quantized_reference import (
    reference_outputs,
    round_blocks,
    round_dynamic,
    rounded_model,
)
from edgedistil.export.reference import Reference, make_probes
from edgedistil.export.storage import save_graph
from edgedistil.export.trace import trace_model
from edgedistil.parity.gate import check_artefact, list_failures
from edgedistil.parity.part_check import check_parts
from edgedistil.parity.probes import Probes

from .conftest import make
from .test_certificate import convert

ROUNDED: list[Precision] = ["fp16", "int8", "uint8", "int8-dynamic", "int8-static", "int4"]


# (class, task) → probes, which are the same for every precision and fault.
PROBES: dict[tuple[str, Task], Probes] = {}


def save(
    precision: Precision, name: str, task: Task, tools: tuple[TextTokenizer, list[str]], path: Path
) -> Probes:
    """Writes an artefact of a small model; returns its probes with the reference."""
    tokenizer, text = tools
    source = make(name)
    if (name, task) not in PROBES:
        PROBES[name, task] = make_probes(source, tokenizer, task, text, seed=5)
    probes = PROBES[name, task]
    graph = trace_model(source, task=task)
    run_standard_passes(graph, source.config)
    convert(graph, precision)
    save_graph(graph, path, external=False)
    reference = reference_outputs(Reference(source, task, None), graph, probes)
    assert reference is not None
    return probes.with_reference(precision, reference)


@pytest.mark.parametrize("precision", ROUNDED)
def test_every_part_of_a_right_artefact_has_the_same_roundings(
    precision: Precision, tokenizer: TextTokenizer, text: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    probes = save(precision, "BertModel", "feature-extraction", (tokenizer, text), path)
    parts = check_parts(path, probes, precision)
    assert [part.part for part in parts] == [*probes.boundaries, "output"]
    assert max(part.share for part in parts) < 0.05
    record = check_artefact(path, probes, precision=precision, model="m", task=probes.task)
    assert list_failures(record) == []
    assert [r.tolerance.figure for r in record.results].count("reference_share") == 2


def swap_query_and_key(graph: onnx.GraphProto) -> None:
    node = next(n for n in graph.node if n.name.endswith("layer.1/attention/self/scores"))
    node.input[0], node.input[1] = node.input[1], node.input[0]


def forget_the_mask(graph: onnx.GraphProto) -> None:
    node = next(n for n in graph.node if n.name.endswith("layer.0/attention/self/masked"))
    weights = next(n for n in graph.node if node.output[0] in n.input)
    weights.input[0] = node.input[0]


def double_a_product(graph: onnx.GraphProto) -> None:
    node = next(n for n in graph.node if n.name.endswith("layer.0/output/dense/MatMul"))
    output = node.output[0]
    node.output[0] = f"{output}/half"
    index = list(graph.node).index(node)
    double = helper.make_node("Add", [node.output[0], node.output[0]], [output])
    graph.node.insert(index + 1, double)


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "int8-static", "int4"])
@pytest.mark.parametrize("fault", [swap_query_and_key, forget_the_mask, double_a_product])
def test_wrong_wiring_is_found_in_its_part(
    fault: Callable[[onnx.GraphProto], None],
    precision: Precision,
    tokenizer: TextTokenizer,
    text: list[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    tools = (tokenizer, text)
    probes = save(precision, "BertForSequenceClassification", "text-classification", tools, path)
    model = onnx.load(path)
    fault(model.graph)
    onnx.save(model, path)
    record = check_artefact(path, probes, precision=precision, model="m", task=probes.task)
    assert not record.passed
    part = "layer 1 attention" if fault is swap_query_and_key else "layer 0"
    assert any(failure.startswith(part) for failure in list_failures(record))


def test_references_are_stored_with_the_probes(
    tokenizer: TextTokenizer, text: list[str], tmp_path: Path
) -> None:
    tools = (tokenizer, text)
    probes = save("int8", "BertModel", "feature-extraction", tools, tmp_path / "model.onnx")
    probes.save(tmp_path / "probes.npz")
    loaded = Probes.load(tmp_path / "probes.npz")
    for stored, original in zip(loaded.references["int8"], probes.references["int8"], strict=True):
        assert stored.keys() == original.keys()
        for name, array in stored.items():
            np.testing.assert_array_equal(array, original[name])
    short = loaded.up_to(16)
    assert len(short.references["int8"]) == len(short.batches)


def test_float32_rounds_nothing(tokenizer: TextTokenizer, text: list[str]) -> None:
    source = make("BertModel")
    probes = make_probes(source, tokenizer, "feature-extraction", text, seed=5)
    graph = trace_model(source, task="feature-extraction")
    run_standard_passes(graph, source.config)
    reference = Reference(source, "feature-extraction", None)
    assert reference_outputs(reference, graph, probes) is None
    rounded = rounded_model(reference, {})
    assert rounded.is_complete()


def test_inputs_are_rounded_to_256_levels_with_zero_among_them() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 4.1])
    rounded = round_dynamic(x)
    assert rounded[1] == 0
    assert torch.equal(round_dynamic(rounded), rounded)
    assert (rounded - x).abs().max() <= 5.1 / 255 / 2 * 1.001
    positive = round_dynamic(torch.tensor([2.0, 3.0]))
    # The range starts at 0, whatever the smallest value is.
    assert positive[1] == pytest.approx(3.0)


def test_blocks_have_a_scale_of_their_own() -> None:
    x = torch.cat([torch.full((1, 32), 100.0), torch.full((1, 5), 0.013)], dim=1)
    rounded = round_blocks(32)(x)
    assert rounded.shape == x.shape
    torch.testing.assert_close(rounded, x, rtol=1e-6, atol=0)
