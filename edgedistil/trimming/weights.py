"""Writes a model folder with fewer rows in everything that has a row per token."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedConfig

from edgedistil.core.digests import MANIFEST
from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError
from edgedistil.core.model_folder import ModelFolder
from edgedistil.core.rundir import read_json_object, write_json
from edgedistil.core.sentence_modules import SentenceModule
from edgedistil.core.tokenizer import TextTokenizer
from edgedistil.core.tokenizer_files import TOKENIZER_FILES, declared_inputs, read_files
from edgedistil.core.tokenizer_save import save_tokenizer
from edgedistil.core.weight_headers import INDEX_FILE, weight_files
from edgedistil.models.loading import load_config
from edgedistil.models.quiet import quiet
from edgedistil.models.reduced import build_from_config

# Settings of sentence-transformers and of tokenizers next to a model; other files may depend on the
# vocabulary, as exported graphs do.
_COPIED = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "chat_template.jinja",
    "LICENSE",
)


def vocabulary_axes(source: ModelFolder) -> dict[str, int]:
    """Returns the axis along which each weight has a row per token, by the weight's name.

    Found by building the model's classes with two sizes of the vocabulary, without memory, and
    comparing the shapes: no list of names of every family's heads is needed.
    """
    config = load_config(source)
    classes: list[Any] = [AutoModel, AutoModelForMaskedLM]
    classes += [getattr(transformers, name, None) for name in source.architectures]
    axes: dict[str, int] = {}
    for model_class in classes:
        axes |= _axes_of_class(model_class, config)
    return axes


def _axes_of_class(model_class: Any, config: PreTrainedConfig) -> dict[str, int]:
    if model_class is None:
        return {}
    shapes = [_shapes(model_class, config, more_rows) for more_rows in (0, 1)]
    axes = {}
    for name, shape in shapes[0].items():
        changed = [axis for axis, size in enumerate(shape) if shapes[1][name][axis] != size]
        if changed:
            axes[name] = changed[0]
    return axes


def _shapes(
    model_class: Any, config: PreTrainedConfig, more_rows: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of a class's weights with so many rows more than the config says."""
    sizes = {**config.to_dict(), "vocab_size": config.vocab_size + more_rows}
    changed = type(config).from_dict(sizes)
    with torch.device("meta"), quiet():
        try:
            model = build_from_config(model_class, changed)
        # The family has no such head.
        except ValueError:
            return {}
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# --- writing -------------------------------------------------------------------------------------


def write_trimmed(
    source: ModelFolder, tokenizer: TextTokenizer, rows: Sequence[int], target: Path
) -> None:
    """Writes config, weights and tokenizer of a trimmed model into an existing folder.

    Args:
        source: The model before.
        tokenizer: The trimmed tokenizer.
        rows: Old id of each new id.
        target: The folder.
    Raises:
        ModelError: A weight has fewer rows than the tokenizer has ids.
    """
    axes = vocabulary_axes(source)
    vocabulary = source.family.vocabulary(source.config)
    index = torch.tensor(rows)
    for file in weight_files(source.folder):
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata()
        tensors = load_file(file)
        for name, tensor in tensors.items():
            axis = _axis_of(name, axes)
            # Some checkpoints have a bias of another length, which transformers ignores.
            if axis is not None and tensor.shape[axis] == vocabulary:
                tensors[name] = tensor.index_select(axis, index).contiguous()
        save_file(tensors, target / file.name, metadata=metadata or {"format": "pt"})
    if (source.folder / INDEX_FILE).is_file():
        _write_index(source.folder, target)
    write_json(target / "config.json", _trimmed_config(source, rows))
    _write_tokenizer(source, tokenizer, target)


def _axis_of(name: str, axes: Mapping[str, int]) -> int | None:
    """Axis of a stored weight, whose name may lack the model's prefix or have one more."""
    if name in axes:
        return axes[name]
    for known, axis in axes.items():
        if name.endswith(f".{known}") or known.endswith(f".{name}"):
            return axis
    return None


def _write_index(source: Path, target: Path) -> None:
    """Copies the index of several weight files, with the new size."""
    index = read_json_object(source / INDEX_FILE)
    size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    metadata = {**index["metadata"], "total_size": size}
    write_json(target / INDEX_FILE, {**index, "metadata": metadata})


def _trimmed_config(source: ModelFolder, rows: Sequence[int]) -> dict[str, Any]:
    """config.json with the new number of rows, and the new ids of the tokens that it names."""
    new_ids = {old: new for new, old in enumerate(rows)}
    config = read_json_object(source.folder / "config.json")
    for key, value in config.items():
        if key.endswith(("_token_id", "_token_index")) and type(value) is int:
            config[key] = new_ids.get(value)
        elif key.endswith("_token_ids") and isinstance(value, list):
            config[key] = [new_ids.get(number) for number in value]
    # A default of the class is an id of the vocabulary before.
    for key, value in source.config.items():
        if key.endswith("_token_id") and key not in config and type(value) is int:
            config[key] = new_ids.get(value)
    return {**config, source.family.keys.vocabulary: len(rows)}


def _write_tokenizer(source: ModelFolder, tokenizer: TextTokenizer, target: Path) -> None:
    family = source.family
    positions = family.positions_limit(source.config)
    takes_types = family.segments(source.config) > 1 and tokenizer.gives_token_types
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types else [])]
    save_tokenizer(
        tokenizer,
        target,
        class_name=tokenizer.class_name or family.tokenizer_class,
        input_names=declared_inputs(read_files(source.folder)) or names,
        max_length=min(tokenizer.max_length or positions, positions),
    )


def copy_other_files(package: Path, target: Path, modules: Sequence[SentenceModule]) -> list[str]:
    """Copies what belongs to a model and does not depend on its vocabulary.

    Args:
        package: The model's folder.
        target: Existing folder of the trimmed model.
        modules: Modules of sentence-transformers with a folder of their own.
    Returns:
        Names of files that were left out.
    Raises:
        ModelError: The folder of a module that needs files is missing.
    """
    for module in modules:
        own = package / module.path
        if own.is_dir():
            shutil.copytree(own, target / module.path, dirs_exist_ok=True)
        elif module.needs_files:
            raise ModelError(
                f"modules.json names the folder '{echo(module.path)}', which {package} lacks",
                hint="copy or download the folder again, with its subfolders",
            )
    left_out = []
    known = {*TOKENIZER_FILES, MANIFEST, "config.json", INDEX_FILE}
    for file in sorted(package.iterdir()):
        if file.name in _COPIED and file.is_file():
            shutil.copyfile(file, target / file.name)
        elif file.is_file() and file.name not in known and file.suffix != ".safetensors":
            left_out.append(file.name)
    return left_out
