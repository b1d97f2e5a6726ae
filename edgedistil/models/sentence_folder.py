"""Writes what turns a model folder into a sentence-transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save_file
from torch import nn

from edgedistil.core.rundir import write_json
from edgedistil.core.sentence_modules import MODULES_FILE
from edgedistil.core.sentence_vector import (
    POOLING_SWITCHES,
    SETTINGS_FILE,
    Pooling,
    SentenceVector,
    Step,
    read_module_settings,
)
from edgedistil.models.sentence_encoder import (
    WEIGHT_PREFIXES,
    WEIGHTS_FILE,
    SentenceEncoder,
    step_layers,
)

# Names that every version of sentence-transformers imports.
_CLASSES = "sentence_transformers.models"
_STEP_CLASSES = {"dense": "Dense", "layer_norm": "LayerNorm", "normalize": "Normalize"}
_FUNCTIONS = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
}


def write_sentence_folder(folder: Path, encoder: SentenceEncoder, *, max_length: int) -> None:
    """Writes modules, their weights, prompts and similarity next to a saved model.

    Args:
        folder: Holds the encoder's backbone already.
        encoder: The encoder.
        max_length: Tokens that a text is truncated to.
    """
    vector = encoder.vector
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    width = encoder.backbone.config.hidden_size
    _write_settings(folder / "1_Pooling", _pooling_settings(vector.pooling, width))
    for step, layer in zip(vector.steps, step_layers(encoder.head), strict=True):
        name = _STEP_CLASSES[step.kind]
        path = f"{len(modules)}_{name}"
        modules.append((path, name))
        if layer is not None:
            _write_layer(folder / path, step, layer)
    _write_modules(folder, modules)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}
    )
    write_json(folder / SETTINGS_FILE, _settings(vector))


def describe_folder(folder: Path, vector: SentenceVector) -> None:
    """Adds pooling and prompts to a model folder that does not say them itself.

    Args:
        folder: A model folder, with or without modules.json.
        vector: How its model makes sentence vectors.
    """
    if not (folder / MODULES_FILE).is_file():
        _write_settings(folder / "1_Pooling", _pooling_settings(vector.pooling, vector.dimension))
        _write_modules(folder, [("", "Transformer"), ("1_Pooling", "Pooling")])
    # Keys that we do not know stay, such as the versions that wrote the folder.
    path = folder / SETTINGS_FILE
    stored = read_module_settings(path) if path.is_file() else {}
    write_json(path, {**stored, **_settings(vector)})


def _settings(vector: SentenceVector) -> dict[str, Any]:
    return {
        "prompts": dict(vector.prompts),
        "default_prompt_name": vector.default_prompt,
        "similarity_fn_name": vector.similarity,
    }


def _write_modules(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """Writes modules.json; a module is its path and the name of its class."""
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"{_CLASSES}.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    write_json(folder / MODULES_FILE, entries)


def _pooling_settings(modes: Sequence[Pooling], width: int) -> dict[str, Any]:
    switches = {POOLING_SWITCHES[mode]: mode in modes for mode in get_args(Pooling)}
    return {"word_embedding_dimension": width, **switches, "include_prompt": True}


def _write_layer(folder: Path, step: Step, layer: nn.Module) -> None:
    if step.kind == "dense":
        settings: dict[str, Any] = {
            "in_features": step.inputs,
            "out_features": step.outputs,
            "bias": step.has_bias,
            "activation_function": _FUNCTIONS[step.activation],
        }
    else:
        settings = {"dimension": step.inputs}
    _write_settings(folder, settings)
    tensors = {
        f"{WEIGHT_PREFIXES[step.kind]}{name}": tensor.detach().cpu().contiguous()
        for name, tensor in layer.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS_FILE)


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir()
    write_json(folder / "config.json", settings)
