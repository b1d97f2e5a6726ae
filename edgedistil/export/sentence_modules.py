"""The sentence-transformers side of a package: modules, their weights, prompts and similarity.

A sentence vector is what the last module returns. A package that lacks a module of its source, or
has another pooling, gives other vectors without any error, so modules are copied completely or the
export is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.errors import ModelError
from edgedistil.core.fetch import UNSAFE_WEIGHT_SUFFIXES
from edgedistil.core.rundir import write_bytes, write_json
from edgedistil.core.sentence_modules import MODULES_FILE, SentenceModule, read_modules

POOLING_FOLDER = "1_Pooling"
# Prompts, similarity function and default prompt of a model.
SETTINGS_FILE = "config_sentence_transformers.json"
# Names of classes that every version of sentence-transformers imports.
_TRANSFORMER_CLASS = "sentence_transformers.models.Transformer"
_POOLING_CLASS = "sentence_transformers.models.Pooling"
# Files of a module that a package needs; weights only in safetensors.
_MODULE_FILES = ("config.json", "*.safetensors")
# File pattern → what it holds, for parts of a folder that no export contains.
_OTHER_PARTS = {
    "model_head.*": "a classification head outside of the model (SetFit's is a pickle)",
    "adapter_model.*": "weights of an adapter, which has to be merged into the model first",
    "*.py": "code of the model's own",
}


def write_sentence_modules(
    folder: Path, source_folder: Path, *, hidden: int, max_length: int
) -> bool:
    """Copies the source's modules into a package; without them, writes mean pooling.

    A normalization that the source does not have is not added
    (docs/decisions.md#encoders-are-readable-by-sentence-transformers).

    Args:
        folder: The package; its model is in the folder itself.
        source_folder: The source, with modules.json if it is a sentence-transformers folder.
        hidden: Width of the hidden states, for mean pooling.
        max_length: Tokens that a text is truncated to.
    Returns:
        Whether the pooling is a guess because the source does not say.
    Raises:
        ModelError: A module's files are missing, corrupt, or not in safetensors.
    """
    modules = read_modules(source_folder)
    transformers = [module for module in modules if module.is_transformer]
    settings = [source_folder / SETTINGS_FILE]
    for module in transformers:
        settings += sorted((source_folder / module.path).glob("sentence_*_config.json"))
    for path in settings:
        if path.is_file():
            write_bytes(folder / path.name, path.read_bytes())
    if not modules:
        _write_mean_pooling(folder, hidden=hidden, max_length=max_length)
        return True
    for module in modules:
        if not module.is_transformer:
            _copy_module(folder, source_folder, module)
    write_json(folder / MODULES_FILE, _packaged_modules(modules))
    return False


def _packaged_modules(modules: Sequence[SentenceModule]) -> list[dict[str, Any]]:
    """Content of a package's modules.json: the model is in the folder itself."""
    return [
        {
            "idx": index,
            "name": module.name,
            "path": "" if module.is_transformer else module.path,
            "type": module.type,
        }
        for index, module in enumerate(modules)
    ]


def _copy_module(folder: Path, source_folder: Path, module: SentenceModule) -> None:
    own = source_folder / module.path
    files = [path for pattern in _MODULE_FILES for path in sorted(own.glob(pattern))]
    unsafe = [path.name for path in own.glob("*") if path.suffix in UNSAFE_WEIGHT_SUFFIXES]
    if unsafe and not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(
            f"module {module.class_name} of {source_folder} has its weights in "
            f"{module.path}/{unsafe[0]} only; expected safetensors",
            hint="without its weights the vectors would be others. If you trust the file, load the "
            "model with sentence-transformers and save it again: it then writes safetensors",
        )
    for path in files:
        write_bytes(folder / module.path / path.name, path.read_bytes())


def _write_mean_pooling(folder: Path, *, hidden: int, max_length: int) -> None:
    modules = [
        SentenceModule("0", "", _TRANSFORMER_CLASS),
        SentenceModule("1", POOLING_FOLDER, _POOLING_CLASS),
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    transformer = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / MODULES_FILE, _packaged_modules(modules))
    write_json(folder / POOLING_FOLDER / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", transformer)


def omitted_parts(source_folder: Path) -> list[str]:
    """Describes the parts of a model folder that a package does not contain.

    The files are listed, never opened: some are pickles.
    """
    parts = []
    for pattern, meaning in _OTHER_PARTS.items():
        names = sorted(path.name for path in source_folder.glob(pattern) if path.is_file())
        if names:
            parts.append(f"{', '.join(names)}: {meaning}")
    return parts
