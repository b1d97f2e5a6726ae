"""A saved sentence encoder gives the same vectors when its folder is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import BertConfig, BertModel

from edgedistil.core.sentence_vector import Pooling, SentenceVector, Step
from edgedistil.models.quiet import quiet
from edgedistil.models.sentence_encoder import SentenceEncoder, load_sentence_encoder, new_head
from edgedistil.models.sentence_folder import write_sentence_folder

HIDDEN, DENSE = 22, 13


def encoder(pooling: tuple[Pooling, ...], steps: tuple[Step, ...]) -> SentenceEncoder:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=61,
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=26,
        max_position_embeddings=37,
    )
    widths = [step.outputs for step in steps if step.outputs]
    vector = SentenceVector(
        pooling=pooling,
        steps=steps,
        dimension=widths[-1] if widths else HIDDEN * len(pooling),
        prompts={"query": "find: ", "document": ""},
        default_prompt="document",
        similarity="dot",
    )
    head = new_head(steps)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return SentenceEncoder(BertModel(config, add_pooling_layer=False), vector, head).eval()


def saved(folder: Path, original: SentenceEncoder) -> SentenceEncoder:
    with quiet():
        original.backbone.save_pretrained(folder)
    write_sentence_folder(folder, original, max_length=31)
    return load_sentence_encoder(folder)


def assert_equal(original: SentenceEncoder, loaded: SentenceEncoder) -> None:
    ids_BL = torch.arange(1, 22).view(3, 7)
    mask_BL = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 2 + [0] * 5])
    with torch.no_grad():
        assert torch.equal(original(ids_BL, mask_BL)[1], loaded(ids_BL, mask_BL)[1])


@pytest.mark.parametrize("mode", get_args(Pooling))
def test_every_pooling_is_read_again(tmp_path: Path, mode: Pooling) -> None:
    original = encoder((mode,), (Step("normalize"),))
    loaded = saved(tmp_path / "model", original)
    assert loaded.vector.pooling == (mode,)
    assert_equal(original, loaded)


def test_every_step_is_read_again(tmp_path: Path) -> None:
    steps = (
        Step("layer_norm", inputs=2 * HIDDEN, outputs=2 * HIDDEN),
        Step("dense", inputs=2 * HIDDEN, outputs=DENSE, has_bias=True, activation="gelu"),
        Step("dense", inputs=DENSE, outputs=17, has_bias=False, activation="identity"),
        Step("normalize"),
    )
    original = encoder(("cls", "mean"), steps)
    loaded = saved(tmp_path / "model", original)
    assert loaded.vector.in_words() == original.vector.in_words()
    assert loaded.vector.dimension == 17
    assert_equal(original, loaded)


def test_prompts_similarity_and_length_are_read_again(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "model", encoder(("mean",), ()))
    assert loaded.vector.prompt("query") == "find: " and loaded.vector.prompt("document") == ""
    assert loaded.vector.similarity == "dot" and loaded.vector.max_length == 31
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling"]
