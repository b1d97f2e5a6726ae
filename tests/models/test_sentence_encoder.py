"""Sentence vectors: every pooling mode and layer against formulas written out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from edgedistil.core.errors import ModelError
from edgedistil.models.sentence_encoder import load_sentence_encoder, pool

WIDTH = 16
PACKAGE = "sentence_transformers.models."


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def modules(*names: str) -> list[dict[str, Any]]:
    entries = [{"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}Transformer"}]
    for index, name in enumerate(names, start=1):
        path = f"{index}_{name}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"{PACKAGE}{name}"})
    return entries


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT with first-token pooling, a dense layer, a layer norm and normalization."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(tmp_path)
    write(tmp_path / "modules.json", modules("Pooling", "Dense", "LayerNorm", "Normalize"))
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True}
    write(tmp_path / "1_Pooling/config.json", pooling)
    dense = {
        "in_features": WIDTH,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write(tmp_path / "2_Dense/config.json", dense)
    weights = {"linear.weight": torch.randn(6, WIDTH), "linear.bias": torch.randn(6)}
    save_file(weights, tmp_path / "2_Dense/model.safetensors")
    write(tmp_path / "3_LayerNorm/config.json", {"dimension": 6})
    norm = {"norm.weight": torch.rand(6) + 0.5, "norm.bias": torch.randn(6)}
    save_file(norm, tmp_path / "3_LayerNorm/model.safetensors")
    return tmp_path


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two texts of 5 and 3 tokens."""
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
    return ids, (ids != 0).long()


def test_all_layers_follow_the_pooling(folder: Path) -> None:
    encoder = load_sentence_encoder(folder)
    ids, mask = batch()
    with torch.no_grad():
        states, vectors = encoder(ids, mask)
    dense, norm = encoder.head[0], encoder.head[2]
    hidden = torch.tanh(states[:, 0] @ dense.weight.T + dense.bias)
    centred = hidden - hidden.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    expected = centred / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(vectors, expected)
    assert encoder.vector.dimension == 6 and encoder.vector.is_normalized
    assert encoder.vector.in_words() == (
        "first token → dense layer 16 to 6, tanh → layer normalization → L2 normalization"
    )


def test_pooling_modes() -> None:
    torch.manual_seed(0)
    states = torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    short = states[1, :3]
    weights = torch.tensor([1.0, 2.0, 3.0])[:, None]
    expected = {
        "cls": short[0],
        "max": short.max(0).values,
        "mean": short.mean(0),
        "mean_sqrt_len": short.sum(0) / 3**0.5,
        "weightedmean": (short * weights).sum(0) / 6,
        "lasttoken": short[2],
    }
    for mode, vector in expected.items():
        torch.testing.assert_close(pool(states, mask, (mode,))[1], vector)
    both = pool(states, mask, ("cls", "mean"))[1]
    torch.testing.assert_close(both, torch.cat([expected["cls"], expected["mean"]]))


def test_the_last_token_of_texts_padded_on_the_left() -> None:
    states = torch.randn(1, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1]])
    torch.testing.assert_close(pool(states, mask, ("lasttoken",))[0], states[0, 3])


def test_padding_changes_no_vector(folder: Path) -> None:
    encoder = load_sentence_encoder(folder)
    ids, mask = batch()
    with torch.inference_mode():
        padded = encoder(ids, mask)[1][1]
        alone = encoder(ids[1:, :3], mask[1:, :3])[1][0]
    torch.testing.assert_close(padded, alone)


def test_a_shorter_vector_is_cut_and_normalized(folder: Path) -> None:
    encoder = load_sentence_encoder(folder)
    ids, mask = batch()
    with torch.inference_mode():
        complete = encoder(ids, mask)[1]
        encoder.vector = encoder.vector.truncated(4)
        cut = encoder(ids, mask)[1]
    torch.testing.assert_close(cut, torch.nn.functional.normalize(complete[:, :4], dim=1))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    save_file({"linear.weight": torch.randn(5, WIDTH)}, folder / "2_Dense/model.safetensors")
    with pytest.raises(ModelError, match=r"2_Dense.*\(5, 16\).*expected.*\(6, 16\)"):
        load_sentence_encoder(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_sentence_encoder(folder)
