"""The sentence-transformers side of a package: modules, their weights, prompts and similarity.

A sentence vector is what the last module returns. A package that lacks a module of its source, or
has another pooling, gives other vectors without any error, so modules are copied completely or the
export is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistil.core.echo import echo
from edgedistil.core.errors import ModelError
from edgedistil.core.fetch import UNSAFE_WEIGHT_SUFFIXES
from edgedistil.core.regular_file import read_regular
from edgedistil.core.rundir import write_bytes, write_json
from edgedistil.core.sentence_modules import (
    MODULES_FILE,
    SentenceModule,
    find_transformer,
    read_modules,
)
from edgedistil.core.sentence_vector import (
    POOLING_SWITCHES,
    SETTINGS_FILE,
    SentenceVector,
    read_max_length,
    read_module_settings,
    transformer_settings,
)
from edgedistil.core.task import ENCODER_TASK
from edgedistil.core.tokenizer import read_tokenizer
from edgedistil.core.weight_headers import read_header

POOLING_FOLDER = "1_Pooling"
# Names of classes that every version of sentence-transformers imports.
_CLASSES_OF = "sentence_transformers.models"
# Files of a module that a package needs, at any depth; weights only in safetensors.
_MODULE_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
# Class of a module → its settings, and whether it has weights. Classes that are not listed are
# copied as they are.
_CLASSES: dict[str, tuple[str, bool]] = {
    "Pooling": ("config.json", False),
    "Dense": ("config.json", True),
    "LayerNorm": ("config.json", True),
    "LSTM": ("lstm_config.json", True),
    "CNN": ("cnn_config.json", True),
    "WordWeights": ("config.json", False),
    "Asym": ("config.json", False),
    "Router": ("router_config.json", False),
}
_COPY_HINT = "copy or download the folder again, with its subfolders"
# Parts that no export contains. Each is recognised by files that the hub's copy of a folder has
# too, so that both give the same card: pickles and code are never downloaded.
_SETFIT_HEAD = "model_head.pkl: a classification head outside of the model (SetFit's)"
_ADAPTER = "adapter_model: weights of an adapter, which has to be merged into the model first"
_SETFIT_CARD = re.compile(rb"^(library_name:|-)\s*setfit\s*$", re.MULTILINE)
_UNUSED_SETTINGS = (
    f"{SETTINGS_FILE}: prompts and similarity, which sentence-transformers reads only next to "
    f"{MODULES_FILE}"
)
_OWN_CODE = "code of the model's own (auto_map), which is not run"


def check_modules(folder: Path) -> None:
    """Checks that a package can contain every module of a sentence-transformers folder.

    Raises:
        ModelError: A module is missing, damaged or not supported, or has no safe weights.
    """
    modules = read_modules(folder)
    if not modules:
        return
    path = folder / MODULES_FILE
    if not modules[0].is_transformer or sum(module.is_transformer for module in modules) != 1:
        names = ", ".join(echo(module.class_name) for module in modules)
        raise ModelError(
            f"{path} lists the modules {names}; supported: one Transformer, and it is the first"
        )
    for module in modules[1:]:
        _check_module(folder, module)
    read_max_length(folder)
    settings = folder / SETTINGS_FILE
    if settings.is_file():
        read_module_settings(settings)


def _check_module(folder: Path, module: SentenceModule) -> None:
    """Raises ModelError if a module behind the Transformer lacks what it computes with."""
    if not module.needs_files:
        return
    own = folder / module.path
    subject = f"module {echo(module.class_name)} of {folder}"
    if not module.path.strip("./") or not own.is_dir():
        raise ModelError(
            f"{subject} has no folder of its own: {folder / MODULES_FILE} names "
            f"'{echo(module.path)}'",
            hint=_COPY_HINT,
        )
    _check_weights(own, subject)
    config, has_weights = _CLASSES.get(module.class_name, ("", False))
    if config:
        settings = read_module_settings(own / config)
        if module.class_name == "Pooling":
            _check_pooling(own / config, settings)
    if has_weights and not list(own.glob("*.safetensors")):
        raise ModelError(f"{subject} has no weights: {own} has no *.safetensors", hint=_COPY_HINT)


def _check_weights(own: Path, subject: str) -> None:
    """Raises ModelError if weights in a module's folder are damaged or only in a pickle."""
    for path in sorted(own.rglob("*")):
        if path.suffix == ".safetensors":
            read_header(path)
        is_unsafe = path.suffix in UNSAFE_WEIGHT_SUFFIXES
        if is_unsafe and not list(path.parent.glob("*.safetensors")):
            raise ModelError(
                f"{subject} has its weights in {path.relative_to(own.parent)} only; "
                "expected safetensors",
                hint="without its weights the vectors would be others. If you trust the file, load "
                "the model with sentence-transformers and save it again: it then writes "
                "safetensors",
            )


def _check_pooling(path: Path, settings: Mapping[str, Any]) -> None:
    """Raises ModelError if every pooling mode is switched off."""
    # Older files have a switch for each mode, and the mean is on where its switch is missing.
    if "pooling_mode" in settings or settings.get("pooling_mode_mean_tokens", True):
        return
    if not any(value is True for key, value in settings.items() if key.startswith("pooling_mode_")):
        raise ModelError(f"{path} switches every pooling mode off; expected at least one")


def write_sentence_modules(
    folder: Path, source_folder: Path, vector: SentenceVector | None, *, max_length: int
) -> None:
    """Copies the source's modules into a package; without them, writes those of the vector.

    A normalization that nothing asks for is not added
    (docs/decisions.md#encoders-are-readable-by-sentence-transformers).

    Args:
        folder: The package; its model is in the folder itself.
        source_folder: The source, with modules.json if it is a sentence-transformers folder.
        vector: How the package makes vectors; None where the source's modules are not supported in
            a graph.
        max_length: Tokens that a text is truncated to.
    Raises:
        ModelError: modules.json is corrupt. Check the modules before, with `check_modules`.
    """
    modules = read_modules(source_folder)
    if not modules:
        assert vector is not None, "without modules nothing is unsupported"
        modules = _write_stated_modules(folder, vector, max_length=max_length)
    else:
        for path in (source_folder / SETTINGS_FILE, *transformer_settings(source_folder)):
            if path.is_file():
                write_bytes(folder / path.name, path.read_bytes())
        for module in modules:
            if not module.is_transformer and module.path.strip("./"):
                _copy_module(folder, source_folder / module.path, module.path)
    # Shorter vectors need one more module, at the end.
    if vector is not None and vector.cut_from is not None:
        modules += _write_cut(folder, len(modules), cut_from=vector.cut_from, to=vector.dimension)
    write_json(folder / MODULES_FILE, _packaged_modules(modules))


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


def _copy_module(folder: Path, own: Path, name: str) -> None:
    """Copies a module's folder, with the modules in it, to the same name in a package."""
    for path in sorted(own.rglob("*")):
        if path.is_file() and path.suffix in _MODULE_SUFFIXES:
            write_bytes(folder / name / path.relative_to(own), path.read_bytes())


def _write_stated_modules(
    folder: Path, vector: SentenceVector, *, max_length: int
) -> list[SentenceModule]:
    """Writes the modules of a vector that the source's folder does not describe; returns them."""
    modules = [
        SentenceModule("0", "", f"{_CLASSES_OF}.Transformer"),
        SentenceModule("1", POOLING_FOLDER, f"{_CLASSES_OF}.Pooling"),
    ]
    # Without its switch the mean is on, in every version.
    switches = {"pooling_mode_mean_tokens": False}
    switches |= {POOLING_SWITCHES[mode]: True for mode in vector.pooling}
    width = vector.cut_from or vector.dimension
    settings = {"word_embedding_dimension": width, **switches}
    write_json(folder / POOLING_FOLDER / "config.json", settings)
    transformer = {"max_seq_length": max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", transformer)
    # What a user states has no other step.
    modules += [_normalization(2) for _ in vector.steps]
    return modules


def _normalization(number: int) -> SentenceModule:
    return SentenceModule(str(number), f"{number}_Normalize", f"{_CLASSES_OF}.Normalize")


def _write_cut(folder: Path, number: int, *, cut_from: int, to: int) -> list[SentenceModule]:
    """Writes the modules that cut a vector: sentence-transformers has none, but a dense layer.

    Args:
        folder: The package.
        number: Number of the first module.
        cut_from: Width of the vector.
        to: Values that are left.
    """
    name = f"{number}_Cut"
    settings = {
        "in_features": cut_from,
        "out_features": to,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / name / "config.json", settings)
    # Imported here, because `edgedistil inspect` imports this module and computes nothing.
    import numpy as np
    from safetensors.numpy import save

    # A product with ones and zeros is exact.
    weights = {"linear.weight": np.eye(to, cut_from, dtype=np.float32)}
    write_bytes(folder / name / "model.safetensors", save(weights))
    dense = SentenceModule(str(number), name, f"{_CLASSES_OF}.Dense")
    return [dense, _normalization(number + 1)]


def omitted_parts(source_folder: Path, *, has_modules: bool) -> list[str]:
    """Describes the parts of a model folder that a package does not contain.

    The files are listed, never opened: some are pickles.

    Args:
        source_folder: The folder.
        has_modules: Whether the package contains the modules of sentence-transformers.
    """
    signs = {
        _SETFIT_HEAD: _has_setfit_head(source_folder),
        _ADAPTER: any(source_folder.glob("adapter_*.*")),
        _OWN_CODE: _has_own_code(source_folder),
    }
    parts = [part for part, is_there in signs.items() if is_there]
    modules = read_modules(source_folder)
    if has_modules and not modules and (source_folder / SETTINGS_FILE).is_file():
        parts.append(_UNUSED_SETTINGS)
    if modules and not has_modules:
        names = [module.class_name for module in modules if not module.is_transformer]
        parts.append(
            f"{MODULES_FILE}: sentence vectors ({', '.join(names)}), which belong to "
            f"--task {ENCODER_TASK}"
        )
    # sentence-transformers applies it before any tokenizer, and no other client does.
    settings = transformer_settings(source_folder) if has_modules else []
    lower = [path for path in settings if read_module_settings(path).get("do_lower_case") is True]
    if lower and not _lowers(source_folder):
        parts.append(
            f"{lower[0].name}: do_lower_case. sentence-transformers converts every text to lower "
            "case; the tokenizer does not, so other clients have to"
        )
    return parts


def _lowers(folder: Path) -> bool:
    """Whether the tokenizer converts texts to lower case."""
    normalizer = read_tokenizer(find_transformer(folder)).backend.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def _has_setfit_head(folder: Path) -> bool:
    if (folder / "config_setfit.json").is_file() or any(folder.glob("model_head.*")):
        return True
    card = folder / "README.md"
    # Older versions of SetFit write no config of their own, and name themselves in the card.
    return card.is_file() and bool(_SETFIT_CARD.search(read_regular(card, limit_bytes=2**24)))


def _has_own_code(folder: Path) -> bool:
    config = find_transformer(folder) / "config.json"
    return config.is_file() and "auto_map" in read_module_settings(config)
