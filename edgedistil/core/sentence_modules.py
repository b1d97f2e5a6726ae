"""Modules of a sentence-transformers folder, as its modules.json lists them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgedistil.core.errors import ModelError

MODULES_FILE = "modules.json"
# A normalization has no files: packages, git and the hub drop its empty folder. Dropout does
# nothing outside of training.
_WITHOUT_FILES = frozenset({"Normalize", "Dropout"})


@dataclass(frozen=True)
class SentenceModule:
    """One entry of modules.json.

    Attributes:
        name: Its name.
        path: Its folder below the model's; empty for the model's folder itself.
        type: Dotted name of its class.
    """

    name: str
    path: str
    type: str

    @property
    def class_name(self) -> str:
        return self.type.rpartition(".")[2]

    @property
    def is_transformer(self) -> bool:
        return self.class_name == "Transformer"

    @property
    def needs_files(self) -> bool:
        """Whether the module computes with files of its own folder."""
        return self.class_name not in _WITHOUT_FILES


def read_modules(folder: Path) -> list[SentenceModule]:
    """Returns the modules of a sentence-transformers folder, in order; empty without modules.json.

    Raises:
        ModelError: modules.json is corrupt, names a folder outside of the model's, or a class that
            is not sentence-transformers' own.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError(type(entries).__name__)
        modules = [
            SentenceModule(str(entry["name"]), str(entry["path"]), str(entry["type"]))
            for entry in entries
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{path} is corrupt: expected a list of modules with name, path and type",
            hint="copy or download it again",
        ) from error
    for module in modules:
        _check_module(module, path)
    return modules


def _check_module(module: SentenceModule, path: Path) -> None:
    """Raises ModelError if a module is outside of the folder or needs code of the model."""
    parts = PurePosixPath(module.path).parts
    if module.path.startswith("/") or ".." in parts:
        raise ModelError(f"{path}: module '{module.name}' is outside of the folder: {module.path}")
    if not module.type.startswith("sentence_transformers."):
        raise ModelError(
            f"{path}: module '{module.name}' is of type {module.type}, which is code of the model; "
            "supported: modules of sentence-transformers",
            hint="the code is not run, and without it the vectors would be others",
        )


def find_transformer(folder: Path) -> Path:
    """Returns the folder of config.json and weights: `folder`, or its Transformer module's.

    Older sentence-transformers folders keep the model in a subfolder, such as `0_Transformer`.
    """
    if (folder / "config.json").is_file():
        return folder
    for module in read_modules(folder):
        subfolder = folder / module.path
        if module.is_transformer and (subfolder / "config.json").is_file():
            return subfolder
    return folder
