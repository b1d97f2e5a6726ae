"""A small sentence-transformers teacher and recipes over it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BertModel

from edgedistil.core.recipe import Recipe

# Distinct prime widths: of the states, and of the vectors behind the dense layer.
HIDDEN, DIMENSION = 28, 19
TRACED = ("step", "loss", "vector", "gradient_norm", "learning_rate", "tokens")


def sentence_teacher(tiny_teacher: Path, folder: Path, *, pooling: str = "mean") -> Path:
    """A BERT without MLM head, with pooling, a dense layer, normalization and prompts."""
    shutil.copytree(tiny_teacher, folder)
    BertModel.from_pretrained(tiny_teacher, add_pooling_layer=False).save_pretrained(folder)
    classes = ["Transformer", "Pooling", "Dense", "Normalize"]
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(classes, paths, strict=True))
    ]
    files: dict[str, Any] = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, "pooling_mode": pooling},
        "2_Dense/config.json": {
            "in_features": HIDDEN,
            "out_features": DIMENSION,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": "worda1 ", "document": "wordb2 wordb3 "},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": {"max_seq_length": 31, "do_lower_case": False},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    torch.manual_seed(11)
    weights = {"linear.weight": torch.randn(DIMENSION, HIDDEN), "linear.bias": torch.randn(19)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


def sentence_recipe(tiny_recipe: Callable[..., Recipe], folder: Path, /, **sections: Any) -> Recipe:
    """The small recipe over a sentence teacher, without dropout, so that traces are comparable."""
    data: dict[str, Any] = {
        "teacher": {"source": str(folder)},
        "student": {"dropout": 0.0},
        "corpus": {"sentence_share": 0.5},
        "train": {"heldout_tokens": 600},
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    return tiny_recipe(**data)
