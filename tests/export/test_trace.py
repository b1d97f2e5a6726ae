from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from transformers import PreTrainedModel

from edgedistil.core.task import TASKS
from edgedistil.export.passes import Shape, run_passes, standard_passes
from edgedistil.export.trace import TRACED, trace

CASES = [
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


def finished(model: PreTrainedModel, task: str, *, drop_token_types: bool = False) -> ir.Model:
    token_types = model.config.model_type == "bert"
    graph = trace(model, task=task, token_types=token_types)
    shape = Shape.of(graph, model.config)
    run_passes(
        graph, standard_passes(shape, token_types=token_types, drop_token_types=drop_token_types)
    )
    return graph


def session(graph: ir.Model) -> ort.InferenceSession:
    return ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def feeds(opened: ort.InferenceSession, B: int, L: int, vocabulary: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(B * 1000 + L)
    mask = np.ones((B, L), np.int64)
    mask[0, max(1, L // 2) :] = 0
    all_of = {
        "input_ids": rng.integers(5, vocabulary, (B, L)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (B, L)),
    }
    return {each.name: all_of[each.name] for each in opened.get_inputs()}


@pytest.mark.parametrize(("name", "task"), CASES)
def test_shapes_that_were_not_traced_answer_like_pytorch(model, name: str, task: str) -> None:
    source = model(name)
    opened = session(finished(source, task))
    assert [each.name for each in opened.get_outputs()] == list(TASKS[task].outputs)
    for B, L in SHAPES:
        given = feeds(opened, B, L, source.config.vocab_size)
        with torch.no_grad():
            expected = source(**{key: torch.from_numpy(value) for key, value in given.items()})
        for got, output in zip(opened.run(None, given), TASKS[task].outputs, strict=True):
            want = expected[output].numpy()
            attended = (
                given["attention_mask"] == 1
                if want.ndim > 1 and want.shape[1:2] == (L,)
                else slice(None)
            )
            np.testing.assert_allclose(
                got[attended], want[attended], atol=2e-5, err_msg=f"{output} at {B} x {L}"
            )


def test_axes_are_named_and_inputs_are_standard(model) -> None:
    graph = finished(model("BertForMaskedLM"), "fill-mask").graph
    assert {value.name: [str(d) for d in value.shape] for value in graph.inputs} == {
        name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert [str(d) for d in graph.outputs[0].shape][:2] == ["batch", "sequence"]


def test_token_types_can_be_left_out_and_then_every_token_is_of_segment_a(model) -> None:
    source = model("BertModel")
    opened = session(finished(source, "feature-extraction", drop_token_types=True))
    assert [each.name for each in opened.get_inputs()] == ["input_ids", "attention_mask"]
    given = feeds(opened, 3, 7, source.config.vocab_size)
    with torch.no_grad():
        want = source(
            **{key: torch.from_numpy(value) for key, value in given.items()}
        ).last_hidden_state.numpy()
    attended = given["attention_mask"] == 1
    np.testing.assert_allclose(opened.run(None, given)[0][attended], want[attended], atol=2e-5)


def test_tracing_leaves_the_model_as_it_was(model) -> None:
    source = model("DistilBertModel")
    before = source.config._attn_implementation
    weights = trace(source, task="feature-extraction", token_types=False).graph.initializers
    assert source.config._attn_implementation == before != TRACED
    name = "embeddings.word_embeddings.weight"
    own = source.embeddings.word_embeddings.weight.numpy()
    assert np.shares_memory(weights[name].const_value.numpy(), own), (
        "a copy would double the memory"
    )
