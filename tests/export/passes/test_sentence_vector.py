"""The sentence vector inside the graph, against the torch module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step
from edgedistil.core.task import SENTENCE_OUTPUT
from edgedistil.export.passes import run_standard_passes
from edgedistil.export.passes.sentence_vector import append_sentence_vector
from edgedistil.export.trace import trace_model
from edgedistil.models.sentence_encoder import SentenceEncoder, pool

WIDTH = 16
LENGTHS = (1, 2, 5, 9)


@pytest.fixture(scope="module")
def backbone() -> BertModel:
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=60,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def vector_of(*pooling: Pooling, steps: tuple[Step, ...] = ()) -> SentenceVector:
    width = WIDTH * len(pooling)
    for step in steps:
        width = step.outputs or width
    return SentenceVector(pooling=pooling, steps=steps, dimension=width)


def check(encoder: SentenceEncoder, folder: Path, *, tolerance: float = 2e-6) -> np.ndarray:
    """Compares graph and module on padded batches; returns the largest absolute difference."""
    graph = trace_model(encoder.backbone, task="feature-extraction")
    run_standard_passes(graph, encoder.backbone.config)
    weights = {name: tensor.numpy() for name, tensor in encoder.head.state_dict().items()}
    append_sentence_vector(graph, encoder.vector, weights)
    path = folder / "model.onnx"
    ir.save(graph, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == ["last_hidden_state", SENTENCE_OUTPUT]
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for length in LENGTHS:
        ids = torch.randint(0, 60, (3, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1, (length + 1) // 2 :] = 0
        feeds = {
            "input_ids": ids.numpy(),
            "attention_mask": mask.numpy(),
            "token_type_ids": torch.zeros_like(ids).numpy(),
        }
        states, vectors = session.run(None, feeds)
        with torch.no_grad():
            expected_states, expected = encoder(ids, mask, torch.zeros_like(ids))
        np.testing.assert_allclose(states, expected_states, atol=2e-5)
        assert vectors.shape == (3, encoder.vector.dimension)
        worst = max(worst, float(np.abs(vectors - expected.numpy()).max()))
    assert worst < tolerance
    return worst


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken"]
)
def test_each_pooling_mode(backbone: BertModel, tmp_path: Path, pooling: Pooling) -> None:
    vector = vector_of(pooling, steps=(Step("normalize"),))
    check(SentenceEncoder(backbone, vector, head(vector)), tmp_path)


def test_several_modes_and_all_layers(backbone: BertModel, tmp_path: Path) -> None:
    steps = (
        Step("dense", inputs=2 * WIDTH, outputs=12, has_bias=True, activation="gelu"),
        Step("dense", inputs=12, outputs=8, activation="tanh"),
        Step("layer_norm", inputs=8, outputs=8),
        Step("normalize"),
    )
    vector = vector_of("cls", "mean", steps=steps)
    check(SentenceEncoder(backbone, vector, head(vector)), tmp_path)


def test_a_vector_that_is_cut(backbone: BertModel, tmp_path: Path) -> None:
    steps = (Step("dense", inputs=WIDTH, outputs=12, activation="relu"),)
    vector = vector_of("mean", steps=steps)
    encoder = SentenceEncoder(backbone, vector, head(vector))
    encoder.vector = vector.truncated(5)
    check(encoder, tmp_path)


def test_a_wrong_pooling_is_seen(backbone: BertModel, tmp_path: Path) -> None:
    vector = vector_of("mean")
    encoder = SentenceEncoder(backbone, vector, head(vector))

    def without_mask(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return pool(states, torch.ones_like(mask), ("mean",))

    encoder.vectors = without_mask  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        check(encoder, tmp_path)


def head(vector: SentenceVector) -> nn.Sequential:
    """The layers after the pooling, with random weights."""
    torch.manual_seed(9)
    functions = {"gelu": nn.GELU, "tanh": nn.Tanh, "relu": nn.ReLU, "identity": nn.Identity}
    layers: list[nn.Module] = []
    for step in vector.steps:
        if step.kind == "dense":
            layers.append(nn.Linear(step.inputs, step.outputs, bias=step.has_bias))
            layers.append(functions[step.activation]())
        elif step.kind == "layer_norm":
            norm = nn.LayerNorm(step.inputs)
            nn.init.normal_(norm.bias)
            layers.append(norm)
        else:
            layers.append(Normalize())
    return nn.Sequential(*layers).requires_grad_(False)


class Normalize(nn.Module):
    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return vectors / vectors.norm(dim=-1, keepdim=True)
