from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from edgedistil.core.model_folder import ACTIVATIONS
from edgedistil.core.task import TASKS, Task
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.trace import takes_token_types, trace_model
from edgedistil.export.traced_modules import TRACED

if TYPE_CHECKING:
    from tests.export.conftest import Make, MakeGraph

CASES: list[tuple[str, Task]] = [
    ("DistilBertForMaskedLM", "fill-mask"),
    ("DistilBertModel", "feature-extraction"),
    ("DistilBertForSequenceClassification", "text-classification"),
    ("BertForMaskedLM", "fill-mask"),
    ("BertModel", "feature-extraction"),
    ("BertForQuestionAnswering", "question-answering"),
    ("BertForSequenceClassification", "text-classification"),
    ("BertForTokenClassification", "token-classification"),
]
SHAPES = [(1, 1), (3, 7), (1, 128), (2, 512)]


def open_session(graph: ir.Model) -> ort.InferenceSession:
    data = ir.to_proto(graph).SerializeToString()
    return ort.InferenceSession(data, providers=["CPUExecutionProvider"])


def random_feeds(
    session: ort.InferenceSession, B: int, L: int, vocabulary: int
) -> dict[str, NDArray[np.int64]]:
    rng = np.random.default_rng(B * 1000 + L)
    mask = np.ones((B, L), np.int64)
    mask[0, max(1, L // 2) :] = 0
    by_name = {
        "input_ids": rng.integers(5, vocabulary, (B, L)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (B, L)),
    }
    return {value.name: by_name[value.name] for value in session.get_inputs()}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_shapes_that_were_not_traced_give_pytorchs_outputs(
    model: Make, make_graph: MakeGraph, name: str, task: Task
) -> None:
    source = model(name)
    session = open_session(make_graph(name, task))
    assert [value.name for value in session.get_outputs()] == list(TASKS[task].outputs)
    for B, L in SHAPES:
        feeds = random_feeds(session, B, L, source.config.vocab_size)
        with torch.no_grad():
            outputs = source(**{key: torch.from_numpy(array) for key, array in feeds.items()})
        for actual, output in zip(session.run(None, feeds), TASKS[task].outputs, strict=True):
            expected = outputs[output].numpy()
            # Outputs at padding are of no use; outputs per sequence have no padding.
            rows = slice(None)
            if expected.ndim > 1 and expected.shape[1] == L:
                rows = feeds["attention_mask"] == 1
            np.testing.assert_allclose(
                actual[rows], expected[rows], atol=2e-5, err_msg=f"{output} at {B} x {L}"
            )


def test_axes_are_named_and_inputs_are_standard(make_graph: MakeGraph) -> None:
    graph = make_graph("BertForMaskedLM", "fill-mask").graph
    axes = {value.name: [str(axis) for axis in value.shape or ()] for value in graph.inputs}
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert axes == {name: ["batch", "sequence"] for name in names}
    (output,) = graph.outputs
    assert [str(axis) for axis in output.shape or ()][:2] == ["batch", "sequence"]


def _compare(source: PreTrainedModel, task: Task, token_types: bool | None = None) -> list[str]:
    """Compares a graph, after the passes, with PyTorch; returns the names of its inputs."""
    graph = trace_model(source, task=task, token_types=token_types)
    run_standard_passes(graph, source.config)
    session = open_session(graph)
    for B, L in ((3, 7), (2, 64)):
        feeds = random_feeds(session, B, L, source.config.vocab_size)
        with torch.no_grad():
            outputs = source(**{key: torch.from_numpy(array) for key, array in feeds.items()})
        (actual,) = session.run(None, feeds)
        attended = feeds["attention_mask"] == 1
        expected = outputs[TASKS[task].outputs[0]].numpy()
        np.testing.assert_allclose(actual[attended], expected[attended], atol=5e-5)
    return [value.name for value in session.get_inputs()]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(
    ("name", "key"), [("BertModel", "hidden_act"), ("DistilBertForMaskedLM", "activation")]
)
def test_every_activation_gives_pytorchs_outputs(
    model: Make, name: str, key: str, activation: str
) -> None:
    task: Task = "fill-mask" if name.endswith("LM") else "feature-extraction"
    _compare(model(name, **{key: activation}), task)


def test_token_types_are_an_input_of_models_with_several_segments(model: Make) -> None:
    task: Task = "feature-extraction"
    assert "token_type_ids" not in _compare(model("DistilBertModel"), task)
    assert "token_type_ids" in _compare(model("BertModel"), task)
    assert "token_type_ids" not in _compare(model("BertModel", type_vocab_size=1), task)


def test_a_graph_without_token_types_reads_every_token_as_one_of_the_first_text(
    model: Make,
) -> None:
    names = _compare(model("BertModel"), "feature-extraction", token_types=False)
    assert names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("size", [{"vocab_size": 7}, {"max_position_embeddings": 6}])
def test_a_model_that_is_smaller_than_the_traced_example(model: Make, size: dict[str, int]) -> None:
    assert trace_model(model("BertModel", **size), task="feature-extraction")


def test_token_types_follow_the_tokenizer(model: Make, tokenizer: TextTokenizer) -> None:
    """Clients feed what it returns, so a graph that needs more would not run."""
    without = replace(tokenizer, gives_token_types=False)
    assert takes_token_types(model("BertModel"), tokenizer)
    assert not takes_token_types(model("BertModel"), without)
    assert not takes_token_types(model("BertModel", type_vocab_size=1), tokenizer)
    assert not takes_token_types(model("DistilBertModel"), tokenizer)


def test_tracing_leaves_the_model_as_it_was(model: Make) -> None:
    source = model("DistilBertModel")
    before = source.config._attn_implementation
    weights = trace_model(source, task="feature-extraction").graph.initializers
    assert source.config._attn_implementation == before != TRACED
    traced = weights["embeddings.word_embeddings.weight"].const_value
    assert traced is not None
    own = source.embeddings.word_embeddings.weight.numpy()
    assert np.shares_memory(traced.numpy(), own), "a copy would double the memory"
