"""A small teacher with head and tokenizer, a text, and a recipe over them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from edgedistil.core.recipe import Recipe, parse_recipe

WORDS = [f"word{letter}{number}" for letter in "abcdefg" for number in range(11)]


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """613 lines in which a word depends on the previous one, so that a model can learn it."""
    draw = random.Random(7)
    lines = []
    for _ in range(613):
        place = draw.randrange(len(WORDS))
        line = []
        for _ in range(draw.randrange(13, 41)):
            place = (place * 3 + draw.randrange(3)) % len(WORDS)
            line.append(WORDS[place])
        lines.append(" ".join(line))
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 4 layers, hidden 28, with its MLM head."""
    folder = tmp_path_factory.mktemp("teacher")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=28,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=44,
        max_position_embeddings=67,
        initializer_range=0.2,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_recipe(tiny_text: Path, tiny_teacher: Path) -> Callable[..., Recipe]:
    """`tiny_recipe(train={"steps": 5})`: the small recipe with some sections changed."""

    def make(**sections: Any) -> Recipe:
        data: dict[str, Any] = {
            "name": "small",
            "teacher": {"source": str(tiny_teacher)},
            "student": {"dropout": 0.1},
            "corpus": {"sources": [{"files": str(tiny_text)}], "block_length": 23},
            "loss": {},
            "train": {
                "steps": 11,
                "global_batch": 6,
                "micro_batch": 3,
                "precision": "float32",
                "heldout_tokens": 500,
            },
        }
        for section, values in sections.items():
            if isinstance(values, dict) and section in data:
                data[section] = {**data[section], **values}
            else:
                data[section] = values
        return parse_recipe(data, where="test")

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small corpora do not go into the user's cache."""
    monkeypatch.setenv("EDGEDISTIL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
